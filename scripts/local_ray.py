"""Run one command with its own Ray: `python scripts/local_ray.py -- ray job submit ... -- python job.py`.

Starts a Ray on free ports of 127.0.0.1, waits until it takes jobs, runs the command with that Ray's address and token
in its environment, and always stops this Ray and no other; `ray stop` would stop every Ray of the machine. The exit
code is the command's. The script does not know what the command does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil

STARTUP_SECONDS = 120
SHUTDOWN_SECONDS = 15
HOST = "127.0.0.1"
PORT_OPTIONS = (
    "--port",
    "--dashboard-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--ray-client-server-port",
    "--metrics-export-port",
)


def free_ports(count: int) -> list[int]:
    """`count` different free ports of this machine."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind((HOST, 0))
        return [listener.getsockname()[1] for listener in sockets]


def environment(address: str) -> dict[str, str]:
    """The environment shared by the Ray behind `address` and by its clients: that of this process, with its own Python
    first, without the variables of another Ray, and with a secret token for this run."""
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN_PATH")}
    return env | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")]),
        "RAY_API_SERVER_ADDRESS": address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Without it Ray reads 127.0.0.1 as the public address of the machine and listens on every interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Nothing is served from this Ray, so there is no traffic to drain before it ends.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def local_ray() -> Iterator[dict[str, str]]:
    """A Ray of its own; yields the environment for its clients; stops all of its processes at the end.

    Raises:
        RuntimeError: it did not start; the message holds the last lines that it printed.
    """
    ports = dict(zip(PORT_OPTIONS, free_ports(len(PORT_OPTIONS)), strict=True))
    # Short, because Ray puts UNIX sockets under it and their paths are limited to about 100 bytes.
    temp_dir = Path(tempfile.mkdtemp(prefix="oe-", dir="/tmp"))
    log = temp_dir / "head.log"
    command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=true"]
    command += [f"--node-ip-address={HOST}", f"--dashboard-host={HOST}", f"--temp-dir={temp_dir}"]
    command += [f"{option}={port}" for option, port in ports.items()]
    env = environment(f"http://{HOST}:{ports['--dashboard-port']}")
    with log.open("wb") as output:
        # In its own session, so that Ctrl-C reaches only the command and the Ray is stopped in order, below.
        head = psutil.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_jobs_api(env, head, log)
        yield env
    finally:
        end(head)
        shutil.rmtree(temp_dir, ignore_errors=True)


def wait_for_jobs_api(env: dict[str, str], head: psutil.Popen, log: Path) -> None:
    """Return once the Ray of `env` answers a request for its jobs."""
    jobs = urllib.request.Request(
        f"{env['RAY_API_SERVER_ADDRESS']}/api/jobs/", headers={"Authorization": f"Bearer {env['RAY_AUTH_TOKEN']}"}
    )
    # Ignore the environment's proxies for the loopback address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if head.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError):
            opener.open(jobs, timeout=5).close()
            return
        time.sleep(0.25)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"Ray did not take jobs within {STARTUP_SECONDS} s; its last lines were:\n{tail}")


def end(head: psutil.Popen) -> None:
    """Ask the Ray of `head` to stop, and kill its remaining processes after `SHUTDOWN_SECONDS`."""
    for impatient in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(impatient, signal.SIG_IGN)
    tree = [head]
    # A job's driver and its watcher have their own sessions, so read the process tree while it is complete.
    with contextlib.suppress(psutil.NoSuchProcess):
        tree += head.children(recursive=True)
    with contextlib.suppress(psutil.NoSuchProcess):
        head.terminate()
    _, left = psutil.wait_procs(tree, timeout=SHUTDOWN_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)


def leave(signum: int, frame: FrameType | None) -> None:
    """On a termination signal: exit through the `finally` blocks, with the exit code that shells use."""
    sys.exit(128 + signum)


def main(arguments: list[str]) -> int:
    """Entry point; `arguments` are `-- COMMAND ...`."""
    if arguments[:1] != ["--"] or not arguments[1:]:
        print("usage: local_ray.py -- COMMAND ...", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGHUP, leave)
    started = time.monotonic()
    print("starting a local Ray ...", flush=True)
    try:
        with local_ray() as env:
            address = env["RAY_API_SERVER_ADDRESS"]
            print(f"Ray is up at {address} after {time.monotonic() - started:.0f} s", flush=True)
            return subprocess.run(arguments[1:], env=env, check=False).returncode
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
