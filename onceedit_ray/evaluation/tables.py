"""Tables of text, for Markdown and for the terminal, through `tabulate`.

The cells contain texts of models and users, so every text is escaped: none can break the table.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from tabulate import DataRow, TableFormat, tabulate
from wcwidth import wcswidth

from onceedit_ray.extras import has_extra

_CELL = 120
"""Characters of a text shown in a Markdown cell."""
_ROW = DataRow("| ", " | ", " |")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], figures: int = 0) -> str:
    """A Markdown table; its last `figures` columns are aligned right.

    Cells are not padded to the same width: one long cell, such as a command, would widen every line of the source.
    """
    marks = ["---"] * (len(header) - figures) + ["---:"] * figures

    def rule(widths: Sequence[int], alignments: Sequence[str]) -> str:
        return f"| {' | '.join(marks)} |"

    layout = TableFormat(None, rule, None, None, headerrow=_ROW, datarow=_ROW, padding=0, with_header_hide=None)
    return tabulate(rows, header, tablefmt=layout, disable_numparse=True, stralign=None)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart; columns of numbers are aligned right."""
    lines = [["-" if cell == "–" else cell for cell in line] for line in (header, *rows)]
    ends = ["right" if all(map(_is_number, column[1:])) else "left" for column in zip(*lines, strict=True)]
    table = tabulate(lines[1:], lines[0], tablefmt="simple", disable_numparse=True, colalign=ends)
    return "\n".join(line.rstrip() for line in table.splitlines())


def markdown_text(text: str, limit: int = _CELL) -> str:
    """`text` for one cell of a Markdown table: on one line, cut at `limit` characters, with all markup escaped."""
    shown = printable(text)
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    escaped = re.sub(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", shown)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def fitted(text: str, columns: int) -> str:
    """`text` on one line of a terminal, cut at `columns` columns; wide characters take two."""
    shown = printable(text)
    if wcswidth(shown) <= columns:
        return shown
    while wcswidth(shown) > columns - 3:
        shown = shown[:-1]
    return shown + "..."


def printable(text: str) -> str:
    """`text` on one line without outer spaces; line breaks and control characters are spelled out (`\\n`)."""
    return "".join(
        character
        if character.isprintable()
        else " "
        if unicodedata.category(character) == "Zs"
        else repr(character)[1:-1]
        for character in text.strip()
    )


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(".", "", 1).isdigit()


def figure(caption: str, name: str) -> str:
    """A picture in Markdown; without the extra `plots`, a line that says how to get it."""
    if has_extra("plots"):
        return f"![{caption}]({name})"
    return f"*{caption}: no picture, since matplotlib is not installed (`pip install 'onceedit-ray[plots]'`).*"
