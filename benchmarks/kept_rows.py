"""The rows that a run of conversations has scored so far: one JSON line each, appended as soon as it is scored.

A killed run continues where it stopped: a row is taken from the file if everything that determines it is the same
(`RowKey.digest`). A last line that was cut short by a kill is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from onceedit_ray import __version__
from onceedit_ray.digest import digest
from onceedit_ray.errors import StoreError
from onceedit_ray.evaluation.conversation_cases import Case
from onceedit_ray.evaluation.conversation_report import ConversationRow


@dataclass(frozen=True)
class RowKey:
    """Everything that determines a row, besides the code.

    target: its weights and hardware. version: of the plug-in. tokens: maximum length of the answer. scored: the scores
        beyond those of the text.
    """

    case: Case
    target: str
    version: str
    strategy: str
    tokens: int
    scored: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of it, with the package's version."""
        parts = {**asdict(self), "case": self.case.model_dump(mode="json"), "onceedit": __version__}
        return digest(parts)


@dataclass
class KeptRows:
    """The rows in a file; `path` None keeps them in memory only."""

    path: Path | None
    rows: dict[str, ConversationRow] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> KeptRows:
        """The rows that earlier runs appended to `path`."""
        kept = cls(path)
        names = {each.name for each in fields(ConversationRow)}
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # a kill cut the last line short
            if isinstance(entry, Mapping) and set(entry.get("row", ())) == names:
                kept.rows[str(entry["key"])] = ConversationRow(**entry["row"])
        return kept

    def add(self, key: RowKey, row: ConversationRow) -> None:
        """Append a row; raises `StoreError` if the file cannot be written."""
        self.rows[key.digest] = row
        if self.path is None:
            return
        line = json.dumps({"key": key.digest, "row": asdict(row)}, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            is_cut = self.path.is_file() and self.path.stat().st_size > 0 and not _ends_a_line(self.path)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if is_cut else "") + line + "\n")
        except OSError as error:
            raise StoreError(
                f"cannot write {self.path}: {error.strerror or error}; free space or choose --results"
            ) from error


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
