"""Facts are judged by the plug-in that answers: the new ones, their near misses and their neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from onceedit_ray.config import LivingConfig
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.system import index_of
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.living.judge_facts import NEAR_MISSES, judge_facts
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from tests.families import build_family
from tests.scripted_model import ScriptedModel

CAPITAL = Edit(prompt="What is the capital of Australia?", target_new="Perth", subject="Australia")
CURRENCY = Edit(prompt="What is the currency of Australia?", target_new="crown", subject="Australia")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return open_codec(build_family("gpt2", tmp_path_factory.mktemp("judge") / "gpt2"))


def plugin_of(codec: Codec, edits: list[Edit], opens: Callable[[str, str], bool]) -> Plugin:
    """A reader whose gate is open where `opens(fact, question)`, and which then answers with the fact's answer."""

    def parts(text: str) -> tuple[str, str, str]:
        fact, _, rest = text.partition("\nQuestion: ")
        question, _, said = rest.partition("\nAnswer:")
        return fact, question, said

    def goes_on(text: str) -> str:
        fact, _, said = parts(text)
        answer = " " + fact.rpartition("? ")[2]
        return answer[len(said) :] if answer.startswith(said) else ""

    def weight(text: str) -> float:
        fact, question, _ = parts(text)
        return 0.9 if opens(fact, question) else 0.1

    return Plugin(ScriptedModel(codec, goes_on, weight), codec, "short", facts=index_of(edits))


def own(fact: str, question: str) -> bool:
    return question in fact


async def test_a_fact_that_is_read_and_disturbs_nothing_is_accepted(codec: Codec) -> None:
    plugin = plugin_of(codec, [CAPITAL, CURRENCY], own)
    judged = await judge_facts(plugin, [CAPITAL], LivingConfig(), 0.5)
    assert judged.reason is None
    assert judged.figures["learnt"] == 1.0
    assert judged.figures["kept"] == 1.0 and judged.figures["old_edits"] == 1, "the other fact about Australia"
    assert judged.figures["near_misses_open"] == 0.0
    assert 1 < judged.figures["near_misses"] <= NEAR_MISSES
    assert plugin.model.sessions == {}  # type: ignore[attr-defined]


async def test_a_fact_that_is_not_read_is_refused_and_named(codec: Codec) -> None:
    plugin = plugin_of(
        codec, [CAPITAL, CURRENCY], lambda fact, question: "currency" in question and own(fact, question)
    )
    judged = await judge_facts(plugin, [CAPITAL], LivingConfig(), 0.5)
    assert judged.reason == (
        "the plug-in does not answer 'What is the capital of Australia?' with the edit; put the question another way"
    )


async def test_a_fact_that_drowns_its_neighbour_is_refused(codec: Codec) -> None:
    plugin = plugin_of(codec, [CAPITAL, CURRENCY], lambda fact, question: "capital" in fact and "capital" in question)
    judged = await judge_facts(plugin, [CAPITAL], LivingConfig(), 0.5)
    assert judged.reason == "edits about the same subject are answered less often, 0.00"


async def test_a_gate_that_opens_for_anything_about_the_subject_is_refused(codec: Codec) -> None:
    plugin = plugin_of(codec, [CAPITAL], lambda fact, question: True)
    judged = await judge_facts(plugin, [CAPITAL], LivingConfig(), 0.5)
    assert judged.reason is not None
    assert judged.reason.startswith("the gate opens for 1.00 of other requests about the subject, above 0.25")


async def test_an_edit_without_subject_has_no_near_misses(codec: Codec, tmp_path: Path) -> None:
    edit = Edit(prompt="What is the capital of Australia?", target_new="Perth")
    judged = await judge_facts(plugin_of(codec, [edit], own), [edit], LivingConfig(), 0.5)
    assert judged.reason is None
    assert judged.figures["near_misses"] == 0 and judged.figures["near_misses_open"] is None
