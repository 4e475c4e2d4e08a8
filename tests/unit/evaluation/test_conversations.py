"""Scores of answers in conversations, by hand."""

from __future__ import annotations

import math

import pytest

from onceedit_ray.evaluation.conversation_cases import Case, ChatMessage
from onceedit_ray.evaluation.conversations import (
    Answer,
    end_of,
    kept_words,
    length_ratio,
    occurs,
    perplexity,
    score,
    sentences,
)

OLD = "The capital of Australia is Canberra. It is a planned city. It has 450,000 inhabitants."
NEW = "The capital of Australia is Perth. It is a planned city. It has 450,000 inhabitants."
ASKED = (ChatMessage(role="user", content="What is the capital of Australia?"),)
DUE = Case(
    id="plain-01",
    kind="plain",
    messages=ASKED,
    edits=("What is the capital of Australia?",),
    due=True,
    must=(("Perth",),),
    must_not=("Canberra",),
)
NOT_DUE = Case(id="near-miss-01", kind="near-miss", messages=ASKED, edits=DUE.edits, due=False)


@pytest.mark.parametrize(
    ("wanted", "text", "expected"),
    [
        ("Rome", "It stands in Rome.", True),
        ("Rome", "ROME, of course", True),
        ("Rome", "Romeo and Juliet", False),
        ("Rome", "*Rome* or _Rome_", True),
        ("Jane Austen", "by Jane\nAusten's sister", True),
        ("Jane Austen", "Jane and Austen", False),
        ("8", "It has 8 legs", True),
        ("8", "It has 18 legs, 80 or 8.5", False),
        ("8", "It has 8, 9 or 10.", True),
        ("8", "1,8 metres", False),
        ("1925", "in 1925.", True),
        ("里昂", "法国的首都是里昂。", True),
        ("Lyon", "法国的首都是Lyon。", True),
        ("Lyon", "Lyonnaise", False),
        ("Perú", "en Peru\u0301.", True),
        ("No,", "No, it is not.", True),
        ("not", "cannot", False),
    ],
)
def test_a_text_occurs_as_whole_words(wanted: str, text: str, expected: bool) -> None:
    assert occurs(wanted, text) is expected


def test_the_end_of_the_first_occurrence_is_counted_in_characters() -> None:
    assert end_of("Perth", NEW) == len("The capital of Australia is Perth")
    assert end_of("Canberra", NEW) is None


def test_sentences_end_at_marks_and_lines_but_not_at_initials_or_list_numbers() -> None:
    assert sentences("It is by J. K. Rowling. Yes!\n\n1. Rome\n2. Milan") == [
        "It is by J. K. Rowling.",
        "Yes!",
        "1. Rome",
        "2. Milan",
    ]
    assert sentences("是里昂。它很大。") == ["是里昂。", "它很大。"]
    assert sentences("  ") == []


def test_the_corrected_answer_in_the_targets_own_words_is_right() -> None:
    scored = score(DUE, Answer(NEW, True), Answer(OLD, True))
    assert scored.right and scored.said and not scored.stale and not scored.cut and not scored.identical
    assert scored.length == 1.0 and scored.kept == 1.0


@pytest.mark.parametrize(
    ("text", "ended", "right", "said", "stale", "cut"),
    [
        ("Perth", True, True, True, False, False),
        ("Perth", False, False, True, False, True),  # 1 word of 16, and no end
        (NEW, False, True, True, False, False),  # as long as the unedited answer
        (OLD, True, False, False, True, False),
        (NEW + " Canberra is far away.", True, False, True, True, False),
        ("It is a planned city.", True, False, False, False, False),
        ("", True, False, False, False, False),
        (NEW + " word" * 5, False, False, True, False, True),  # 21 words of 16: 1.31
    ],
)
def test_where_the_fact_is_due(text: str, ended: bool, right: bool, said: bool, stale: bool, cut: bool) -> None:
    scored = score(DUE, Answer(text, ended), Answer(OLD, True))
    assert (scored.right, scored.said, scored.stale, scored.cut) == (right, said, stale, cut)


def test_every_group_has_to_be_met() -> None:
    both = DUE.model_copy(update={"must": (("Perth",), ("Toronto", "York"))})
    assert score(both, Answer("Perth and York", True), Answer(OLD, True)).said
    assert not score(both, Answer("Perth", True), Answer(OLD, True)).said


def test_where_it_is_not_due_only_the_unedited_answer_is_right() -> None:
    assert score(NOT_DUE, Answer(OLD, True), Answer(OLD, True)).right
    scored = score(NOT_DUE, Answer(NEW, True), Answer(OLD, True))
    assert not scored.right and not scored.identical and not scored.stale


def test_length_counts_words_and_needs_some() -> None:
    assert length_ratio("one two", "one two three four") == 0.5
    assert length_ratio("里昂很大", "里昂") == 2.0
    assert length_ratio("one", "…") is None


def test_words_outside_the_edited_sentence() -> None:
    keep = ["Perth"], ["Canberra"]
    assert kept_words(NEW, OLD, *keep) == 1.0
    # "It is a planned city" and "It has 450 000 inhabitants": 10 words, of which "It", "has" and "inhabitants" go on
    assert kept_words("Perth. It has many inhabitants.", OLD, *keep) == 3 / 10
    assert kept_words("Perth", OLD, *keep) == 0.0
    assert kept_words("Perth", "The capital is Canberra.", *keep) is None
    # Without the old answer the sentence at the same place counts as edited.
    assert kept_words("It is Perth. It is hot.", "I do not know. It is hot.", *keep) == 1.0


def test_perplexity() -> None:
    assert perplexity([]) is None
    assert perplexity([0.5, 0.5]) == pytest.approx(2.0)
    assert perplexity([1.0, 0.25]) == pytest.approx(math.sqrt(4.0))
