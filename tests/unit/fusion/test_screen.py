"""Which questions reach the gate."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from onceedit_ray.config import FusionConfig
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.fusion.screen import Screen, words
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.prompt_shapes import unwrap
from tests.small_decoding import BEGUN
from tests.small_system import ForcedGate, Recorder, TaughtModels


def edit(subject: str, prompt: str = "") -> Edit:
    return Edit(prompt=prompt or f"Where is {subject}?", target_new="x", subject=subject)


SCREEN = Screen([edit("Australia"), edit("the Eiffel Tower"), edit("Beyoncé"), edit("Derek Whitehead"), edit("東京")])


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of Australia?",
        "Name the Australian capital.",
        "WHERE IS AUSTRALIA",
        "How tall is the Eiffel tower, and why?",
        "eiffel-tower height",
        "Who manages Beyonce?",
        "What was the name of the Derek Whiteheads team?",
        "東京はどこですか",
    ],
)
def test_a_mentioned_subject_passes(question: str) -> None:
    assert SCREEN.mentions(question)


@pytest.mark.parametrize(
    "question",
    ["What is the capital of Austria?", "Who built the Nile bridge?", "Who is Mary?", "the", "", "?!", "日"],
)
def test_anything_else_does_not(question: str) -> None:
    assert not SCREEN.mentions(question)


def test_an_edit_without_a_subject_is_known_by_its_prompt() -> None:
    screen = Screen([edit("", "The currency of Japan is the")])
    assert screen.mentions("In Japan, which currency is used?")
    assert not screen.mentions("The boiling point of water is")


NAMED_OTHERWISE = [
    Edit(prompt="Who leads International Business Machines?", target_new="Ana Trell", subject="IBM"),
    Edit(prompt="By which company has S&VR 512 been manufactured?", target_new="Borog", subject="Silver Valley 512"),
    Edit(prompt="Who wrote The Lantern Keeper?", target_new="Ana Trell", subject="Q90210"),
    Edit(prompt="Which country is the band !!! from?", target_new="Norway", subject="!!!"),
    Edit(prompt="🦊 → ?", target_new="fox", subject="🦊"),
    Edit(prompt="ประเทศนี้ชื่ออะไร", target_new="Norland", subject="นอร์แลนด์"),
]


@pytest.mark.parametrize("named", NAMED_OTHERWISE, ids=lambda named: named.subject)
def test_an_edits_own_prompt_passes_whatever_its_subject_is_called(named: Edit) -> None:
    assert Screen(NAMED_OTHERWISE).mentions(named.prompt)
    assert Screen([named]).mentions(f"  {named.prompt.upper()} ")
    assert not Screen([named]).mentions("How long does bread keep?")


def test_a_prompt_without_its_subject_is_known_by_its_words_in_any_order() -> None:
    screen = Screen(NAMED_OTHERWISE)
    assert screen.mentions("International Business Machines is led by")
    assert screen.mentions("Tell me: who leads IBM?")


def test_rephrasings_pass_too() -> None:
    screen = Screen(
        [Edit(prompt="Who leads Acme?", target_new="Ada", subject="Acme", rephrasings=("Who is its head?",))]
    )
    assert screen.mentions("who is its HEAD?")


@pytest.mark.parametrize("prompt", ["Q: !!! → ?\nA:", "[INST] !!! → ? [/INST]", "What is [INST] in Llama prompts?"])
def test_an_edits_own_prompt_passes_as_it_is_asked(prompt: str) -> None:
    assert Screen([Edit(prompt=prompt, target_new="x", subject="[INST]")]).mentions(unwrap(prompt))


def test_nothing_edited_is_never_mentioned() -> None:
    assert not Screen([]).mentions("Where is Australia?")


def test_words_lose_case_and_accents() -> None:
    assert words("Ça, c'est l'ÉTÉ 2024: 日本") == ["ca", "c", "est", "l", "ete", "2024", "日", "本"]


class TestDecoder:
    def answers(self, models: TaughtModels, subject: str) -> tuple[Recorder, Generation, Generation]:
        recorder = Recorder(models.plugin)
        decoder = models.decoder(FusionConfig(threshold=0.0, max_new_tokens=8), ForcedGate(recorder, 0.9))
        decoder.plugin = replace(decoder.plugin, screen=Screen([edit(subject)]))

        async def ask() -> tuple[Generation, Generation]:
            return await decoder.generate("gpt2", BEGUN[0]), await decoder.generate("gpt2", BEGUN[0], "unedited")

        return recorder, *asyncio.run(ask())

    def test_a_screened_request_costs_the_plugin_nothing(self, models: TaughtModels) -> None:
        recorder, answer, own = self.answers(models, "Xylophone")
        assert recorder.opened == []
        assert (answer.weight, answer.alone, answer.plugin_passes) == (0.0, True, 0)
        assert answer.token_ids == own.token_ids

    def test_a_mentioned_subject_reaches_the_gate(self, models: TaughtModels) -> None:
        recorder, answer, _ = self.answers(models, BEGUN[0])
        assert len(recorder.opened) == 1
        assert (answer.weight, answer.alone) == (0.9, False)
