"""The terms of a text, what they weigh, and which forms of a word are one."""

from __future__ import annotations

import unicodedata

import pytest

from onceedit_ray.knowledge.terms import UNLISTED, content, terms, weight
from onceedit_ray.knowledge.vocabulary import Vocabulary, is_form_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ça, c'est l'ÉTÉ 2024", ["ca", "c", "est", "l", "ete", "2024"]),
        ("C++ vs C#!", ["c", "++", "vs", "c", "#"]),
        ("the XK-7721, or xk7721", ["the", "xk", "7721", "or", "xk", "7721"]),
        ("!!! Wow!", ["!!!", "wow"]),
        ("東京は", ["東", "東京", "京", "京は", "は"]),
        ("서울", ["서", "서울", "울"]),
        ("Ørsted, ŁÓDŹ & Straße", ["orsted", "lodz", "strasse"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("“Apple™”—fine", ["apple", "fine"]),
        ("", []),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_terms_of_every_unicode_form(form: str, text: str, expected: list[str]) -> None:
    assert terms(unicodedata.normalize(form, text)) == expected  # type: ignore[arg-type]


def test_what_says_more_weighs_more() -> None:
    assert weight("the") < weight("office") < weight("lantern") < weight("norland") == UNLISTED
    assert weight("1984") < weight("7721") < UNLISTED


def test_content_leaves_out_function_words_and_paired_characters() -> None:
    assert content(terms("Where is the capital of 東京, the capital?")) == ("capital", "東京")


@pytest.mark.parametrize(
    ("asked", "word", "expected"),
    [
        ("australian", "australia", True),
        ("italian", "italy", True),
        ("belgian", "belgium", True),
        ("portuguese", "portugal", True),
        ("german", "germany", True),
        ("whiteheads", "whitehead", True),
        ("austria", "australia", False),
        ("australia", "austria", False),
        ("india", "indiana", False),
        ("major", "majorca", False),
        ("ford", "fordham", False),
    ],
)
def test_forms(asked: str, word: str, expected: bool) -> None:
    vocabulary = Vocabulary()
    vocabulary.add([word])
    assert is_form_of(asked, word) is expected
    assert vocabulary.forms(asked) == ([word] if expected else [])


def test_slips() -> None:
    vocabulary = Vocabulary()
    vocabulary.add(["australia", "chad", "norland", "norland"])
    assert vocabulary.near("austrlia") == ["australia"]
    assert vocabulary.near("norlnad") == ["norland"]  # two neighbours changed over are one slip
    assert vocabulary.near("nolnad") == vocabulary.near("chda") == []
    vocabulary.drop(["norland"])
    assert vocabulary.near("norlnad") == ["norland"]
    vocabulary.drop(["norland"])
    assert vocabulary.near("norlnad") == []
