"""How listing commands write for programs: one JSON value on standard output."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_json(action: argparse.ArgumentParser) -> None:
    """Give a command the option `--json`."""
    action.add_argument("--json", action="store_true", help="for programs")


def print_json(value: Any) -> None:
    """Write `value`, which JSON can hold."""
    print(json.dumps(value, indent=2, ensure_ascii=False))
