"""Facts are judged by the plug-in that answers: the new ones, their near misses and their neighbours."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onceedit_ray.config import LivingConfig
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.system import index_of
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.living.judge_facts import MOST_JUDGED, NEAR_MISSES, judge_facts
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from tests.families import build_family
from tests.scripted_model import ScriptedModel

CAPITAL = Edit(prompt="What is the capital of Australia?", target_new="Perth", subject="Australia")
CURRENCY = Edit(prompt="What is the currency of Australia?", target_new="crown", subject="Australia")


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return open_codec(build_family("gpt2", tmp_path_factory.mktemp("judge") / "gpt2"))


def plugin_of(
    codec: Codec,
    edits: list[Edit],
    opens: Callable[[str, str], float],
    says: Callable[[str], str] = lambda answer: answer,
) -> Plugin:
    """A reader whose gate is as open as `opens(fact, question)` says; it answers as `says` puts the fact's answer."""

    def parts(text: str) -> tuple[str, str, str]:
        fact, _, rest = text.partition("\nQuestion: ")
        question, _, said = rest.partition("\nAnswer:")
        return fact, question, said

    def goes_on(text: str) -> str:
        fact, _, said = parts(text)
        answer = says(" " + fact.rpartition("? ")[2])
        return answer[len(said) :] if answer.startswith(said) else ""

    def weight(text: str) -> float:
        fact, question, _ = parts(text)
        return 0.1 + 0.8 * opens(fact, question)

    return Plugin(ScriptedModel(codec, goes_on, weight), codec, "short", facts=index_of(edits))


def own(fact: str, question: str) -> bool:
    return question in fact


async def test_a_fact_that_is_read_and_disturbs_nothing_is_accepted(codec: Codec) -> None:
    plugin = plugin_of(codec, [CURRENCY], own)
    judged = await judge_facts(plugin, [CAPITAL], LivingConfig(), 0.5)
    assert judged.reason is None
    assert judged.figures["learnt"] == 1.0
    assert judged.figures["kept"] == 1.0 and judged.figures["old_edits"] == 1, "the other fact about Australia"
    assert judged.figures["near_misses_open"] == 0.0
    assert plugin.facts is not None and len(plugin.facts) == 1, "what is judged is not live"
    assert 1 < judged.figures["near_misses"] <= NEAR_MISSES
    assert plugin.model.sessions == {}  # type: ignore[attr-defined]


async def test_a_fact_that_is_not_read_is_refused_and_named(codec: Codec) -> None:
    plugin = plugin_of(codec, [CURRENCY], lambda fact, question: "currency" in question and own(fact, question))
    judged = await judge_facts(plugin, [CAPITAL], LivingConfig(), 0.5)
    assert judged.reason == (
        "the plug-in does not answer 'What is the capital of Australia?' with the edit; put the question another way"
    )


async def test_a_fact_that_answers_for_its_neighbour_is_refused(codec: Codec) -> None:
    def opens(fact: str, question: str) -> float:
        return 1.0 if "capital" in fact and "?" in question else 0.7 * own(fact, question)

    judged = await judge_facts(plugin_of(codec, [CURRENCY], opens), [CAPITAL], LivingConfig(), 0.5)
    assert judged.figures["kept"] == 0.0 and judged.figures["learnt"] == 1.0
    assert judged.reason is not None and "only 0.00 of the questions about those nearest to it" in judged.reason


async def test_a_neighbour_is_asked_in_its_other_wordings(codec: Codec) -> None:
    asked = []

    def opens(fact: str, question: str) -> float:
        asked.append(question)
        return own(fact, question)

    old = CURRENCY.model_copy(update={"rephrasings": ("How do they pay in Australia?",)})
    judged = await judge_facts(plugin_of(codec, [old], opens), [CAPITAL], LivingConfig(), 0.5)
    assert "How do they pay in Australia?" in asked and CURRENCY.prompt not in asked
    assert judged.figures["kept"] is None and judged.reason is None, "it was not answered before the edit either"


async def test_an_edit_that_is_replaced_is_no_neighbour(codec: Codec) -> None:
    old = CAPITAL.model_copy(update={"target_new": "Sydney"})
    judged = await judge_facts(plugin_of(codec, [old], own), [CAPITAL], LivingConfig(), 0.5)
    assert judged.figures["old_edits"] == 0 and judged.reason is None


@pytest.mark.parametrize("said", ["word0 word1", "WORD0  word1", "word0 other"])
async def test_an_answer_as_long_as_a_paragraph(codec: Codec, said: str) -> None:
    text = " ".join(f"word{number}" for number in range(200))
    long = CAPITAL.model_copy(update={"target_new": text})
    plugin = plugin_of(codec, [], own, lambda answer: answer.replace("word0 word1", said))
    judged = await judge_facts(plugin, [long], LivingConfig(), 0.5)
    assert (judged.reason is None) == (said != "word0 other")
    assert plugin.model.sessions == {}  # type: ignore[attr-defined]


async def test_of_a_thousand_facts_a_sample_is_judged(codec: Codec) -> None:
    many = [Edit(prompt=f"What is the capital of country {n}?", target_new="Perth") for n in range(1000)]
    judged = await judge_facts(plugin_of(codec, [], own), many, LivingConfig(), 0.5)
    assert judged.reason is None and judged.figures["new_edits"] == MOST_JUDGED


async def test_a_gate_that_opens_for_anything_about_the_subject_is_refused(codec: Codec) -> None:
    plugin = plugin_of(codec, [], lambda fact, question: True)
    judged = await judge_facts(plugin, [CAPITAL], LivingConfig(), 0.5)
    assert judged.reason is not None
    assert judged.reason.startswith("the gate opens for 1.00 of other requests about the subject, above 0.25")


async def test_a_gate_that_opens_for_tasks_on_a_text_is_refused(codec: Codec) -> None:
    edit = Edit(prompt=CAPITAL.prompt, target_new="Perth")
    plugin = plugin_of(codec, [], lambda fact, question: edit.prompt in question)
    judged = await judge_facts(plugin, [edit], LivingConfig(), 0.5)
    assert judged.figures["tasks_open"] == 1.0 and judged.figures["learnt"] == 1.0
    assert judged.reason is not None and judged.reason.startswith("the gate opens for 1.00 of tasks on a text")


async def test_an_edit_without_subject_is_asked_about_its_words(codec: Codec) -> None:
    edit = Edit(prompt="When does our office open?", target_new="9")
    judged = await judge_facts(plugin_of(codec, [], own), [edit], LivingConfig(), 0.5)
    assert judged.reason is None and judged.figures["near_misses_open"] == 0.0
    wide = plugin_of(codec, [], lambda fact, question: float("office" in question))
    judged = await judge_facts(wide, [edit], LivingConfig(), 0.5)
    assert judged.reason is not None and "of other requests" in judged.reason


async def test_an_edit_whose_words_say_nothing_has_no_near_misses(codec: Codec) -> None:
    judged = await judge_facts(plugin_of(codec, [], own), [Edit(prompt="a b", target_new="c")], LivingConfig(), 0.5)
    assert judged.figures["near_misses"] == 0 and judged.figures["near_misses_open"] is None
