"""Where the tests find the repository's own files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
ENVIRONMENTS = {".venv", ".venv-clients", ".venv-engines"}
"""Folders of the checkout that `make` fills with packages of others."""
