"""A scripted plug-in that reads two facts, and their edits: shared by the tests of answers that it reads along."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from onceedit_ray.config import FusionConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Member, Plugin
from onceedit_ray.fusion.strategies import Pair
from onceedit_ray.fusion.system import index_of
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.prompt import Exchange, Prompt
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


def selective_decoder(
    codec: Codec, pair: Pair, target: Callable[[str], str], edits: Sequence[Edit] = EDITS
) -> tuple[FusedDecoder, ScriptedModel]:
    """A decoder whose plug-in reads these edits, over a scripted target called "target", and that target."""
    decoder = FusedDecoder(small_reader(codec, edits), FusionConfig(strategy="selective", max_new_tokens=200))
    model = ScriptedModel(codec, target)
    decoder.members["target"] = Member("target", model, codec, lambda: pair, beside=False)
    return decoder, model


def chat(codec: Codec, question: str, turns: tuple[Exchange, ...] = (), system: str = "") -> Prompt:
    ids = tuple(codec.encode_prompt(f"<user>{question}<model>"))
    return Prompt(question, ids, turns=turns, system=system, is_chat=True)


def writes(*script: tuple[str, str]) -> Callable[[str], str]:
    """A target that writes the text of the first pair whose key stands in what it has read."""

    def goes_on(text: str) -> str:
        reply = text.rpartition("<model>")[2]
        for key, whole in script:
            if key in text and whole.startswith(reply) and whole != reply:
                return whole[len(reply) :]
        return ""

    return goes_on
