"""Everything that the documents refer to exists: files, headings, paths in code, `make` targets, `onceedit` commands.

Also run alone by `make docs-check`. Knows nothing about whether what a document says is true.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ENVIRONMENTS, ROOT

HIDDEN = {".git", ".cache", ".pytest_cache", "results"} | ENVIRONMENTS
DOCUMENTS = sorted(
    [*(p for p in ROOT.rglob("*.md") if not HIDDEN & set(p.relative_to(ROOT).parts)), ROOT / "docs/results/README.md"]
)
PACKAGE = ROOT / "onceedit_ray"
SOURCES = sorted(path for folder in ("onceedit_ray", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```[^\n]*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
FOLDERS = r"(?:\.ci|benchmarks|configs|data|deployments|docs|examples|jobs|onceedit_ray|scripts|tests)"
PATH = re.compile(rf"(?<![\w./-]){FOLDERS}/[\w./-]*\w/?(?![\w*<{{])")
MAKE = re.compile(r"^(?:\$ )?make ([a-z][a-z-]*)", re.MULTILINE)
ONCEEDIT = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?onceedit ([a-z]+)", re.MULTILINE)

CODE_LINK = re.compile(r"\[`(?!\w+\.py`)([\w.]+)`\]\(([\w./-]+\.py)\)")
CITED = re.compile(r"\b(algorithm|metrics)\.md((?:,? §[\d.]+(?:-[\d.]+)?)*)")
SECTION = re.compile(r"§(\d+(?:\.\d+)?)(?:-(\d+(?:\.\d+)?))?")
EQUATIONS = (5, 6, 7, 8, 9, 10, 11, 15, 16)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of `text`."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path, root: Path) -> Iterator[str]:
    """The references of `document` to missing files and names under `root`, one phrase each."""
    text = document.read_text(encoding="utf-8")
    for link in LINK.findall(FENCE.sub("", text)):
        file, _, anchor = link.partition("#")
        target = (document.parent / file) if file else document
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists():
            yield f"link {link}"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"heading {link}"
    code = "\n".join(block or span for block, span in CODE.findall(text))
    yield from (f"path {path}" for path in PATH.findall(code) if not (root / path).exists())
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    yield from (f"make {name}" for name in MAKE.findall(code) if f"\n{name}:" not in makefile)
    for name in ONCEEDIT.findall(code):
        if f'"{name}"' not in (root / "onceedit_ray" / "cli.py").read_text(encoding="utf-8"):
            yield f"onceedit {name}"


def symbols(tree: ast.Module) -> set[str]:
    """The classes and functions of a module by dotted names; a class has the methods of its bases in that module."""
    found: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            own = {each.name for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            found[node.name] = own.union(*(found.get(base, set()) for base in bases))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = set()
    return set(found) | {f"{name}.{method}" for name, methods in found.items() for method in methods}


def lost_symbols(document: Path) -> Iterator[str]:
    """Links of the form [`symbol`](file.py) whose file or symbol is not there."""
    for symbol, file in CODE_LINK.findall(document.read_text(encoding="utf-8")):
        path = document.parent / file
        if not path.exists():
            yield f"{symbol}: no file {file}"
        elif symbol not in symbols(ast.parse(path.read_text(encoding="utf-8"))):
            yield f"{symbol}: not in {file}"


@cache
def sections(document: Path) -> set[str]:
    """The numbers of the numbered headings: "3" of "## 3. What", "3.1" of "### 3.1 The"."""
    text = document.read_text(encoding="utf-8")
    return set(re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", text, re.MULTILINE))


def lost_citations(text: str) -> Iterator[str]:
    """The sections of algorithm.md and metrics.md that `text` cites and that these pages lack."""
    for name, cited in CITED.findall(text):
        page = ROOT / "docs" / f"{name}.md"
        numbers = [number for pair in SECTION.findall(cited) for number in pair if number]
        if not page.exists():
            yield f"{name}.md"
        yield from (f"{name}.md §{number}" for number in numbers if number not in sections(page))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_points_to_exists(document: Path) -> None:
    assert list(broken(document, ROOT)) == []


def test_what_does_not_exist_is_found(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("\ndemo: venv\n")
    (tmp_path / "onceedit_ray").mkdir()
    (tmp_path / "onceedit_ray" / "cli.py").write_text('add_parser("edit")')
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# One thing, then `two`\n")
    document = tmp_path / "README.md"
    document.write_text(
        "[a](docs/a.md) [b](docs/b.md) [c](docs/a.md#one-thing-then-two) [d](docs/a.md#three) [e](https://x.org/y.md)\n"
        "`docs/a.md`, `docs/c.md`, `docs/<name>.md`, `make demo`\n"
        "```\nmake dmeo\nonceedit edit\nonceedit forget --all docs/d.yaml\n```\n"
    )
    assert list(broken(document, tmp_path)) == [
        "link docs/b.md",
        "heading docs/a.md#three",
        "path docs/c.md",
        "path docs/d.yaml",
        "make dmeo",
        "onceedit forget",
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_linked_symbol_is_in_its_file(document: Path) -> None:
    assert list(lost_symbols(document)) == []


def test_every_equation_of_the_paper_has_its_function() -> None:
    rows = [line for line in (ROOT / "docs/algorithm.md").read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    linked = [line.split("|")[1] for line in rows if CODE_LINK.search(line)]
    numbers = [tuple(map(int, re.findall(r"\d+", first.split(",")[0]))) for first in linked]
    covered = {number for ends in numbers if ends for number in range(ends[0], ends[-1] + 1)}
    assert set(EQUATIONS) <= covered
    ours = [first for first in linked if first.strip().startswith("ours:")]
    assert len(ours) >= 14 and sum("reader" in first or "selective" in first for first in ours) >= 4


def test_what_the_code_cites_is_in_the_pages() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in SOURCES if path != Path(__file__).resolve()}
    assert [f"{path.relative_to(ROOT)}: {lost}" for path, text in texts.items() for lost in lost_citations(text)] == []
    assert sum(len(CITED.findall(text)) for path, text in texts.items() if path.is_relative_to(PACKAGE)) >= 15


def test_a_lost_symbol_and_a_lost_citation_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("class Base:\n    def run(self): ...\n\nclass A(Base): ...\n\ndef f(): ...\n")
    document = tmp_path / "page.md"
    document.write_text("[`A.run`](a.py) [`f`](a.py) [`A.walk`](a.py) [`g`](a.py) [`f`](b.py) `f`\n")
    assert list(lost_symbols(document)) == ["A.walk: not in a.py", "g: not in a.py", "f: no file b.py"]
    cited = "algorithm.md §3.1, §3.99 and (algorithm.md §3.4-3.77, §4; metrics.md)"
    assert list(lost_citations(cited)) == ["algorithm.md §3.99", "algorithm.md §3.77"]
