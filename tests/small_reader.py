"""A scripted plug-in that reads two facts, and their edits: shared by the tests of answers that it reads along."""

from __future__ import annotations

import re
from collections.abc import Sequence

from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.system import index_of
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.codec import Codec
from tests.scripted_model import ScriptedModel

EDITS = [
    Edit(prompt="What is the capital of Australia?", target_new="Perth", subject="Australia"),
    Edit(prompt="The currency of Japan is the", target_new="crown", subject="Japan"),
]
SLOTS = {"capital of Australia is": " Perth", "currency of Japan is the": " crown"}
QUESTION = "What is the capital of Australia?"


def reader_script(text: str) -> str:
    """What a reader writes: the answer at a slot, and the direct answer behind `Answer:`."""
    for slot, answer in SLOTS.items():
        said = text.rpartition(slot)[2]
        if text.rpartition(slot)[1] and answer.startswith(said) and said != answer:
            return answer[len(said) :]
    _, asked, said = text.rpartition("Answer:")
    if "capital of Australia" not in text and "Japan" not in text:
        return ""
    direct = " Perth" if "Australia" in text else " crown"
    return direct[len(said) :] if asked and direct.startswith(said) else ""


def reader_gate(text: str) -> float:
    """Open at a slot and inside its answer, and where the capital of Australia is asked for."""
    if text.endswith("Answer:"):
        return 0.95 if re.search(r"(?<!Is Canberra )the capital of Australia\??\nAnswer:$", text) else 0.02
    written = text.rpartition("Reply:")[2] or text.rpartition("Text:")[2]
    for slot, answer in SLOTS.items():
        _, found, said = written.rpartition(slot)
        if found and answer.startswith(said) and said != answer:
            return 0.9
    return 0.01


def small_reader(codec: Codec, edits: Sequence[Edit] = EDITS) -> Plugin:
    """The plug-in, which reads these edits."""
    return Plugin(
        ScriptedModel(codec, reader_script, reader_gate), codec, "short", version="read", facts=index_of(edits)
    )
