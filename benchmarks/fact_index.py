"""Finding edits, and storing them: `python -m benchmarks.fact_index --zsre FILE --counterfact FILE --general FILE`.

Compares this project's index of facts with SQLite's full-text search (FTS5, bm25) and, where it is installed,
LanceDB's: how often a rephrasing finds its edit among the first eight, how often general text finds anything, the time,
and the memory, for 10 to 9,000 edits. No engine indexes the rephrasings. A search engine needs a minimum score for a
hit; it is set on these same questions, as high as possible with 1 % less recall. DuckDB is left out: its full-text
search is an extension that no package index provides. The store is measured as well: the time of an edit's transaction.
One thread, processor time. Writes `fact_index.md`.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.ratios import RESULTS
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.records import replacing
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_index import FactIndex
from onceedit_ray.knowledge.fact_store import FactStore
from onceedit_ray.knowledge.prompt_files import read_prompts
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.selection import select
from onceedit_ray.knowledge.terms import content, terms, weight

SIZES = (10, 100, 1000, 9000)
QUESTIONS = 1000
LONG_TERMS = 8000
NAME = "fact_index"


class Engine(Protocol):
    """Finds edits. A higher score is better; `has_bar`: whether the engine has its own minimum score."""

    has_bar: bool

    def add(self, edits: Sequence[Edit]) -> None: ...

    def find(self, question: str) -> list[tuple[int, float]]: ...

    def bytes(self) -> int | None: ...


class Facts:
    """The index of this project."""

    has_bar = True

    def __init__(self) -> None:
        self._index = FactIndex(rephrasings=False)

    def add(self, edits: Sequence[Edit]) -> None:
        for number, edit in enumerate(edits):
            self._index.add(f"{number:06}", edit)

    def find(self, question: str) -> list[tuple[int, float]]:
        return [(int(found.id), found.score) for found in self._index.find(question)]

    def bytes(self) -> int | None:
        return None


class FullText:
    """SQLite's FTS5 over subject and prompt, with a query for any of the question's content words."""

    has_bar = False

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:")
        self._connection.execute("CREATE VIRTUAL TABLE f USING fts5(t, tokenize='unicode61 remove_diacritics 2')")

    def add(self, edits: Sequence[Edit]) -> None:
        rows = [(number, _searched(edit)) for number, edit in enumerate(edits)]
        self._connection.executemany("INSERT INTO f (rowid, t) VALUES (?, ?)", rows)

    def find(self, question: str) -> list[tuple[int, float]]:
        query = " OR ".join(f'"{word}"' for word in content(terms(question)))
        if not query:
            return []
        found = self._connection.execute("SELECT rowid, rank FROM f WHERE f MATCH ? ORDER BY rank LIMIT 8", (query,))
        return [(number, -rank) for number, rank in found]

    def bytes(self) -> int | None:
        pages, size = (self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages * size)


class Lance:
    """LanceDB's full-text index over the same text."""

    has_bar = False

    def __init__(self) -> None:
        import lancedb

        self._folder = tempfile.TemporaryDirectory()
        self._database: Any = lancedb.connect(self._folder.name)

    def add(self, edits: Sequence[Edit]) -> None:
        rows = [{"number": number, "t": _searched(edit)} for number, edit in enumerate(edits)]
        self._table = self._database.create_table("f", rows, mode="overwrite")
        self._table.create_fts_index("t", use_tantivy=False)

    def find(self, question: str) -> list[tuple[int, float]]:
        query = " ".join(content(terms(question)))
        if not query:
            return []
        found = self._table.search(query, query_type="fts").limit(8).to_list()
        return [(row["number"], row["_score"]) for row in found]

    def bytes(self) -> int | None:
        return sum(path.stat().st_size for path in Path(self._folder.name).rglob("*") if path.is_file())


ENGINES: dict[str, Callable[[], Engine]] = {"facts": Facts, "SQLite FTS5": FullText, "LanceDB": Lance}


@dataclass(frozen=True)
class Line:
    """One engine on one set. recall, first, open: shares; find, general: microseconds; long: milliseconds."""

    data: str
    edits: int
    engine: str
    recall: float
    first: float
    open: float
    candidates: float
    find: float
    general: float
    long: float
    megabytes: float

    def markdown(self) -> str:
        shares = f"{self.recall:.3f} | {self.first:.3f} | {self.open:.3f} | {self.candidates:.2f}"
        times = f"{self.find:.0f} | {self.general:.0f} | {self.long:.1f}"
        return f"| {self.data} | {self.edits:,} | {self.engine} | {shares} | {times} | {self.megabytes:.1f} |"


