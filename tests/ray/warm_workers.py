"""Worker processes of Ray that start in a fraction of a second: forks of one process that has imported everything.

Ray starts each worker as a new Python, which imports Ray, torch and transformers: 6 to 12 s of one core, and most of
what the Ray tests would take. With `warm_workers`, Ray is given an interpreter that asks a process with those modules
(the zygote) for a fork, and passes on its arguments, environment, folder, files and mounts; it is Python for all else.
A worker runs the same code. `onceedit serve`, its tests and the demo start workers without it. Needs Linux.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tests.paths import ROOT
from tests.ray.own_mounts import join_mounts

WORKER = "default_worker.py"
"""What Ray runs as a worker that has no runtime environment of its own."""
IMPORTED = (
    "accelerate", "transformers.generation", "transformers.modeling_utils", "transformers.models.llama.modeling_llama",
    "onceedit_ray.fusion.system", "onceedit_ray.living.build_version", "onceedit_ray.living.live_facts",
    "onceedit_ray.serving.any_target", "onceedit_ray.serving.ingress", "aiohttp", "grpc", "opentelemetry.sdk.metrics",
)  # fmt: skip
"""Not Ray: it connects to nothing in a fork of a process that has imported it."""
INTERPRETER = """\
#!{python} -ISE
import os, socket, sys
if len(sys.argv) < 2 or not sys.argv[1].endswith("{worker}"):
    os.execv("{python}", ["{interpreter}", *sys.argv[1:]])
import array, json
files = array.array("i", [0, 1, 2, os.open("/proc/self/ns/mnt", os.O_RDONLY)])
asked = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
with socket.socket(socket.AF_UNIX) as zygote:
    zygote.connect("{address}")
    zygote.sendmsg([len(asked).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    zygote.sendall(asked)
    sys.exit(int(zygote.recv(8) or b"1"))  # nothing comes if the worker was killed
"""
COLD = sys.executable
"""Python itself, for tests of whole process trees: forks are no descendants of what asked for them."""


@contextlib.contextmanager
def warm_workers(folder: Path) -> Iterator[None]:
    """While the block runs, Rays have such workers if this process, or a Python that it runs, starts them.

    `sys.executable` is an environment like the present one, made in `folder`, with the interpreter above.
    """
    python, interpreter, address = sys.executable, folder / "bin" / "python", str(folder / "zygote")
    interpreter.parent.mkdir()
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    (folder / "pyvenv.cfg").write_bytes((Path(sys.prefix) / "pyvenv.cfg").read_bytes())
    interpreter.write_text(INTERPRETER.format(python=python, interpreter=interpreter, worker=WORKER, address=address))
    interpreter.chmod(0o755)
    command = [python, "-m", "tests.ray.warm_workers", address]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # no threads before the fork
    zygote = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    assert zygote.stdin is not None and zygote.stdout is not None
    try:
        assert zygote.stdout.readline() == b"ready\n", "the process with the imported modules could not be started"
        sys.executable = str(interpreter)
        yield
    finally:
        sys.executable = python
        zygote.stdin.close()  # it ends when this is closed; also if this process is killed
        zygote.wait()


def _zygote(address: str) -> None:
    for module in IMPORTED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # pages with objects stay shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    assert threading.active_count() == 1, "a fork would run one of the threads only"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        os.write(1, b"ready\n")
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _worker(connection)
            connection.close()


def _worker(interpreter: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    files = array.array("i")
    length, sent, _, _ = interpreter.recvmsg(8, socket.CMSG_SPACE(4 * files.itemsize))
    files.frombytes(sent[0][2])
    with interpreter.makefile("rb") as told:
        arguments, environment, folder = json.loads(told.read(int.from_bytes(length, "big")))
    join_mounts(files.pop())
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_ends_with, args=(interpreter,), daemon=True).start()
    code = 1
    try:
        searched = environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.argv, sys.path[:1] = arguments, [str(Path(arguments[0]).parent), *filter(None, searched)]
        runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            interpreter.sendall(str(code).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ends_with(interpreter: socket.socket) -> None:
    interpreter.recv(1)
    os._exit(1)


if __name__ == "__main__":
    _zygote(sys.argv[1])
