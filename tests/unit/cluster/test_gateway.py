"""A replica of the gateway has no model: what it imports decides how long it takes to start."""

from __future__ import annotations

import subprocess
import sys

from tests.paths import ROOT


def test_it_imports_no_library_of_models() -> None:
    check = "import sys, onceedit_ray.cluster.gateway; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "set()"
