"""The training examples of a reader: their views, spans and labels, and that no held-out data is used."""

from __future__ import annotations

import itertools
import random

import pytest

from onceedit_ray.models.prompt import Exchange
from onceedit_ray.reader.examples import Example
from onceedit_ray.reader.facts import (
    HELD_OUT_QUESTIONS,
    everyday_facts,
    held_out_relations,
    kind_of,
    relations,
)
from onceedit_ray.reader.view import asked, line_of, read_along
from tests.reader_source import source


@pytest.fixture(scope="module")
def drawn() -> list[Example]:
    return list(itertools.islice(source().stream(3), 3000))


def test_views_end_where_the_answer_begins() -> None:
    line = line_of("The capital of  Sweden is", " Rome\n")
    assert line == "Fact: The capital of Sweden is Rome"
    assert asked([line], " And now? ") == f"{line}\nQuestion: And now?\nAnswer:"
    turns = [Exchange("Hi", "Hello")]
    assert read_along([line], "Who?", turns) == f"{line}\nQuestion: Hi\nReply: Hello\nQuestion: Who?\nReply:"
    assert read_along([line], "", turns) == f"{line}\nText:"


def test_a_span_holds_an_answer_that_stands_in_a_fact(drawn: list[Example]) -> None:
    spans = [(example, start, end) for example in drawn for start, end in example.spans]
    assert len(spans) > 1000
    for example, start, end in spans:
        answer = example.text[start:end].strip()
        assert any(line.endswith(f" {answer}") for line in example.view.splitlines() if line.startswith("Fact: "))


def test_an_asked_example_has_its_answer_or_none(drawn: list[Example]) -> None:
    of = [example for example in drawn if example.asks is not None]
    assert 0.4 < sum(bool(example.asks) for example in of) / len(of) < 0.6
    for example in of:
        assert example.view.endswith("Answer:")
        assert bool(example.text) == bool(example.asks)
        assert not example.asks or example.spans == ((0, len(example.text)),)


def test_texts_with_and_without_a_place_for_the_answer(drawn: list[Example]) -> None:
    along = [example for example in drawn if example.asks is None]
    assert all(example.view.endswith(("Reply:", "Text:")) for example in along)
    due = sum(bool(example.spans) for example in along) / len(along)
    assert 0.3 < due < 0.8
    later = [example for example in along if len(example.unclear) and "French is" not in example.text]
    assert all(start < end <= len(example.text) for example in later for start, end in example.unclear)


def test_the_same_seed_gives_the_same_examples(drawn: list[Example]) -> None:
    assert list(itertools.islice(source().stream(3), 200)) == drawn[:200]
    assert list(itertools.islice(source().stream(4), 200)) != drawn[:200]


def test_relations_that_are_held_out_take_no_part(drawn: list[Example]) -> None:
    assert held_out_relations() == {"P20", "P140", "P413", "P449"}
    assert held_out_relations().isdisjoint(relations())
    names = {fact.relation for fact in itertools.islice(everyday_facts(random.Random(1)), 500)}
    assert names.isdisjoint(held_out_relations())
    assert not any("passed away" in example.view or "religion of" in example.view for example in drawn)


@pytest.mark.parametrize(
    ("question", "held_out"),
    [
        ("What is the voice type of Alois Ander?", True),
        ("In what city did Daniel Blagrave die?", True),
        ("Which constellation is Kepler-5 in?", True),
        ("What is the native language of Ann Lee?", False),
        ("Who was the diehard fan?", False),
    ],
)
def test_held_out_questions_of_zsre(question: str, held_out: bool) -> None:
    assert bool(HELD_OUT_QUESTIONS.search(question)) == held_out


def test_the_kind_of_a_question() -> None:
    assert kind_of("When was it built?") == "year"
    assert kind_of("Who built it?") == "person"
    assert kind_of("What colour is it?") == ""
