"""The matrix of `docs/models.md`: `python -m benchmarks.model_matrix [--rows NAME ...] [--page FILE] [--keep FILE]`.

Builds a tiny random model of every row of `tests.model_settings` and tries it as a target, as a plug-in and under each
baseline (`benchmarks.model_trials`). Where something does not work, the page gives the line that a user sees. Each row
is kept in a file once it has been tried, so that an interrupted run continues with `--keep`. The exit code is 1 if a
model silently gives a wrong answer, or raises an error that is not one of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import transformers

from benchmarks.model_trials import BROKEN, REFUSED, WORKS, WRONG, Outcome, tried, try_baseline, try_plugin, try_target
from onceedit_ray.baselines import BASELINES
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.progress import Count, ProgressDisplay
from tests.model_settings import ROWS
from tests.model_types import build_row

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
COMMAND = "python -m benchmarks.model_matrix"
FAULTS = {WRONG: "**wrong**", BROKEN: "**error**"}
Line = tuple[str, list[Outcome]]
"""A row of the matrix, and its outcomes in the order of `columns`."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", default=ROWS, choices=ROWS, metavar="NAME")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="rows tried already; this run adds its own")
    options = parser.parse_args(arguments)
    progress = ProgressDisplay()
    found = _kept(options.keep)
    left = [row for row in options.rows if row not in found]
    with _processes(options.processes) as pool:
        for done in as_completed([pool.submit(line_of, row) for row in left]):
            row, outcomes = done.result()
            found[row] = outcomes
            if options.keep:
                with options.keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([row, [asdict(outcome) for outcome in outcomes]]) + "\n")
            progress(Count("models tried", len(found), len(options.rows), row))
    lines = [(row, found[row]) for row in options.rows]
    text = page(lines)
    with replacing(options.page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(figures(lines))
    return int(any(outcome.verdict in FAULTS for _, outcomes in lines for outcome in outcomes))


def _kept(file: Path | None) -> dict[str, list[Outcome]]:
    """The rows that an earlier run wrote into `file`."""
    if file is None or not file.is_file():
        return {}
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {row: [Outcome(**outcome) for outcome in outcomes] for row, outcomes in lines}


def columns() -> list[str]:
    """What is tried with every model."""
    return ["target", "plug-in", *BASELINES.names()]


def line_of(row: str) -> Line:
    """A row of the matrix: its model is built, tried and thrown away."""
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="onceedit-") as place:
        warnings.simplefilter("ignore")
        folder = build_row(row, Path(place) / re.sub(r"\W+", "-", row).strip("-"))
        trials = [partial(try_target, folder), partial(try_plugin, folder, Path(place) / "edited")]
        trials += [partial(try_baseline, name, folder, Path(place) / "cache" / name) for name in BASELINES.names()]
        outcomes = [tried(trial) for trial in trials]
    return row, [Outcome(each.verdict, each.reason.replace(str(folder), folder.name)) for each in outcomes]


def page(lines: Sequence[Line]) -> str:
    """The text of the page."""
    cells, reasons = _numbered(lines)
    rows = [[f"`{row}`", *own] for (row, _), own in zip(lines, cells, strict=True)]
    parts = [
        "# Models: what works",
        "A tiny random model of each family of transformers (hidden size 64, 2 to 4 layers) is built, and tried in "
        "every role. The measure is a plain pass of the network without a cache, once for every token.",
        "- **target**: four sessions decoded in one batch, texts scored, sessions cut back and forked: the greedy "
        "text is the same, probabilities differ by less than 0.001; the alignment reads the network's own embedding.\n"
        "- **plug-in**: two edits are trained for at most 25 epochs; the version, written and opened again, has "
        "the trained gate and answers with what was trained.\n"
        "- **each baseline**: a few steps of an edit change the loss of its answer; made twice it is the same; the "
        "edited model writes with a cache "
        "what it writes without one; it is undone to the bit. ROME and MEMIT minimise the loss of the whole rows.",
        "✓ works; a number: refused before any work, with [the line](#reasons) of this number. **wrong** and "
        "**error** would be faults of ours.",
        markdown_table(["family", *columns()], rows),
        "## Reasons",
        "Each line is that of the first model with its number; for other families it has their own names.",
        "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)) or "None.",
        "## Figures",
        figures(lines),
        "Made by this command, with transformers "
        f"{transformers.__version__} and torch {torch.__version__}; {describe_machine()}:",
        "<!-- not tried: it takes minutes; tests/unit/test_benchmark_models.py makes three of its rows, "
        "`make test-exhaustive` all -->",
        f"```\n{COMMAND}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def figures(lines: Sequence[Line]) -> str:
    """The counts of the page."""

    def number(verdicts: Sequence[str], which: slice = slice(None)) -> str:
        return str(sum(outcome.verdict in verdicts for _, outcomes in lines for outcome in outcomes[which]))

    def families(*verdicts: str) -> str:
        return str(sum(any(outcome.verdict in verdicts for outcome in outcomes) for _, outcomes in lines))

    rows = [
        ["families in the matrix", str(len(lines))],
        ["work as a target", number([WORKS], slice(0, 1))],
        ["work as a plug-in", number([WORKS], slice(1, 2))],
        ["pairs of family and baseline that work", number([WORKS], slice(2, None))],
        ["pairs of family and baseline that are refused before any work", number([REFUSED], slice(2, None))],
        ["families in the matrix that give a wrong answer silently", families(WRONG)],
        ["families in the matrix with an error that is not one line", families(BROKEN)],
    ]
    return markdown_table(["figure", "found"], rows, figures=1)


def _numbered(lines: Sequence[Line]) -> tuple[list[list[str]], list[str]]:
    """The cells of the table, and the reasons to which their numbers point."""
    numbers: dict[str, int] = {}
    reasons: list[str] = []
    cells = []
    for _, outcomes in lines:
        own = []
        for outcome in outcomes:
            if outcome.verdict == WORKS:
                own.append("✓")
                continue
            kind = _kind(outcome.reason)
            if kind not in numbers:
                numbers[kind] = len(numbers) + 1
                reasons.append(_escaped(outcome.reason))
            own.append(" ".join(filter(None, [FAULTS.get(outcome.verdict, ""), str(numbers[kind])])))
        cells.append(own)
    return cells, reasons


def _kind(reason: str) -> str:
    """A reason without the parts that belong to one model: its folder, classes, layers and figures."""
    kind = re.sub(r"^[\w-]+: ", "", reason)
    kind = re.sub(r"\w+For\w+|\w+LMHeadModel\w*|[\w.]+\.\d+[\w.]*", "…", kind)
    return re.sub(r"\d+(\.\d+)?", "#", kind)


def _escaped(reason: str) -> str:
    return re.sub(r"([*_<>|`])", r"\\\1", reason)


def _processes(number: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(number, get_context("spawn"), torch.set_num_threads, (1,))


if __name__ == "__main__":
    sys.exit(main())
