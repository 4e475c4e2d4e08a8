"""Options that the benchmarks share, and the folder of results: a short run never overwrites committed results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ratios import RESULTS
from onceedit_ray.config import RunConfig, load_config

QUICK_RESULTS = RESULTS / "quick"


def parser_for(name: str, about: str | None, quick_help: str) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.<name>`, to which a benchmark adds its own options. about: the module's
    docstring; help shows its first line. quick_help: help for `--quick`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(about or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=quick_help)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: benchmarks/results, or quick/ in it")
    return parser


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options in `arguments`, or on the command line; `results` is the folder for this run."""
    options = parser.parse_args(arguments)
    if options.results is None:
        options.results = QUICK_RESULTS if options.quick else RESULTS
    return options


def chosen_config(options: argparse.Namespace, last: int) -> RunConfig:
    """The run file of `options`, with the targets that `--targets` names, or with its last ones."""
    config = load_config(options.config)
    names = options.targets or list(config.targets)[-last:]
    return config.model_copy(update={"targets": {name: config.targets[name] for name in names}})
