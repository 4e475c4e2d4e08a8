"""Near misses: about the fact's subject, never about the fact."""

from __future__ import annotations

import random

import pytest

from onceedit_ray.reader.facts import Fact, kind_of, load_data, of_relation, relations
from onceedit_ray.reader.near_misses import clashes, close_statement, near_miss


def test_a_near_miss_names_the_subject_and_does_not_ask_for_the_fact() -> None:
    rng = random.Random(0)
    fact = of_relation("P36", "Sweden", "Rome", rng)
    misses = {near_miss(fact, rng) for _ in range(600)}
    assert len(misses) > 60
    assert all("Sweden" in miss for miss in misses)
    assert not misses & {*fact.asks, *fact.says}
    assert "What is the biggest city of Sweden?" in misses, "a close miss: another city"
    assert "What is the climate of Sweden like?" in misses, "a far miss: no city at all"
    population = Fact("How many people live in Sweden?", "5", "Sweden", "population", ())
    assert not any(miss == population.prompt for miss in (near_miss(population, rng) for _ in range(300)))


@pytest.mark.parametrize("name", sorted(relations()))
def test_no_relation_is_its_own_near_miss(name: str) -> None:
    rng = random.Random(1)
    fact = of_relation(name, "Xanadu", "Rome", rng)
    own = {*fact.asks, *fact.says}
    assert not own & {near_miss(fact, rng) for _ in range(400)}
    said = [said for _ in range(100) if (said := close_statement(fact, rng))]
    assert not own & {form for asks, says, _ in said for form in (asks, says)}
    assert all("Xanadu" in asks and "Xanadu" in says and answer for asks, says, answer in said)


def test_every_group_of_close_misses_serves_some_fact_and_names_a_list_of_answers() -> None:
    kinds = {relation["kind"] for relation in relations().values()} | {"person", "place", "year", "language"}
    lists = {*load_data("everyday.yaml"), "year", "length", "number"}
    for group in load_data("close_misses.yaml"):
        assert set(group.get("of", ())) <= kinds, group["of"]
        assert all("{s}" in form for form in [*group["asks"], *group["says"]])
        assert not group["says"] or group["answer"] in lists


def test_the_end_is_a_close_miss_of_the_beginning_and_not_of_itself() -> None:
    rng = random.Random(2)
    began = Fact("What year did the fair start?", "1999", "the fair", kind_of("What year did the fair start?"), ())
    ended = Fact("What year did the fair end?", "1999", "the fair", kind_of("What year did the fair end?"), ())
    assert "When did the fair end?" in {near_miss(began, rng) for _ in range(600)}
    assert "When did the fair begin?" in {near_miss(ended, rng) for _ in range(600)}
    assert "When did the fair end?" not in {near_miss(ended, rng) for _ in range(600)}


def test_kinds_that_may_mean_the_same_answer() -> None:
    assert clashes("place", "birth") and clashes("birth", "place")
    assert clashes("person", "composer") and clashes("year", "ended")
    assert not clashes("currency", "place")
    assert clashes("", "currency"), "of an unknown kind nothing is surely another"
