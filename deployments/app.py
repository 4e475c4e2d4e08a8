"""The fused-generation application: all targets at one OpenAI-compatible address.

`serve run deployments.app:build_app config=configs/quickstart.yaml`, or `serve run deployments/serve.yaml`
"""

from pathlib import Path

from onceedit_ray.cluster.app import build_app
from onceedit_ray.cluster.serve import ServeArgs

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"

app = build_app(ServeArgs(config=CONFIG))
