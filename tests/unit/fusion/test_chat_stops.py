"""The answer of a model without a chat template ends before the next question of the plain chat."""

from __future__ import annotations

import asyncio

import pytest

from onceedit_ray.fusion import selective_answer
from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.fusion.strategies import Pair
from onceedit_ray.models import codec as codecs
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.prompt import first_stop
from tests.small_decoding import decoder_of
from tests.small_reader import QUESTION, chat, selective_decoder, writes
from tests.small_system import TaughtModels

CHAT = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_text_ends_before_the_first_stop_string() -> None:
    assert first_stop("Perth.\n\nQuestion: Who?\nAnswer: Ada", ("\nAnswer:", "\n\nQuestion:")) == len("Perth.")
    assert first_stop("Perth.", ("\nAnswer:",)) is None


def test_a_generated_answer_ends_before_a_stop_string(models: TaughtModels, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(models, 0.0)
    name = next(name for name, member in decoder.members.items() if not member.codec.tokenizer.chat_template)
    codec = decoder.member(name).codec

    def answer(*stops: str) -> Generation:
        monkeypatch.setattr(codecs, "PLAIN_CHAT_STOPS", stops)
        return asyncio.run(decoder.generate(name, codec.chat_prompt(CHAT), UNEDITED, 24))

    whole = answer()
    middle = whole.text[len(whole.text) // 2 :][:4]
    got = answer(middle, "not in it")
    assert got.text == whole.text[: whole.text.find(middle)].lstrip() and got.ended
    *kept, end = got.token_ids
    assert end in codec.end_ids and tuple(kept) == whole.token_ids[: len(kept)]
    assert got.text.startswith(codec.text_of(kept).lstrip()), "no token of what was cut off is left"
    assert answer("not in it").text == whole.text.lstrip()


GOES_ON = "\nQuestion: The capital of Australia is Canberra.\nQuestion:"


@pytest.mark.parametrize("own", ["A city.", "No.", "Oh"])
def test_a_fact_is_told_in_the_reply_and_not_only_after_its_end(
    own: str, codec: Codec, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a target goes on with a question of its own, the answer to that one is corrected, which nobody sees."""
    monkeypatch.setattr(selective_answer, "CHUNK", 80)  # characters, nearly: as much text as 16 real tokens hold
    decoder, model = selective_decoder(codec, pair, writes(("", own + GOES_ON)))
    assert not codec.tokenizer.chat_template
    edited = asyncio.run(decoder.generate("target", chat(codec, QUESTION)))
    assert edited.text.startswith("Perth") or "Perth" in edited.text.partition("\n")[0], edited.text
    assert "Question:" not in edited.text and edited.ended
    assert model.sessions == {}


def test_an_answer_about_something_else_has_the_unedited_tokens(codec: Codec, pair: Pair) -> None:
    for length in range(1, 12):  # the stop string begins at any place of a chunk
        own = "It is " + "very " * length + "old."
        decoder, _ = selective_decoder(codec, pair, writes(("", own + GOES_ON.replace("capital", "age"))))
        asked = chat(codec, "How old is the Eiffel Tower?")
        unedited, edited = (asyncio.run(decoder.generate("target", asked, each)) for each in (UNEDITED, "selective"))
        assert edited.token_ids == unedited.token_ids and edited.text == unedited.text == own
