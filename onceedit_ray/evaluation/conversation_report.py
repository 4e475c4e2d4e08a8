"""The report on conversations: one row for each answer as Parquet, and tables by kind in Markdown.

It shows scores and computes none. It uses no model and does not depend on how the answers were made.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onceedit_ray.evaluation.tables import markdown_text
from onceedit_ray.files import replacing
from onceedit_ray.fusion.decoder import UNEDITED

_SHOWN = 200  # characters of a question or an answer in a cell

READING = """\
- **Fact due**: the answer is right if it contains the new answer, does not contain the old one, and is not cut off: it
  ends by itself (within 96 tokens, if the unedited answer ends within the conversation's limit), or is 0.7 to 1.3 times
  as long as the unedited answer. **Not due**: the answer is right if it is identical to the unedited answer.
- The second line under each counts the most informative conversations: those about a fact that the target knew, and
  those whose unedited answer mentions no edited fact. If an answer mentions an edited fact in passing ("Machu Picchu,
  in Peru, lies …"), it is not wrong to correct it.
- The column `unedited` is the target before any edit: how often it is right by chance.
- **New answer**, **old answer** and **cut** are shares of the answers in which the fact is due. The columns after
  them are medians over those of these answers that contain the new one; a dash means that nothing was measured.
  **Length** is the number of words over the unedited answer's. **Words kept** is the share of the unedited answer's
  words outside the edited sentence that are still there, in order. **Perplexity** is that of the text after the new
  answer under the unedited target, over that of the text after the old answer in the unedited text. **Tokens/s** are
  measured for one request while others run: compare them within one table only. **Tokens/s ratio** is that over the
  unedited answers to the same conversations, timed in the same run (`--fresh`).
- The table by kind shows for each strategy the share that is **right**: the new answer given where the fact is due, the
  answer identical where it is not.
"""


@dataclass(frozen=True)
class ConversationRow:
    """One answer and its scores.

    case, kind, due: of the conversation. question: its last turn. weight: w of the gate; None if it was not computed.
    holds_old: whether the unedited answer contains an old answer of these edits.
    right … kept: as in `ConversationScore`.
    perplexity: of the text after the new answer, over that of the unedited answer; None if it was not measured.
    consistent: the share of sentences, from the new answer on, that an entailment model finds consistent with the new
    fact.
    tokens: of the answer. seconds: wall time while other requests run; None for an answer kept from an earlier run.
    """

    case: str
    kind: str
    due: bool
    target: str
    strategy: str
    question: str
    answer: str
    unedited: str
    holds_old: bool
    ended: bool
    right: bool
    identical: bool
    said: bool
    stale: bool
    cut: bool
    length: float | None
    kept: float | None
    perplexity: float | None
    consistent: float | None
    weight: float | None
    tokens: int
    seconds: float | None


SCHEMA = pa.schema(
    [
        ("case", pa.string()),
        ("kind", pa.string()),
        ("due", pa.bool_()),
        ("target", pa.string()),
        ("strategy", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("unedited", pa.string()),
        ("holds_old", pa.bool_()),
        ("ended", pa.bool_()),
        ("right", pa.bool_()),
        ("identical", pa.bool_()),
        ("said", pa.bool_()),
        ("stale", pa.bool_()),
        ("cut", pa.bool_()),
        ("length", pa.float64()),
        ("kept", pa.float64()),
        ("perplexity", pa.float64()),
        ("consistent", pa.float64()),
        ("weight", pa.float64()),
        ("tokens", pa.int32()),
        ("seconds", pa.float64()),
    ]
)


def write_conversations(folder: Path, rows: Sequence[ConversationRow], command: str, notes: Sequence[str]) -> None:
    """Write `conversations.parquet` and `conversations.md` into `folder`, each whole or not at all.

    Args:
        command: the command that repeats the run. notes: lines for the reader; one names the machine.

    Raises:
        StoreError: the folder cannot be written.
    """
    with replacing(folder / "conversations.parquet") as path:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=SCHEMA), path, compression="zstd")
    with replacing(folder / "conversations.md") as path:
        path.write_text(markdown(rows, command, notes), encoding="utf-8")


def markdown(rows: Sequence[ConversationRow], command: str, notes: Sequence[str]) -> str:
    """The report: for each target the share of right answers by kind, the other scores, and some answers."""
    parts = ["# Conversations", f"`{command}`", "\n".join(f"- {note}" for note in notes), READING]
    for target in dict.fromkeys(row.target for row in rows):
        of_target = [row for row in rows if row.target == target]
        parts += [
            f"## {target}",
            right_by_kind(of_target),
            figures(of_target),
            figures_by_kind(of_target),
            "Some answers:",
            some_answers(of_target),
        ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def right_by_kind(rows: Sequence[ConversationRow]) -> str:
    """A Markdown table of one target's shares of right answers: a row for each kind, a column for each strategy."""
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    kinds = dict.fromkeys(row.kind for row in rows)
    groups: list[tuple[str, Callable[[ConversationRow], bool]]] = [
        *((kind, lambda row, kind=kind: row.kind == kind) for kind in kinds),
        ("**fact due**", lambda row: row.due),
        ("due, and the unedited answer holds the old one", lambda row: row.due and row.holds_old),
        ("**not due**", lambda row: not row.due),
        ("not due, and the unedited answer holds no old one", lambda row: not row.due and not row.holds_old),
    ]
    lines = []
    for name, belongs in groups:
        inside = [row for row in rows if belongs(row)]
        if inside:
            shares = [_share([row.right for row in inside if row.strategy == strategy]) for strategy in strategies]
            lines.append([name, str(len({row.case for row in inside})), *shares])
    return _table(["kind", "cases", *strategies], lines)


def figures(rows: Sequence[ConversationRow]) -> str:
    """A Markdown table of the other scores of one target's answers: a row for each strategy."""
    header = [
        "strategy",
        "new answer",
        "old answer",
        "cut",
        "length",
        "words kept",
        "perplexity",
        "consistent",
        "tokens/s",
    ]
    lines = []
    for strategy in dict.fromkeys(row.strategy for row in rows):
        due = [row for row in rows if row.strategy == strategy and row.due]
        said = [row for row in due if row.said]
        timed = [(row.tokens, row.seconds) for row in due if row.seconds]
        lines.append(
            [
                strategy,
                _share([row.said for row in due]),
                _share([row.stale for row in due]),
                _share([row.cut for row in due]),
                _median([row.length for row in said]),
                _median([row.kept for row in said]),
                _median([row.perplexity for row in said]),
                _median([row.consistent for row in said]),
                f"{sum(tokens for tokens, _ in timed) / sum(seconds for _, seconds in timed):.1f}" if timed else "–",
            ]
        )
    return _table(header, lines)


def figures_by_kind(rows: Sequence[ConversationRow]) -> str:
    """A Markdown table of one target's scores: a row for each kind and strategy, unedited answers left out."""
    header = ["kind", "strategy", "right", "length", "words kept", "perplexity", "tokens/s ratio"]
    unedited = {row.case: row for row in rows if row.strategy == UNEDITED}
    strategies = [name for name in dict.fromkeys(row.strategy for row in rows) if name != UNEDITED]
    lines = []
    for kind in dict.fromkeys(row.kind for row in rows):
        for strategy in strategies:
            inside = [row for row in rows if (row.kind, row.strategy) == (kind, strategy)]
            said = [row for row in inside if row.said or not row.due]
            right = _share([row.right for row in inside])
            medians = (_median([getattr(row, name) for row in said]) for name in ("length", "kept", "perplexity"))
            lines.append([kind, strategy, right, *medians, _speed(inside, unedited)])
    return _table(header, lines) if lines else ""


def _speed(rows: Sequence[ConversationRow], unedited: Mapping[str, ConversationRow]) -> str:
    """Tokens per second over those of the unedited answers to the same conversations, where both were timed."""
    pairs = [(row, unedited[row.case]) for row in rows if row.case in unedited]
    pairs = [(row, own) for row, own in pairs if row.seconds and own.seconds and row.tokens and own.tokens]
    if not pairs:
        return "–"
    rates = [
        sum(row.tokens for row in side) / sum(row.seconds or 0.0 for row in side) for side in zip(*pairs, strict=True)
    ]
    return f"{rates[0] / rates[1]:.2f}"


def some_answers(rows: Sequence[ConversationRow]) -> str:
    """A Markdown table with one answer of each kind: the last strategy's answer beside the unedited one."""
    strategy = rows[-1].strategy
    first: dict[str, ConversationRow] = {}
    for row in rows:
        if row.strategy == strategy:
            first.setdefault(row.kind, row)
    edited = strategy != UNEDITED
    header = ["kind", "asked last", "unedited", *([strategy, "right"] if edited else [])]
    return _table(header, list(_texts(first.values(), edited)))


def _texts(rows: Iterable[ConversationRow], edited: bool) -> Iterator[list[str]]:
    for row in rows:
        texts = [_ends(row.question), row.unedited, *([row.answer] if edited else [])]
        yield [row.kind, *(markdown_text(text, _SHOWN) for text in texts), *(["yes" if row.right else "no"] * edited)]


def _ends(text: str) -> str:
    """The beginning and the end of a long text: the question may stand at either end."""
    text = " ".join(text.split())
    half = _SHOWN // 2 - 2
    return text if len(text) <= _SHOWN else f"{text[:half]} … {text[-half:]}"


def _share(values: Sequence[bool]) -> str:
    return f"{sum(values) / len(values):.2f}" if values else "–"


def _median(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.2f}" if known else "–"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
