"""An answer that is made again: the client gets each character and each scored token once."""

from __future__ import annotations

import pytest

from onceedit_ray.errors import ModelError
from onceedit_ray.serving.given import Given
from onceedit_ray.serving.logprobs import Likely, Piece, Scored


def scored(text: str) -> Scored:
    return Scored(Likely(text.encode(), "", -1.0), 0, ())


def test_text_that_was_sent_is_dropped_wherever_the_pieces_are_cut() -> None:
    given = Given()
    assert [given.beyond(Piece(text)) for text in ("He", "llo")] == [Piece("He"), Piece("llo")]
    given.again()
    assert [given.beyond(Piece(text)) for text in ("Hell", "o the", "re")] == [None, Piece(" the"), Piece("re")]
    given.again()
    assert [given.beyond(Piece(text)) for text in ("Hello there", "!")] == [None, Piece("!")]
    given.check_ended()


def test_scored_tokens_are_given_once() -> None:
    given, first, second, third = Given(), scored("a"), scored("b"), scored("c")
    assert given.beyond(Piece("a", (first,))) == Piece("a", (first,))
    given.again()
    assert given.beyond(Piece("ab", (first, second))) == Piece("b", (second,))
    assert given.beyond(Piece("", (third,))) == Piece("", (third,)), "a token without text"
    given.again()
    assert given.beyond(Piece("ab", (first, second))) is None
    assert given.beyond(Piece("", (third,))) is None


def test_an_answer_that_differs_is_not_continued() -> None:
    for pieces in (["Perth"], ["Rom", "e"]):
        given = Given()
        given.beyond(Piece("Rome is"))
        given.again()
        with pytest.raises(ModelError, match="ask again"):
            for piece in pieces:
                given.beyond(Piece(piece))
            given.check_ended()
