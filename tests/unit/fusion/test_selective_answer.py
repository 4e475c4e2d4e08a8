"""Selective fusion with scripted models: where the plug-in takes part, and which text stays the target's."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import pytest

from onceedit_ray.fusion import contradictions
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.outputs import Generation, Trace
from onceedit_ray.fusion.speculative import SpeculativeAnswer
from onceedit_ray.fusion.strategies import Pair
from onceedit_ray.fusion.system import index_of
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.models.protocol import Row
from tests.scripted_model import ScriptedModel
from tests.small_reader import (
    EDITS,
    QUESTION,
    SLOTS,
    chat,
    reader_gate,
    reader_script,
    selective_decoder,
    writes,
)

PERTH = "The capital of Australia is Perth. It is old."


def answered(decoder: FusedDecoder, prompt: Prompt, **more: object) -> Generation:
    return asyncio.run(decoder.generate("target", prompt, **more))  # type: ignore[arg-type]


def test_the_target_keeps_its_sentence_and_only_the_answer_is_written(codec: Codec, pair: Pair) -> None:
    own = "The capital of Australia is Canberra. It is a city."
    edited = "The capital of Australia is Perth. It is by the sea."
    decoder, model = selective_decoder(codec, pair, writes(("Perth", edited), ("", own)))
    answer = answered(decoder, chat(codec, QUESTION))
    assert answer.text == edited
    assert answer.ended and not answer.alone
    assert answer.edits == (EDITS[0].prompt,)
    assert model.sessions == {}, "every session is closed"


def test_the_target_does_not_lengthen_the_answers_last_word(
    codec: Codec, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After "Perth" the target would go on with letters; its likeliest token that begins otherwise is taken."""
    own = "The capital of Australia is Canberra. It is a city."
    edited = "The capital of Australia is Perth. It is old."
    letters, stop = codec.encode_bytes(b"shire")[0], codec.encode_bytes(b".")[0]

    async def next_row(self: SpeculativeAnswer) -> Row:
        assert codec.text_of(self.ids).endswith("Perth")
        return np.array([letters, stop], np.int32), np.array([0.7, 0.2], np.float32)

    monkeypatch.setattr(SpeculativeAnswer, "next_row", next_row)
    decoder, model = selective_decoder(codec, pair, writes(("Perth", edited), ("", own)))
    assert answered(decoder, chat(codec, QUESTION)).text == edited
    assert answered(decoder, Prompt(QUESTION, tuple(codec.encode_prompt(QUESTION)))).text.strip() == "Perth"
    assert model.sessions == {}


def test_an_answer_without_contradiction_is_the_targets_own(codec: Codec, pair: Pair) -> None:
    own = "Australia lies in the south. It has many beaches."
    decoder, _ = selective_decoder(codec, pair, writes(("", own)))
    answer = answered(decoder, chat(codec, "Tell me about Australia."))
    unedited = answered(decoder, chat(codec, "Tell me about Australia."), strategy="unedited")
    assert answer.token_ids == unedited.token_ids
    assert answer.alone and answer.edits == ()


def test_a_target_that_says_the_new_answer_itself_is_left_alone(codec: Codec, pair: Pair) -> None:
    own = "The capital of Australia is Perth."
    decoder, _ = selective_decoder(codec, pair, writes(("", own)))
    answer = answered(decoder, chat(codec, QUESTION))
    assert answer.text == own
    assert answer.alone


