"""The commands that the pages show, and where each is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.paths import ROOT

PAGES = sorted(
    [ROOT / "README.md", ROOT / "examples/README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)
BLOCK = re.compile(r"(?:<!-- not tried: (?P<why>[^\n]+?) -->\n+)?^```(?P<kind>\w*)\n(?P<body>.*?)^```", re.M | re.S)
SHELL = ("sh", "bash", "shell")
PROGRAMS = r"(?:onceedit|make|pip|python|ray|serve|kubectl|docker|curl|git)"
RUN_BY = {
    "make venv": (".ci/run", "make venv"),
    "make demo": (".ci/run", "step demo make demo"),
    "make serve": ("Makefile", "$(BIN)/onceedit serve --config $(CONFIG) --playground"),
    "make test": (".ci/run", "step tests make test"),
    "make test-unit": ("Makefile", "test: test-unit test-ray"),
    "make test-ray": ("Makefile", "test: test-unit test-ray"),
    "pip install onceedit-ray[serve,plots]": ("scripts/stranger.sh", '"${wheels[0]}[serve]"'),
    "pip install onceedit-ray[playground]": ("Makefile", "-e '.[serve,plots,playground,dev]'"),
    "onceedit init": ("scripts/stranger.sh", "onceedit init"),
    "onceedit demo": ("scripts/demo.sh", "onceedit demo"),
    "onceedit playground --url": ("tests/browser/page_process.py", '"playground", "--url"'),
    ". .venv/bin/activate": ("Makefile", "$(PYTHON) -m venv $(VENV)"),
    "ray job submit --working-dir . -- python jobs/edit_and_eval.py --config configs/quickstart.yaml": (
        "scripts/demo.sh",
        "ray job submit --working-dir . -- python jobs/edit_and_eval.py --config",
    ),
}
"""What runs the commands that begin so: a file of CI, and the words that stand in it."""
RUN_HERE = ("onceedit", "curl", "python")
"""What the commands begin with that `tests/ray/test_documented_commands.py` runs."""


class Shown(NamedTuple):
    """A command of a page. why: the reason for which its block is not tried, "" if it must be."""

    page: str
    words: list[str]
    why: str

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"[:100]

    @property
    def line(self) -> str:
        return " ".join(self.words)

    @property
    def run_by(self) -> tuple[str, str] | None:
        """The file that runs it and the words in it; None if none of `RUN_BY` does."""
        found = [where for words, where in RUN_BY.items() if f"{self.line} ".startswith(f"{words} ")]
        return found[0] if found else None


def shown(page: Path) -> Iterator[Shown]:
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["kind"] not in SHELL and not (block["kind"] == "" and re.match(rf"{PROGRAMS} ", block["body"])):
            continue
        for line in block["body"].replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield Shown(page.relative_to(ROOT).as_posix(), words, block["why"] or "")


COMMANDS = [command for page in PAGES for command in shown(page)]
