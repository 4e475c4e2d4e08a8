"""A benchmark's table of ratios of times, printed as they are measured, and written as Parquet and Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Line:
    """One line of the table: the median ratio over `rounds`, its least and greatest; `goal` is in words."""

    figure: str
    median: float
    least: float
    greatest: float
    rounds: int
    goal: str
    machine: str


class Ratios:
    """The lines of one run, on this machine."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.skipped: list[str] = []
        self.machine = describe_machine()

    def record(self, figure: str, goal: str, ratios: Sequence[float]) -> None:
        """Keep and show a figure."""
        line = Line(figure, statistics.median(ratios), min(ratios), max(ratios), len(ratios), goal, self.machine)
        self.lines.append(line)
        print(f"{line.figure:78} {line.median:9.3f}  [{line.least:.3f}, {line.greatest:.3f}]  {goal}", flush=True)

    def skip(self, line: str) -> None:
        """Keep and show why a figure was not measured."""
        self.skipped.append(line)
        print(line, flush=True)

    def write(self, folder: Path, name: str, command: str) -> None:
        """Write `<name>.parquet` and `<name>.md` into `folder`, each whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f"{name}.parquet") as path:
            pq.write_table(pa.Table.from_pylist([asdict(line) for line in self.lines]), path)
        with replacing(folder / f"{name}.md") as path:
            path.write_text(self._markdown(command), encoding="utf-8")
        print(f"\nwritten: {folder / name}.parquet, {folder / name}.md")

    def _markdown(self, command: str) -> str:
        header = ["figure", "median", "least", "greatest", "rounds", "goal"]
        rows = [
            [
                each.figure,
                *(f"{ratio:.3f}" for ratio in (each.median, each.least, each.greatest)),
                str(each.rounds),
                each.goal,
            ]
            for each in self.lines
        ]
        lines = [f"Measured on {self.machine} by `{command}`.", "", markdown_table(header, rows)]
        return "\n".join([*lines, *(f"\n{line}." for line in self.skipped)]) + "\n"
