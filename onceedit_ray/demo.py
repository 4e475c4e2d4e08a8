"""`onceedit demo`: shows what each LLM says in chat before and after one edit of the plug-in, on real weights.

It shows that nothing else changes: close questions are answered with the same tokens, and the weights of the targets
have the same checksum at the end as at the beginning. It shows a limit, too: a question whose answer only follows from
an edit, which is not what an edit promises.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from onceedit_ray.api import OnceEdit
from onceedit_ray.config import RunConfig
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.sources import resolve
from onceedit_ray.progress import Progress

SHOWN_EDITS = 3
SHA_CHARACTERS = 12


@dataclass(frozen=True)
class DemoQuestion:
    """A question of the demo.

    expected: the new answer; None if the answer must stay as it was. follows: whether it only follows from an edit.
    """

    text: str
    expected: str | None
    follows: bool = False


def questions_of(edits: list[Edit], shown: int = SHOWN_EDITS) -> list[DemoQuestion]:
    """One question about each of the first `shown` edits, then a close question about something else for each, then
    one whose answer follows from an edit.

    A half sentence is asked as a question where one of the edit's rephrasings is one.
    """
    asked = edits[:shown]
    due = [DemoQuestion(_as_question(edit), edit.target_new) for edit in asked]
    close = [DemoQuestion(edit.locality[0].prompt, None) for edit in asked if edit.locality]
    following = [DemoQuestion(probe.prompt, probe.answer, True) for edit in asked for probe in edit.portability]
    return due + close + following[:1]


def run_demo(config: RunConfig, say: Progress) -> list[str]:
    """Edit once, ask every target but the plug-in's own model in chat before and after; print as the answers come.

    Returns the questions that were answered wrongly, each with its target, but for those that follow from an edit.
    Raises the errors of `OnceEdit`.
    """
    plugin = config.plugin.model
    others = [name for name, target in config.targets.items() if target.model != plugin]
    models = OnceEdit.open(config, others or None, say)
    checksums = {name: _checksum(resolve(target.model, say).path) for name, target in models.config.targets.items()}

    begun = time.monotonic()
    version = models.version
    editing = time.monotonic() - begun
    decoder = models.decoder
    print(
        f"\n{len(models.edits)} facts edited once, in the plug-in {plugin}, in {editing:.1f} s (version {version.id})"
    )

    missed = []
    for name in models.config.targets:
        begun = time.monotonic()
        asyncio.run(decoder.restriction(name, models.config.fusion.strategy))
        print(f"\n== {name}: 0 s of editing, {time.monotonic() - begun:.1f} s to align its tokens with the plug-in's")
        for question in questions_of(list(models.edits)):
            before, after = _before_and_after(models, name, question)
            print(f"\n> {question.text}\n  before: {_line(before)}\n  after:  {_line(after)}")
            print(f"  ({_verdict(question, before, after)})")
            if not question.follows and not _is_right(question, before, after):
                missed.append(f"{name}: {question.text}")
    print()
    for name, target in models.config.targets.items():
        same = _checksum(resolve(target.model, say).path) == checksums[name]
        print(f"weights of {name}: sha256 {checksums[name]} before, {'the same' if same else 'ANOTHER'} after")
    return missed


def _as_question(edit: Edit) -> str:
    return next((text for text in (edit.prompt, *edit.rephrasings) if text.endswith("?")), edit.prompt)


def _before_and_after(models: OnceEdit, name: str, question: DemoQuestion) -> tuple[Generation, Generation]:
    messages = [{"role": "user", "content": question.text}]
    return models.ask_unedited(messages, name), models.ask(messages, name)


def _is_right(question: DemoQuestion, before: Generation, after: Generation) -> bool:
    if question.expected is None:
        return after.token_ids == before.token_ids
    return question.expected.casefold() in after.text.casefold()


def _verdict(question: DemoQuestion, before: Generation, after: Generation) -> str:
    right = _is_right(question, before, after)
    if question.expected is None:
        return "identical, token by token" if right else "CHANGED, although no edit is asked for"
    if question.follows:
        told = "is told" if right else "is not told"
        return f"{question.expected} follows from an edit and {told}; an edit corrects a fact, not what follows from it"
    return f"the new answer, w = {after.weight or 0:.2f}" if right else f"MISSED: {question.expected} was expected"


def _line(answer: Generation) -> str:
    return " ".join(answer.text.split())


def _checksum(folder: Path) -> str:
    """The first characters of the SHA-256 of all weight files in a folder.

    `folder_digest` is not used here: its cache would answer without reading the files again.
    """
    digest = hashlib.sha256()
    for path in _weight_files(folder):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:SHA_CHARACTERS]


def _weight_files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".gguf", ".bin"))
