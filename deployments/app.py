"""The fused-generation application: all targets at one OpenAI-compatible address.

`serve run deployments.app:build_app config=configs/quickstart.yaml`, or `serve run deployments/serve.yaml`
"""

from pathlib import Path

from ray.serve import Application

from onceedit_ray.cluster.app import build_app
from onceedit_ray.cluster.serve_args import ServeArgs

__all__ = ["build_app"]
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"


def __getattr__(name: str) -> Application:
    """`app`, for `serve build`, which takes no builder; made when it is asked for, since it looks for the version."""
    if name == "app":
        return build_app(ServeArgs(config=CONFIG))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
