"""The answer of a model without a chat template ends before the next question of the plain chat."""

from __future__ import annotations

import asyncio

import pytest

from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.models import codec as codecs
from onceedit_ray.models.prompt import first_stop
from tests.small_decoding import decoder_of
from tests.small_system import TaughtModels

CHAT = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_text_ends_before_the_first_stop_string() -> None:
    assert first_stop("Perth.\n\nQuestion: Who?\nAnswer: Ada", ("\nAnswer:", "\n\nQuestion:")) == len("Perth.")
    assert first_stop("Perth.", ("\nAnswer:",)) is None


def test_a_generated_answer_ends_before_a_stop_string(models: TaughtModels, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of(models, 0.0)
    name = next(name for name, member in decoder.members.items() if not member.codec.tokenizer.chat_template)
    codec = decoder.member(name).codec

    def answer(*stops: str) -> tuple[str, int, bool]:
        monkeypatch.setattr(codecs, "PLAIN_CHAT_STOPS", stops)
        got = asyncio.run(decoder.generate(name, codec.chat_prompt(CHAT), UNEDITED, 24))
        return got.text, len(got.token_ids), got.ended

    whole, length, _ = answer()
    middle = whole[len(whole) // 2 :][:4]
    text, tokens, ended = answer(middle, "not in it")
    assert text == whole[: whole.find(middle)].lstrip() and ended
    assert tokens <= length
    assert answer("not in it")[0] == whole.lstrip()
