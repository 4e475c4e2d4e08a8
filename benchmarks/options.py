"""The options that the benchmarks share, and where their results go: a short run's never over those that are kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ratios import RESULTS

QUICK_RESULTS = RESULTS / "quick"


def parser_for(name: str, about: str | None, quick_help: str) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.<name>`, to which a benchmark adds options of its own.

    about: the module's docstring, of which help shows the first line. quick_help: what `--quick` makes shorter.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(about or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=quick_help)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: benchmarks/results, or quick/ in it")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options in `arguments`, or on the command line; `results` is where this run's go."""
    options = parser.parse_args(arguments)
    if options.results is None:
        options.results = QUICK_RESULTS if options.quick else RESULTS
    return options
