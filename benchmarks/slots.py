"""Slots inside sentences: `python -m benchmarks.slots [--conversations FILE] [--limit N]`.

The plug-in reads the targets' own unedited answers of the conversation table, with all edits of the run file live; no
target is loaded. Where an answer names the old answer of an edit: would the plug-in write the new one there, and is its
gate open? In the answers to conversations that are not about an edit (near misses, tasks on a text): how often does the
gate open elsewhere and contradict the text, and how often would `selective` change it? None of these sentences took
part in the reader's training. Writes `slots.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.ratios import RESULTS
from onceedit_ray.config import load_config
from onceedit_ray.editing.run import version_for
from onceedit_ray.evaluation.conversation_cases import Case, read_cases
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.fusion.contradictions import Contradiction
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.names_first import names_first
from onceedit_ray.fusion.slots import REACH, Slot, old_names
from onceedit_ray.fusion.system import load_plugin
from onceedit_ray.fusion.whole_words import find_whole
from onceedit_ray.knowledge.edit import Edit

ANSWERS = Path("docs/results/conversations/conversations.parquet")
ARTICLES = ("", "the", "a", "an")


@dataclass
class Old:
    """A place at which an answer names an edit's old answer.

    is_first: whether a sentence begins with it and says afterwards what it is; such a place has no slot, and is found
    by the rest of the sentence. on_top: whether the plug-in would write the new answer there. is_open: whether the
    gate is open, too.
    """

    is_first: bool
    on_top: bool
    is_open: bool


@dataclass
class Read:
    """What was found in one answer: old answers, and elsewhere tokens, contradicted slots and changes."""

    old: list[Old]
    tokens: int = 0
    contradicted: int = 0
    changed: int = 0


async def read(decoder: FusedDecoder, case: Case, answer: str, edits: Mapping[str, Edit]) -> Read:
    """Let the plug-in read one answer."""
    codec = decoder.plugin.codec
    prompt = codec.chat_prompt([each.model_dump() for each in case.messages]) if case.messages else None
    async with decoder.reading_along(decoder.plugin, prompt or codec.prompt(case.prompt)) as found:
        tokens = len(codec.encode_bytes(answer.encode()))
        slots = await found.along.read(answer.encode(), 0) if found.along.look(answer) else []
        places = [
            (match.start(), match.end())
            for name in (name for prompt in case.edits for name in old_names(edits[prompt].ground_truth or ""))
            if (match := find_whole(name, answer)) is not None
        ]
        firsts = {each.start for each in names_first(answer, 0, True)}
        if case.due:
            first = min(places, key=lambda place: place[0], default=None)
            if first is None:
                return Read([])
            at = [slot for slot in slots if is_at(slot, answer, first[0])]
            on_top = [slot for slot in at if slot.begins]
            is_open = any(slot.weight >= found.threshold for slot in on_top)
            return Read([Old(first[0] in firsts, bool(on_top), is_open)])
        bytes_of = [(len(answer[:start].encode()), len(answer[:end].encode())) for start, end in places]
        far = [slot for slot in slots if not any(start - REACH <= slot.offset <= end for start, end in bytes_of)]
        contradicted = [slot for slot in far if slot.weight >= found.threshold and slot.agrees is False]
        apart = [
            slot
            for slot, before in zip(contradicted, [None, *contradicted], strict=False)
            if before is None or slot.token - before.token > REACH
        ]
        changes = 0
        while isinstance(change := await found.find(answer.encode(), ended=True, waits=False), Contradiction):
            changes += not any(start - REACH <= change.place <= end for start, end in bytes_of)
            found.checked = change.place + 1
        return Read([], tokens, len(apart), changes)


def is_at(slot: Slot, answer: str, place: int) -> bool:
    """Whether only white space and an article stand between a slot and a place of the text."""
    between = answer.encode()[slot.offset : len(answer[:place].encode())] if slot.offset >= 0 else b"?"
    at_or_before = slot.offset <= len(answer[:place].encode())
    return at_or_before and between.decode("utf-8", errors="replace").strip().casefold() in ARTICLES


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slots", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, default=Path("configs/conversations.yaml"))
    parser.add_argument("--cases", type=Path, default=Path("data/conversations/cases.jsonl"), metavar="FILE")
    parser.add_argument("--conversations", type=Path, default=ANSWERS, metavar="FILE", help="with unedited answers")
    parser.add_argument("--limit", type=int, help="so many answers of each target")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    version = version_for(config)
    decoder = FusedDecoder(load_plugin(config, version), config.fusion)
    edits = {edit.prompt: edit for edit in version.edits()}
    cases = {case.id: case for case in read_cases(options.cases, list(edits))}
    answers = [row for row in pq.read_table(options.conversations).to_pylist() if row["strategy"] == UNEDITED]
    rows = []
    for target in dict.fromkeys(row["target"] for row in answers):
        own = [row for row in answers if row["target"] == target][: options.limit]
        found = [asyncio.run(read(decoder, cases[row["case"]], row["answer"], edits)) for row in own]
        rows.append(row_of(target, found))
    header = [
        "target", "old answers named", "new on top", "and gate open", "inside a sentence", "new on top",
        "and gate open", "tokens elsewhere", "gate contradicts, per 100 tokens", "`selective` changes, per 100 tokens",
    ]  # fmt: skip
    page = [
        "# Slots inside the targets' own sentences",
        f"{len(edits)} edits live, threshold {config.fusion.threshold:g}; {describe_machine()}.",
        markdown_table(header, rows, figures=9),
        "**Inside a sentence** leaves out old answers with which a sentence begins (\"Homer wrote the Odyssey\"): at "
        "such a place nothing has been said about the fact, and `selective` looks at the rest of the sentence instead.",
        f"`{shlex.join(['python', '-m', 'benchmarks.slots', *sys.argv[1:]])}`",
    ]  # fmt: skip
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "slots.md") as temporary:
        temporary.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print("\n\n".join(page))


def row_of(target: str, found: Sequence[Read]) -> list[str]:
    """A row of the table."""
    old = [each for one in found for each in one.old]
    inside = [each for each in old if not each.is_first]
    tokens = sum(one.tokens for one in found)

    def share(of: Sequence[Old], name: str) -> str:
        return f"{sum(getattr(each, name) for each in of) / len(of):.3f}" if of else "–"

    def per_hundred(many: int) -> str:
        return f"{100 * many / tokens:.2f}" if tokens else "–"

    figures: list[Any] = [len(old), share(old, "on_top"), share(old, "is_open")]
    figures += [len(inside), share(inside, "on_top"), share(inside, "is_open"), tokens]
    figures += [per_hundred(sum(one.contradicted for one in found)), per_hundred(sum(one.changed for one in found))]
    return [target, *map(str, figures)]


if __name__ == "__main__":
    main()
