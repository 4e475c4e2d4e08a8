"""Where the tests find the optional real data."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ONCEEDIT_SHARED", ROOT.parent / "shared"))

needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"real data not found at {SHARED}; set ONCEEDIT_SHARED to run this test"
)
