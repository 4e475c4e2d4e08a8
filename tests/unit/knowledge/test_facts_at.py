"""Versions that share an index: each finds its own facts, and what no version knows leaves the index."""

from __future__ import annotations

import random

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.revision import Change, StoredEdit


def fact(id: str, place: str, answer: str) -> StoredEdit:
    return StoredEdit(id, Edit(prompt=f"What is the capital of {place}?", target_new=answer, subject=place), revision=1)


OLD, NEW, OTHER = fact("a1", "Australia", "Perth"), fact("a2", "Australia", "Sydney"), fact("b1", "Brazil", "Rio")


def answers(facts: FactsAt, place: str) -> list[str]:
    return [found.edit.target_new for found in facts.find(f"Tell me the capital of {place}.")]


def test_a_running_request_keeps_its_facts() -> None:
    first = FactsAt.of([OLD])
    second = first.after(Change(1, 2, added=(NEW, OTHER), dropped=(OLD,)))
    assert (answers(first, "Australia"), answers(second, "Australia")) == (["Perth"], ["Sydney"])
    assert (answers(first, "Brazil"), answers(second, "Brazil")) == ([], ["Rio"])
    assert (len(first), len(second), len(second.index)) == (1, 2, 3)
    first.leave()
    assert "a1" not in second.index and len(second) == len(second.index) == 2
    assert answers(second, "Australia") == ["Sydney"]


def test_a_restored_fact_is_found_by_the_versions_that_know_it() -> None:
    first = FactsAt.of([OLD])
    second = first.after(Change(1, 2, dropped=(OLD,)))
    third = second.after(Change(2, 3, added=(OLD,)))
    assert [answers(facts, "Australia") for facts in (first, second, third)] == [["Perth"], [], ["Perth"]]
    second.leave()
    first.leave()
    assert answers(third, "Australia") == ["Perth"] and len(third.index) == 1


def test_any_history_is_found_as_an_index_of_its_own_would_find_it() -> None:
    draw = random.Random(3)
    places = ["Australia", "Brazil", "Canada", "Denmark", "Estonia"]
    known: dict[str, StoredEdit] = {}
    using: list[tuple[FactsAt, dict[str, StoredEdit]]] = [(FactsAt.of([]), {})]
    for number in range(120):
        place = draw.choice(places)
        dropped = tuple(held for held in known.values() if held.edit.subject == place)
        added = () if dropped and draw.random() < 0.5 else (fact(f"id{number:03}", place, f"City {number}"),)
        known = {id: held for id, held in known.items() if held not in dropped} | {each.id: each for each in added}
        using.append((using[-1][0].after(Change(number, number + 1, added, dropped)), known))
        while len(using) > 1 and draw.random() < 0.5:
            using.pop(draw.randrange(len(using) - 1))[0].leave()
        for facts, state in using:
            assert len(facts) == len(state)
            for asked in places:
                alone = [held.edit.target_new for held in state.values() if held.edit.subject == asked]
                assert answers(facts, asked) == alone
    for facts, _ in using[:-1]:
        facts.leave()
    assert len(using[-1][0].index) == len(known)