def measure(data: str, name: str, edits: Sequence[Edit], general: Sequence[str]) -> Line:
    """Measure one engine that holds `edits`, with their rephrasings and general text as queries."""
    engine, megabytes = built(name, edits)
    asked = [(number, text) for number, edit in enumerate(edits) for text in edit.rephrasings]
    asked = random.Random(0).sample(asked, min(QUESTIONS, len(asked)))
    found, find = timed(engine, [text for _, text in asked])
    other, elsewhere = timed(engine, general)
    ranks = [place_of(number, hits) for (number, _), hits in zip(asked, found, strict=True)]
    bar = 0.0
    if not engine.has_bar:
        right = sorted(
            dict(hits)[n] for (n, _), hits, rank in zip(asked, found, ranks, strict=True) if rank is not None
        )
        bar = right[len(right) // 100]
        found = [[hit for hit in hits if hit[1] >= bar] for hits in found]
        ranks = [place_of(number, hits) for (number, _), hits in zip(asked, found, strict=True)]
    kept = [sum(score >= bar for _, score in hits) for hits in other]
    text = " ".join(general)
    long_text = " ".join(text.split()[: int(LONG_TERMS * len(text.split()) / max(1, len(terms(text))))])
    _, long = timed(engine, [long_text] * 3)
    recall = sum(rank is not None for rank in ranks) / len(ranks)
    first = sum(rank == 0 for rank in ranks) / len(ranks)
    opened = sum(map(bool, kept)) / len(kept)
    candidates = sum(kept) / len(kept)
    return Line(data, len(edits), name, recall, first, opened, candidates, find, elsewhere, long / 1000, megabytes)


def built(name: str, edits: Sequence[Edit]) -> tuple[Engine, float]:
    """An engine that holds the edits, and its size in MB: Python's memory, or the database's own pages."""
    tracemalloc.start()
    engine = ENGINES[name]()
    engine.add(edits)
    weighed = engine.bytes() or tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return engine, weighed / 1e6


def timed(engine: Engine, texts: Sequence[str]) -> tuple[list[list[tuple[int, float]]], float]:
    """What each text finds, and the median processor time, in microseconds."""
    found, seconds = [], []
    for text in texts:
        started = time.process_time()
        found.append(engine.find(text))
        seconds.append(time.process_time() - started)
    return found, statistics.median(seconds) * 1e6


def place_of(number: int, hits: Sequence[tuple[int, float]]) -> int | None:
    """The rank of an edit among the hits; None if it is not there."""
    return next((place for place, (found, _) in enumerate(hits) if found == number), None)


def store_lines(edits: Sequence[Edit], sizes: Sequence[int]) -> list[str]:
    """Wall-clock milliseconds of the store's calls for each number of live edits, on the disk of the working folder."""
    lines = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=".") as folder, FactStore(Path(folder) / "facts.db") as store:
            bulk = clock(lambda store=store, size=size: store.add(edits[:size])) / min(size, len(edits))
            before = store.revision
            more = [Edit(prompt=f"What is the number of {n}?", target_new=f"{n}", subject=f"{n}") for n in range(50)]
            started = time.process_time()
            one = statistics.median(clock(lambda edit=edit, store=store: store.add([edit])) for edit in more)
            busy = (time.process_time() - started) / len(more) * 1e3
            follow = clock(lambda store=store, before=before: store.changes_since(before))
            live = clock(store.live)
            size_now = len(store)
        lines.append(f"| {size_now:,} | {one:.2f} | {busy:.2f} | {bulk:.3f} | {follow:.2f} | {live:.1f} |")
        print(lines[-1], flush=True)
    return lines


def clock(call: Callable[[], object]) -> float:
    """Milliseconds that a call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


def _searched(edit: Edit) -> str:
    return f"{edit.subject} {edit.prompt}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show and write the table."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{NAME}", description=(__doc__ or "").split("\n")[0])
    for name in ("zsre", "counterfact", "general"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of edits")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    general = read_prompts(options.general)
    weight("the")  # loads the table of words, 2 MB, before the memory of the first index is measured
    names = dict(ENGINES)
    absent: list[str] = []
    lines: list[Line] = []
    for data in ("zsre", "counterfact"):
        edits = select(read_edits(getattr(options, data)), on_conflict="first")
        for size in sorted({min(size, len(edits)) for size in options.sizes}):
            for name in list(names):
                try:
                    lines.append(measure(data, name, edits[:size], general))
                except ImportError:
                    absent.append(name)
                    del names[name]
                    continue
                print(lines[-1].markdown(), flush=True)
    stored = store_lines(edits, options.sizes)
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / f"{NAME}.md") as path:
        path.write_text(report(lines, stored, absent), encoding="utf-8")


def report(lines: Sequence[Line], stored: Sequence[str], absent: Sequence[str]) -> str:
    """The tables as Markdown."""
    command = f"python -m benchmarks.{NAME} --zsre FILE --counterfact FILE --general FILE"
    return (
        "\n".join(
            [
                f"Measured on {describe_machine()}, one thread of a machine shared with other work, by `{command}`.",
                "",
                "Recall and first: rephrasings whose edit is among eight, and the first. General: prompts of general "
                "text that find anything, and how many edits on average; some do name an edited subject. Search "
                "engines: with the bar that the benchmark describes. Long: a text of 8,000 terms.",
                "",
                "| data | edits | engine | recall@8 | first | general | edits found | µs a question "
                "| µs a general prompt | ms a long text | MB |",
                "|---|---|---|---|---|---|---|---|---|---|---|",
                *(line.markdown() for line in lines),
                "",
                "The store (SQLite, WAL, synchronous=FULL):",
                "",
                "| live edits | ms, one edit a transaction | of which processor | ms an edit, all in one "
                "| ms, the changes of 50 revisions | ms, all edits |",
                "|---|---|---|---|---|---|",
                *stored,
                *(f"\nNot installed, and not measured: {name}." for name in absent),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
