"""`onceedit serve`: the application in a Ray of this process. It prints a few lines until it serves, then a line of
JSON for each request; Ray's own messages go to the session's logs.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil
import ray
from ray import serve
from ray.exceptions import RayError

from onceedit_ray.cluster.command_output import shared_output
from onceedit_ray.cluster.fleet import COORDINATOR_CPUS
from onceedit_ray.cluster.own_processes import first_dead, ray_processes
from onceedit_ray.cluster.serve import APP_NAME, WATCH_SECONDS, bound
from onceedit_ray.cluster.serve_args import ServeArgs
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import answering_version, own_version
from onceedit_ray.editing.served_run import run_of
from onceedit_ray.errors import ModelError
from onceedit_ray.fusion.engine_check import check_engines
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.models.engines.start import try_servers
from onceedit_ray.progress import Progress
from onceedit_ray.serving.engine_keys import EngineKeys
from onceedit_ray.serving.keys import ADMIN_KEYS_VARIABLE, EDIT_KEYS_VARIABLE, check_binding, read_keys
from onceedit_ray.serving.listening import free_port

OURS = re.compile(r"onceedit_ray\.errors\.\w+: (.+)")
"""An error of ours at the end of a replica's traceback."""


def serve_here(
    args: ServeArgs,
    host: str,
    port: int,
    progress: Progress = print,
    beside: contextlib.AbstractContextManager[None] | None = None,
    metrics_port: int | None = None,
) -> None:
    """Serve in a Ray of this process until the process is interrupted or terminated.

    The context `beside` is entered when the server answers, and left before the server ends. metrics_port: where Ray
    exports the metrics; None takes a free port.

    Raises the errors of a wrong run file, version, key or port before Ray is started, and `ModelError` if the models
    cannot be loaded or Ray dies: then the command must be started again.
    """
    check_binding(host, read_keys(args.keys_file))
    read_keys(args.edit_keys_file, EDIT_KEYS_VARIABLE)
    read_keys(args.admin_keys_file, ADMIN_KEYS_VARIABLE)
    EngineKeys(args.engine_keys)
    port = free_port(host, port)
    if metrics_port is not None:
        metrics_port = free_port("127.0.0.1", metrics_port, "--metrics-port")
    config = run_of(args.config, args.servers)
    check_engines(config)
    try_servers(config.served_targets, progress)
    own = args.version or own_version(config, open_store(), progress).id
    served = answering_version(config, args.version, own)
    told_to_end = threading.Event()

    def end_at_once(number: int, frame: FrameType | None) -> None:
        told_to_end.set()  # Python ignores an exception in some places, such as hooks of a fork
        raise KeyboardInterrupt

    with shared_output(progress) as output, _own_ray(_cpus(config, args.coordinators), metrics_port) as own_ray:
        signal.signal(signal.SIGTERM, end_at_once)  # `ray.init` sets its own; loading may take minutes
        try:
            with _ended_by_death(own_ray):
                serve.start(http_options={"host": host, "port": port})
                serve.run(bound(args, config, own, output), name=APP_NAME)
        except (RuntimeError, RayError) as error:
            raise ModelError(f"the server could not be started: {_reason(error)}; logs: {own_ray.logs}") from None
        signal.signal(signal.SIGTERM, lambda number, frame: told_to_end.set())
        progress(f"metrics: {own_ray.metrics}  logs: {own_ray.logs}")
        progress(f"serving {served.id} at http://{host}:{port}/v1; Ctrl-C ends it")
        with beside or contextlib.nullcontext():
            while not told_to_end.wait(WATCH_SECONDS):
                if own_ray.dead is not None:
                    raise _died(own_ray)


class _Ray:
    """The Ray that this command starts. logs: the folder of its log files. metrics: where Prometheus reads them."""

    def __init__(self, cpus: float, metrics_port: int | None) -> None:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        context = ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
            log_to_driver=False,
            logging_level=logging.ERROR,
            _metrics_export_port=metrics_port,
        )
        self._began_with = psutil.Process().children(recursive=True)
        self._processes = ray_processes(self._began_with)
        self.logs = Path(context.address_info["session_dir"]) / "logs"
        (node,) = ray.nodes()
        self.metrics = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    @property
    def dead(self) -> str | None:
        """The name of the first of its essential processes that has died; None while all run."""
        return first_dead(self._processes)

    def kill(self) -> None:
        """End what is left of it: `ray.shutdown` would wait for some of it, and would leave Ray's agents behind."""
        for process in {*self._began_with, *psutil.Process().children(recursive=True)}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.contextmanager
def _ended_by_death(own_ray: _Ray) -> Iterator[None]:
    """While the block runs in the main thread, a death of Ray ends it: its calls of Ray may wait for ever."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(WATCH_SECONDS):
            if own_ray.dead is not None:
                _thread.interrupt_main()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except BaseException:
        if own_ray.dead is not None:
            raise _died(own_ray) from None
        raise
    finally:
        over.set()


def _died(own_ray: _Ray) -> ModelError:
    return ModelError(f"Ray's {own_ray.dead} has died, so nothing answers any more; start the command again")


@contextlib.contextmanager
def _own_ray(cpus: float, metrics_port: int | None) -> Iterator[_Ray]:
    # A thread of Ray's prints what the raylet reports: on standard output, where each line is to be a request's.
    with contextlib.redirect_stdout(sys.stderr):
        own_ray = _Ray(cpus, metrics_port)
        try:
            yield own_ray
        finally:
            # While it shuts down, it reports every actor that ends as an error.
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                if own_ray.dead is None:
                    serve.shutdown()
                else:  # it would never answer the call
                    own_ray.kill()
                ray.shutdown()


def _cpus(config: RunConfig, coordinators: int) -> float:
    """The CPUs reserved by all actors while a version is built and then loaded beside the active one.

    Reservations only decide what may run at the same time: a machine with fewer cores works too, only slower.
    """
    models = [config.plugin, config.plugin, *config.loaded_targets.values()]
    further = (coordinators - 1) * COORDINATOR_CPUS
    return sum(model.num_cpus for model in models) + config.living.num_cpus + further + 1.0


def _reason(error: BaseException) -> str:
    """Why the application did not start, as one line: what its replicas raised, else the end of Ray's own messages."""
    told = [str(error)]
    with contextlib.suppress(Exception):  # a Ray that has died reports nothing more
        deployments = serve.status().applications[APP_NAME].deployments.values()
        told = [*(each.message for each in deployments if OURS.search(each.message)), *told]
    if found := OURS.findall(told[0]):
        return str(found[-1])
    lines = [line.strip() for line in told[0].splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
