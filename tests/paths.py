"""Where the tests find the repository's own files, and weights that were fetched."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
ENVIRONMENTS = {".venv", ".venv-clients", ".venv-engines"}
"""Folders of the checkout that `make` fills with packages of others."""
FETCHED_HOME = Path(os.environ.get("ONCEEDIT_HOME") or Path.home() / ".cache" / "onceedit")
"""The user's own home: it is read before the tests get a home of their own."""
