"""The HTTP ingress of the Ray Serve application. It has no model: its replicas import no PyTorch and start quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve

from onceedit_ray.cluster.command_output import output_stream
from onceedit_ray.cluster.remote_backend import RemoteBackend
from onceedit_ray.cluster.serve_args import ServeArgs
from onceedit_ray.cluster.telemetry import Metrics
from onceedit_ray.serving.engine_keys import EngineKeys
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import ADMIN_KEYS_VARIABLE, EDIT_KEYS_VARIABLE, read_keys
from onceedit_ray.serving.observing import Observer
from onceedit_ray.serving.request_log import RequestLog

SMALL = {"num_cpus": 0.1}
"""The CPUs that a replica reserves: no replica does much work."""


class Gateway:
    """The HTTP ingress over the fleet of `models`.

    engine_keys: the secrets that added targets may use. output: as for `bound`.
    """

    def __init__(self, models: Any, args: ServeArgs, engine_keys: EngineKeys, output: Path | None = None) -> None:
        self._backend = RemoteBackend(models)
        self._limits = args.limits
        self._engine_keys = engine_keys
        self._observers: list[Observer] = [
            Metrics(),
            *([RequestLog(output_stream(output))] if args.request_log else []),
        ]
        self._keys = read_keys(args.keys_file)  # read here, so that no key is stored with the application's settings
        self._edit_keys = read_keys(args.edit_keys_file, EDIT_KEYS_VARIABLE)
        self._admin_keys = read_keys(args.admin_keys_file, ADMIN_KEYS_VARIABLE)

    def __serve_build_asgi_app__(self) -> Any:
        return build_ingress(
            self._backend, self._limits, self._keys, self._edit_keys, self._observers, behind_proxy=True,
            admin_keys=self._admin_keys, engine_keys=self._engine_keys,
        )  # fmt: skip


GatewayDeployment = serve.deployment(ray_actor_options=SMALL)(serve.ingress()(Gateway))