def test_an_answer_that_only_begins_like_the_facts_is_corrected(
    codec: Codec, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Years and names often begin alike ("1945", "1954"); the gate is open only where the answer begins."""
    decoder, _ = selective_decoder(codec, pair, writes(("Perth", PERTH), ("", PERTH.replace("Perth", "Peking"))))
    plugin = decoder.plugin.model
    assert isinstance(plugin, ScriptedModel)
    monkeypatch.setattr(plugin, "_weight", lambda text: 0.9 if text.endswith(tuple(SLOTS)) else 0.01)
    answer = answered(decoder, chat(codec, "Tell me about Australia."))
    assert answer.text == PERTH and answer.edits == (EDITS[0].prompt,)


@pytest.mark.parametrize(
    ("rest", "corrected"),
    [
        (" I like Canberra.", " I like Perth."),
        (" It is not Canberra.", " It is not Canberra."),
        (" I like Canberrans.", " I like Canberrans."),
    ],
)
def test_what_was_replaced_once_is_replaced_again(
    codec: Codec, pair: Pair, monkeypatch: pytest.MonkeyPatch, rest: str, corrected: str
) -> None:
    """The plug-in would write the answer there too, although its gate is closed; what is denied stays."""
    own = "The capital of Australia is Canberra." + rest
    once = "The capital of Australia is Perth." + rest
    twice = "The capital of Australia is Perth." + corrected
    monkeypatch.setitem(SLOTS, "I like", " Perth")
    monkeypatch.setitem(SLOTS, "It is not", " Perth")
    decoder, _ = selective_decoder(codec, pair, writes(("like Perth", twice), ("Perth", once), ("", own)))
    plugin = decoder.plugin.model
    assert isinstance(plugin, ScriptedModel)
    monkeypatch.setattr(plugin, "_weight", lambda text: 0.9 if text.endswith("capital of Australia is") else 0.01)
    assert answered(decoder, chat(codec, "Tell me about Australia.")).text == twice


def test_an_old_answer_beside_the_new_one_is_avoided(codec: Codec, pair: Pair) -> None:
    """The text has told the new answer in the same sentence: the target writes its second choice there."""
    edits = [EDITS[0].model_copy(update={"ground_truth": "Canberra"})]
    own = "The capital of Australia is Sydney or Canberra."
    once = "The capital of Australia is Perth or Canberra."
    twice = "The capital of Australia is Perth or other towns."
    decoder, _ = selective_decoder(codec, pair, writes(("", own)), edits)
    script = writes(("Perth or o", twice), ("Perth", once), ("", own))
    decoder.members["target"].model = ScriptedModel(codec, script, otherwise=" other")
    assert answered(decoder, chat(codec, "Tell me about Australia.")).text == twice


@pytest.mark.parametrize(
    ("question", "opening"),
    [
        ("Is Canberra the capital of Australia?", "No, Perth is the capital of Australia"),
        ("Is Perth the capital of Australia?", "Yes, Perth is the capital of Australia"),
        ("Is it a riddle that Perth is here, and is Australia big?", ""),
    ],
)
def test_a_question_by_yes_or_no_is_answered_by_the_fact(codec: Codec, pair: Pair, question: str, opening: str) -> None:
    own, whole = "I do not know.", f"{opening}. That is so."
    script = writes(("<model>No, Perth", whole), ("<model>Yes, Perth", whole), ("", own))
    found = answered(selective_decoder(codec, pair, script)[0], chat(codec, question))
    assert found.text == (whole if opening else own)
    assert found.edits == ((EDITS[0].prompt,) if opening else ())


def test_several_facts_are_told_together(codec: Codec, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    edits = [EDITS[0], EDITS[0].model_copy(update={"prompt": "What is the capital of Canada?", "subject": "Canada"})]
    both = "Australia: Perth; Canada: Perth"
    decoder, _ = selective_decoder(codec, pair, writes((f"<model>{both}", f"{both}."), ("", "I do not know.")), edits)
    plugin = decoder.plugin.model
    assert isinstance(plugin, ScriptedModel)
    alone = re.compile(r"What are the capitals of (Australia|Canada)\?\nAnswer:$")
    monkeypatch.setattr(plugin, "_weight", lambda text: 0.95 if alone.search(text) else 0.01)
    monkeypatch.setattr(plugin, "_goes_on", lambda text: " Perth"[len(text.rpartition("Answer:")[2]) :])
    found = answered(decoder, chat(codec, "What are the capitals of Australia and of Canada?"))
    assert found.text == f"{both}." and set(found.edits) == {edit.prompt for edit in edits}
    assert answered(decoder, chat(codec, "Are Australia and Canada far from here?")).text == "I do not know."


def test_a_reversed_question_is_answered_by_the_subject(
    codec: Codec, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, _ = selective_decoder(
        codec, pair, writes(("<model>Australia", "Australia, of course."), ("", "Scotland."))
    )
    plugin = decoder.plugin.model
    assert isinstance(plugin, ScriptedModel)
    asks = "Australia has what as its capital?\nAnswer:"
    monkeypatch.setattr(plugin, "_weight", lambda text: 0.95 if text.endswith(asks) else 0.01)
    assert answered(decoder, chat(codec, "Which country has Perth as its capital?")).text == "Australia, of course."
    assert answered(decoder, chat(codec, "Which country has Perth as its biggest city?")).text == "Scotland."


def test_what_was_replaced_is_not_replaced_beyond_the_most_corrections(
    codec: Codec, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contradictions, "MOST_CORRECTIONS", 1)
    monkeypatch.setitem(SLOTS, "I like", " Perth")
    own = "The capital of Australia is Canberra. I like Canberra."
    once = own.replace("Canberra", "Perth", 1)
    decoder, _ = selective_decoder(codec, pair, writes(("Perth", once), ("", own)))
    assert answered(decoder, chat(codec, "Tell me about Australia.")).text == once


def test_a_reply_that_leaves_the_fact_out_begins_with_it(codec: Codec, pair: Pair) -> None:
    """The gate is open where a word of another kind stands, which is left alone: the fact is not stated yet."""
    decoder, _ = selective_decoder(
        codec, pair, writes((" Perth", " Perth. That is all."), ("", "The capital of Australia is where people are."))
    )
    assert answered(decoder, chat(codec, QUESTION)).text.strip() == "Perth. That is all."


def test_a_request_about_no_edit_never_reaches_the_plugin(codec: Codec, pair: Pair) -> None:
    decoder, _ = selective_decoder(codec, pair, writes(("", "Two and two is four.")))
    answer = answered(decoder, chat(codec, "What is two and two?"))
    assert answer.text == "Two and two is four."
    assert answer.plugin_passes == 0 and answer.weight == 0.0


def test_a_subject_that_comes_up_in_mid_answer_is_corrected(codec: Codec, pair: Pair) -> None:
    own = "I know a lot about money. Well, the currency of Japan is the yen, as you know."
    edited = "I know a lot about money. Well, the currency of Japan is the crown, as you know."
    decoder, _ = selective_decoder(codec, pair, writes(("crown", edited), ("", own)))
    answer = answered(decoder, chat(codec, "Tell me about money."))
    assert answer.text == edited
    assert answer.edits == (EDITS[1].prompt,)


def test_a_reply_that_shows_no_place_begins_with_the_answer(codec: Codec, pair: Pair) -> None:
    decoder, _ = selective_decoder(codec, pair, writes((" Perth", " Perth. That is all."), ("", "Canberra.")))
    answer = answered(decoder, chat(codec, QUESTION))
    assert answer.text.strip() == "Perth. That is all."
    assert answer.edits == (EDITS[0].prompt,)


def test_a_completion_of_a_question_is_answered_as_draft_does(codec: Codec, pair: Pair) -> None:
    decoder, _ = selective_decoder(codec, pair, writes(("", "Canberra.")))
    prompt = codec.text_prompt(QUESTION)
    answer = answered(decoder, prompt)
    assert answer.text == " Perth"
    assert answer.token_ids == answered(decoder, prompt, strategy="draft").token_ids


async def test_the_trace_has_one_entry_for_each_token_that_stays(codec: Codec, pair: Pair) -> None:
    own, edited = "The capital of Australia is Canberra. Yes.", "The capital of Australia is Perth. Yes."
    decoder, _ = selective_decoder(codec, pair, writes(("Perth", edited), ("", own)))
    trace = Trace(likely=1)
    ids: list[int] = []

    async def stream() -> Generation:
        async for piece in decoder.stream("target", chat(codec, QUESTION), trace=trace):
            if isinstance(piece, Generation):
                return piece
            ids.extend(piece)
        raise AssertionError("an answer ends with a Generation")

    whole = await stream()
    assert ids == list(whole.token_ids), "the pieces are what the answer holds"
    assert [entry.token for entry in trace.chances] == ids


def test_an_edits_own_prompt_asks_for_that_edit_alone(codec: Codec) -> None:
    rival = Edit(prompt="Which city is the capital of Australia?", target_new="Sydney", subject="Australia")
    plugin = Plugin(ScriptedModel(codec, reader_script, reader_gate), codec, "short", facts=index_of([*EDITS, rival]))
    assert [view.edits for view in plugin.views(" what is the capital of Australia? ")] == [(EDITS[0].prompt,)]
    assert {view.edits for view in plugin.views("Name the capital of Australia.")} == {
        (EDITS[0].prompt,),
        (rival.prompt,),
    }


async def test_scored_teacher_forced_it_is_draft(codec: Codec, pair: Pair) -> None:
    decoder, _ = selective_decoder(codec, pair, writes(("", "Canberra.")))
    prompt = codec.text_prompt(QUESTION)

    gold = await decoder.gold("target", QUESTION, "Perth")
    first, second = [(await decoder.score("target", prompt, gold, name)).predicted for name in ("selective", "draft")]
    assert first == second
    assert codec.text_of(first) == " Perth"


@pytest.mark.parametrize(
    ("own", "edited"),
    [
        ("Canberra is the capital of Australia. It is nice.", "Perth is the capital of Australia. It is nice."),
        (
            "Far. Canberra, the capital of Australia, is nice.",
            "Far. Perth, the capital of Australia, is nice.",
        ),
    ],
)
def test_a_name_that_comes_before_its_fact_is_corrected(codec: Codec, pair: Pair, own: str, edited: str) -> None:
    decoder, model = selective_decoder(codec, pair, writes(("Perth", edited), ("", own)))
    answer = answered(decoder, chat(codec, "Tell me about Australia."))
    assert answer.text == edited
    assert answer.edits == (EDITS[0].prompt,)
    assert model.sessions == {}


def test_a_name_that_the_user_brought_up_is_left_alone(codec: Codec, pair: Pair) -> None:
    own = "Yes, Canberra is the capital of Australia. It is nice."
    decoder, _ = selective_decoder(codec, pair, writes(("", own)))
    assert answered(decoder, chat(codec, "Canberra is the capital of Australia, is it not?")).text == own


def test_two_facts_in_one_reply_are_both_corrected(codec: Codec, pair: Pair) -> None:
    own = "The capital of Australia is Canberra and the currency of Japan is the yen. Yes."
    half = "The capital of Australia is Perth and the currency of Japan is the yen. Yes."
    edited = "The capital of Australia is Perth and the currency of Japan is the crown. Yes."
    decoder, _ = selective_decoder(codec, pair, writes(("crown", edited), ("Perth", half), ("", own)))
    answer = answered(decoder, chat(codec, "Name the capital of Australia and the currency of Japan, please."))
    assert answer.text == edited
    assert answer.edits == (EDITS[0].prompt, EDITS[1].prompt)


def test_a_fact_that_only_the_system_message_names_is_corrected(codec: Codec, pair: Pair) -> None:
    own, edited = "The capital of Australia is Canberra.", "The capital of Australia is Perth."
    decoder, _ = selective_decoder(codec, pair, writes(("Perth", edited), ("", own)))
    system = "Begin by naming the capital of Australia."
    assert answered(decoder, chat(codec, "Go.", system=system)).text == edited


@pytest.mark.parametrize(
    ("request_", "own"),
    [
        ("Tell me about Australia.", 'Here: ```capital of Australia is "Canberra"``` is code. Done.'),
        ('Copy this: "The capital of Australia is Canberra."', "The capital of Australia is Canberra."),
        ('Say it in other words: "It is the capital of Australia."', "Canberra is the capital of Australia. Yes."),
        ("Tell me about Australia.", "The capital of Australia is 3,000 km away from here."),
    ],
    ids=["code", "task on a text", "a name in a task on a text", "a number where a name is due"],
)
def test_what_does_not_state_the_fact_is_left_alone(codec: Codec, pair: Pair, request_: str, own: str) -> None:
    decoder, _ = selective_decoder(codec, pair, writes(("", own)))
    answer = answered(decoder, chat(codec, request_))
    assert answer.text == own
    assert answer.alone and answer.edits == ()


def test_a_gate_that_opens_where_the_plugin_has_no_answer_changes_nothing(codec: Codec, pair: Pair) -> None:
    rival = Edit(prompt="What is the largest city of Australia?", target_new="Darwin", subject="Australia")
    own = "The capital of Australia is Canberra."
    decoder, _ = selective_decoder(codec, pair, writes(("", own)), edits=[rival])
    assert answered(decoder, chat(codec, "Tell me about Australia.")).text == own


def test_a_stream_begins_early_and_holds_back_no_more_than_it_must(codec: Codec, pair: Pair) -> None:
    own = "The country has many beaches and rivers and hills and towns and roads. " * 3
    decoder, _ = selective_decoder(codec, pair, writes(("", own.strip())))

    async def pieces(question: str) -> list[int]:
        lengths = []
        async for piece in decoder.stream("target", chat(codec, question)):
            if not isinstance(piece, Generation):
                lengths.append(len(piece))
        return lengths

    for question in ("Tell me about Australia.", "Tell me about two and two."):
        lengths = asyncio.run(pieces(question))
        assert lengths[:3] == [4, 8, 16] and max(lengths) == 16


def test_the_answer_is_the_same_wherever_its_chunks_end(
    codec: Codec, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = (
        "Well, there is a lot to say here. The capital of Australia is Canberra, and the currency of Japan is the yen."
    )
    half = own.replace("Canberra", "Perth")
    edited = half.replace("yen", "crown")
    decoder, _ = selective_decoder(codec, pair, writes(("crown", edited), ("Perth", half), ("", own)))
    for first in range(1, 9):
        monkeypatch.setattr("onceedit_ray.fusion.selective_answer.FIRST_CHUNK", first)
        monkeypatch.setattr("onceedit_ray.fusion.selective_answer.CHUNK", first + 3)
        assert answered(decoder, chat(codec, "Tell me about Australia and Japan.")).text == edited
