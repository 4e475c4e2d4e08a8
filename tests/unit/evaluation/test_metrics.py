"""Scores on cases worked out by hand, and properties that hold for any input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_ray.evaluation.metrics import (
    GateFigures,
    average,
    drift,
    gate_figures,
    generation_accuracy,
    normalise_text,
    text_match,
    token_accuracy,
)

TOKENS = st.lists(st.integers(0, 5), min_size=1, max_size=8)


def test_token_accuracy_gives_partial_credit() -> None:
    assert token_accuracy([5, 7, 9, 2], [5, 8, 9, 2]) == 0.75
    assert token_accuracy([1], [1]) == 1.0
    assert token_accuracy([1, 2], [2, 1]) == 0.0


def test_token_accuracy_refuses_another_number_of_positions() -> None:
    with pytest.raises(ValueError, match="3 predicted tokens for 2 gold"):
        token_accuracy([1, 5, 7], [5, 7])
    with pytest.raises(ValueError, match="at least one token"):
        token_accuracy([], [])


@pytest.mark.parametrize(
    ("generated", "gold", "score"),
    [
        ([5, 7, 9, 2], [5, 7, 9, 2], 1.0),
        ([5, 7], [5, 7, 9, 2], 0.5),  # ended early: the rest are mismatches
        ([], [5, 7], 0.0),
        ([5, 7, 9, 9, 9], [5, 7], 1.0),  # longer output is ignored
        ([7, 5, 7], [5, 7, 9], 0.0),  # position by position, not as a bag or a shifted text
        ([], [], 1.0),  # locality: both said nothing
        ([5], [], 0.0),  # locality: the unedited target said nothing
    ],
)
def test_generation_accuracy(generated: list[int], gold: list[int], score: float) -> None:
    assert generation_accuracy(generated, gold) == score


@given(TOKENS, TOKENS)
def test_generation_accuracy_is_token_accuracy_on_the_gold_positions(generated: list[int], gold: list[int]) -> None:
    padded = (generated + [-1] * len(gold))[: len(gold)]
    assert generation_accuracy(generated, gold) == token_accuracy(padded, gold)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("  The  Hague.\n", "the hague"),
        ("“Straße”", "strasse"),
        ("ﬁnal Ｘ２", "final x2"),  # ligature and full width
        ("16 ㎆", "16 mb"),  # one character that stands for two capitals
        ("José", "josé"),  # a combining accent is composed, not dropped
        ("the Beatles", "the beatles"),  # articles stay: "The Who" is not "Who"
        ("Washington, D.C.", "washington, d.c"),
        ("**English**", "english"),
        ("C#", "c#"),
        ("50%", "50%"),
        ("-5", "-5"),
        ('"-5"', "-5"),
        ("- 5", "5"),
        ("...2006", "2006"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalise_text(text: str, normalised: str) -> None:
    assert normalise_text(text) == normalised


@given(st.text(max_size=30))
def test_normalise_text_changes_nothing_twice(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once


@pytest.mark.parametrize(
    ("generated", "target"),
    [
        (" 2006", "2006"),
        (" 2006, in Berlin", "2006"),
        (" 2006.", "2006"),
        ("\n'ENGLISH' is", "English"),
        ("English-speaking", "English"),
        ("new\nyork city", "New York"),
        ("Washington, D.C., where", "Washington, D.C."),
        ("东京都", "东京"),  # no spaces between words: the plain prefix decides
        ("", ""),
        ("?!", "?!"),
    ],
)
def test_text_match_accepts(generated: str, target: str) -> None:
    assert text_match(generated, target) == 1.0


@pytest.mark.parametrize(
    ("generated", "target"),
    [
        (" 20061", "2006"),
        ("2006.5", "2006"),
        ("1,000", "1"),
        ("Englishman", "English"),
        ("Engl", "English"),
        ("in 2006", "2006"),  # it must start with the answer
        ("The English", "English"),
        ("Jose\u0301", "Jose"),  # another letter, however it is encoded
        ("कि", "क"),  # a vowel sign belongs to its letter
        ("", "English"),
        ("English", ""),
        ("...", "?!"),
    ],
)
def test_text_match_refuses(generated: str, target: str) -> None:
    assert text_match(generated, target) == 0.0


@given(st.text(max_size=20), st.text(alphabet=" abcXYZ.,-é1", max_size=10))
def test_text_match_of_a_text_with_itself_and_with_more_words(target: str, more: str) -> None:
    assert text_match(target, target) == 1.0
    if normalise_text(target):
        assert text_match(f" {target.upper().lower()} ; {more}", target.upper().lower()) == 1.0


@given(st.text(min_size=1, max_size=12), st.characters(categories=["L", "N"], max_codepoint=0x24F))
def test_text_match_never_accepts_half_a_word(target: str, letter: str) -> None:
    word = "x" + normalise_text(target).replace(" ", "") + "x"
    assert text_match(word + letter, word) == 0.0


def test_average_is_over_what_was_scored() -> None:
    assert average(0.9, 0.6, 0.3) == pytest.approx(0.6)
    assert average(0.8, None, 0.6) == pytest.approx(0.7)
    assert average(None, None, None) is None
    assert average(0.0, 0.0, 0.0) == 0.0


def test_gate_figures() -> None:
    assert gate_figures([0.0, 0.5, 0.75, 0.25], threshold=0.5) == GateFigures(mean=0.375, share_above=0.5, n=4)
    with pytest.raises(ValueError, match="no gate weights"):
        gate_figures([], threshold=0.5)


def test_drift_is_the_share_left_unchanged() -> None:
    assert drift([True, True, False, True]) == 0.75
    with pytest.raises(ValueError, match="at least one"):
        drift([])
