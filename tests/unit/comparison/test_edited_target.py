"""A target before and after an edit, behind the interface that a fused decoder has: answers, memory, and its limits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.methods.fine_tune_layer import FineTuneLayer, FineTuneLayerSettings
from onceedit_ray.baselines.methods.grace import Grace, GraceSettings
from onceedit_ray.comparison.edited_target import EditedTarget
from onceedit_ray.comparison.unedited_answers import UneditedAnswers
from onceedit_ray.errors import ContextLengthError, ModelError
from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.models.codec import Codec
from tests.families import SENTENCES
from tests.small_edits import EDITS, FAMILIES, LoadedModel, greedy, logits_of, open_family

PROMPT = EDITS[0].prompt


def target_of(pair: LoadedModel) -> tuple[EditedTarget, Codec]:
    model, tokenizer = pair
    codec = Codec(tokenizer)
    return EditedTarget("target", model, codec), codec


def grace(pair: LoadedModel) -> EditedModel:
    return Grace(GraceSettings()).edit(*pair, EDITS, lambda line: None)


@pytest.mark.parametrize("family", FAMILIES)
async def test_it_answers_as_the_network_does_before_and_after_an_edit(family: str, tmp_path: Path) -> None:
    pair = open_family(family, tmp_path)()
    target, codec = target_of(pair)
    ids = codec.encode_prompt(PROMPT)

    own = await target.generate("target", PROMPT, UNEDITED, 4)
    plain = EditedModel(pair[0], "none", {})
    assert list(own.token_ids) == greedy(plain, ids, 4)[: len(own.token_ids)] and own.weight is None and own.alone
    gold = await target.gold("target", PROMPT, EDITS[0].target_new)
    assert await target.text("target", gold) == f" {EDITS[0].target_new}"
    own_score = await target.score("target", PROMPT, gold * 2, UNEDITED)
    expected = logits_of(pair[0], ids + list(gold))[len(ids) - 1 :].argmax(-1).tolist()
    assert list(own_score.predicted) == expected
    target.edited = grace(pair)
    answer = await target.generate("target", PROMPT, "grace", 4)
    assert answer.token_ids[: len(gold)] == gold != own.token_ids[: len(gold)]
    assert list(answer.token_ids) == greedy(target.edited, ids, 4)[: len(answer.token_ids)]
    assert (await target.score("target", PROMPT, gold, "grace")).predicted == gold
    assert await target.generate("target", PROMPT, UNEDITED, 4) == own, "remembered"
    assert await target.score("target", PROMPT, gold * 2, UNEDITED) == own_score, "remembered"
    target.edited.undo()
    target.edited = None
    assert (await target.generate("target", PROMPT, "grace", 4)).token_ids == own.token_ids


async def test_a_unedited_answer_that_was_not_taken_in_time_is_a_bug_and_not_a_number(tmp_path: Path) -> None:
    pair = open_family("llama", tmp_path)()
    target, _ = target_of(pair)
    target.edited = grace(pair)
    with pytest.raises(RuntimeError, match="was not taken before the edit"):
        await target.generate("target", PROMPT, UNEDITED, 2)
    with pytest.raises(RuntimeError, match="was not taken before the edit"):
        await target.score("target", PROMPT, (5,), UNEDITED)


async def test_two_questions_at_once_are_refused(tmp_path: Path) -> None:
    pair = open_family("llama", tmp_path)()
    target, _ = target_of(pair)
    target.edited = grace(pair)

    with pytest.raises(RuntimeError, match="two things at once"):
        await asyncio.gather(*(target.generate("target", prompt, "grace", 2) for prompt in (PROMPT, "Who is it?")))


async def test_it_has_no_gate_and_is_restricted_by_nothing(tmp_path: Path) -> None:
    target, _ = target_of(open_family("llama", tmp_path)())
    assert await target.restriction("target", "ft-l") == ""
    assert await target.render("target", "Who?", "qa") == "Q: Who?\nA:"
    with pytest.raises(ModelError, match="no gate"):
        await target.gate(PROMPT)


async def test_own_answers_are_written_and_read_again(tmp_path: Path) -> None:
    pair = open_family("llama", tmp_path)()
    target, codec = target_of(pair)

    async def ask(asked: EditedTarget) -> tuple[object, object]:
        return await asked.generate("t", PROMPT, UNEDITED, 3), await asked.score("t", PROMPT, (5, 6), UNEDITED)

    own = await ask(target)
    target.own.save(tmp_path / "own.json")
    read = UneditedAnswers.load(tmp_path / "own.json")
    assert read == target.own and UneditedAnswers.load(tmp_path / "none.json") == UneditedAnswers()
    later = EditedTarget("target", pair[0], codec, read)
    edited = FineTuneLayer(FineTuneLayerSettings(steps=2)).edit(*pair, EDITS, lambda line: None)
    later.edited = edited
    assert await ask(later) == own


async def test_what_the_target_could_not_take_before_the_edit_is_refused_again_after_it(tmp_path: Path) -> None:
    pair = open_family("llama", tmp_path)()
    target, _ = target_of(pair)
    long = " ".join(SENTENCES)
    for edited in (None, EditedModel(pair[0], "none", {})):
        target.edited = edited
        with pytest.raises(ContextLengthError):
            await target.generate("target", long, UNEDITED, 4)
        with pytest.raises(ContextLengthError):
            await target.score("target", long, [5, 6], UNEDITED)
