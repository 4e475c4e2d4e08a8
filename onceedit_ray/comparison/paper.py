"""The numbers printed in the paper, by table (`data/paper_tables.yaml`); reports show them beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

PaperRow = tuple[float | None, ...]
_ANY = "all"  # the data set of a table for which the paper names none


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper.

    title, scoring, plugin, records: descriptions for the reader. targets: their names. rows: by data set and label;
    the printed numbers, left to right.
    """

    number: int
    title: str
    scoring: str
    plugin: str
    records: str
    targets: tuple[str, ...]
    rows: Mapping[str, Mapping[str, PaperRow]]

    def of(self, dataset: str) -> Mapping[str, PaperRow]:
        """The rows for a data set; empty if the paper has no such data set."""
        return self.rows.get(dataset, self.rows.get(_ANY, {}))


def paper_table(number: int | None) -> PaperTable | None:
    """The paper's table with that number, or None if its numbers are not in the file."""
    text = resources.files("onceedit_ray.comparison").joinpath("data", "paper_tables.yaml").read_text("utf-8")
    tables: dict[int, dict[str, Any]] = yaml.safe_load(text)
    if number not in tables:
        return None
    fields = tables[number]
    return PaperTable(
        number=number,
        title=fields["title"],
        scoring=fields["scoring"],
        plugin=fields["plugin"],
        records=fields["records"],
        targets=tuple(fields["targets"]),
        rows={
            dataset: {label: tuple(values) for label, values in rows.items()}
            for dataset, rows in fields["rows"].items()
        },
    )
