"""The fused-generation application: all targets at one OpenAI-compatible address.

`serve run deployments.app:build_app config=configs/quickstart.yaml`, or `serve run deployments/serve.yaml`
"""
# No `from __future__ import annotations`: Ray Serve reads the builder's annotation as a class.

from pathlib import Path

from ray.serve import Application

from onceedit_ray.cluster.serve import ServeArgs, application

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"


def build_app(args: ServeArgs) -> Application:
    """The application from typed arguments."""
    return application(args)


app = build_app(ServeArgs(config=CONFIG))
