"""The Ray Serve application by import path: `serve run onceedit_ray.cluster.app:build_app config=quickstart.yaml`."""
# No `from __future__ import annotations`: Ray Serve reads the builder's annotation as a class.

from ray.serve import Application

from onceedit_ray.cluster.serve import application
from onceedit_ray.cluster.serve_args import ServeArgs


def build_app(args: ServeArgs) -> Application:
    """The application from typed arguments."""
    return application(args)
