"""What the documents point to exists: linked files and headings, paths in code, `make` targets, `onceedit` commands.

Also run alone by `make docs-check`. Knows nothing about whether what a document says is true.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

HIDDEN = {".git", ".venv", ".cache", ".pytest_cache", "results"}
DOCUMENTS = sorted(p for p in ROOT.rglob("*.md") if not HIDDEN & set(p.relative_to(ROOT).parts))

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```[^\n]*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
FOLDERS = r"(?:\.ci|benchmarks|configs|deployments|docs|examples|jobs|onceedit_ray|scripts|tests)"
PATH = re.compile(rf"(?<![\w./-]){FOLDERS}/[\w./-]*\w/?(?![\w*<{{])")
MAKE = re.compile(r"^(?:\$ )?make ([a-z][a-z-]*)", re.MULTILINE)
ONCEEDIT = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?onceedit ([a-z]+)", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of `text`."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path, root: Path) -> Iterator[str]:
    """What `document` points to under `root` and is not there, one phrase each."""
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
