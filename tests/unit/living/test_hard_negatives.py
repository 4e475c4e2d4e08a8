"""Hard negatives: near an edit, and never a request for it."""

from __future__ import annotations

import random

import pytest

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.living.hard_negatives import MOST_OF_ONE, around, near_misses, swaps, tasks

CAPITAL = Edit(
    prompt="What is the capital of Australia?",
    target_new="Perth",
    subject="Australia",
    rephrasings=("Australia's seat of government is",),
)
AUTHOR = Edit(prompt="Who wrote Romeo and Juliet?", target_new="Jane Austen", subject="Romeo and Juliet")
OFFICE = Edit(prompt="Our office opens at", target_new="9")
APPLE = Edit(prompt="Who leads Apple?", target_new="Ada", subject="Apple")


def misses(edit: Edit, count: int = 40) -> list[str]:
    return near_misses(edit, random.Random(0), count)


def test_near_misses_name_the_subject_and_are_not_the_edit() -> None:
    found = misses(AUTHOR)
    assert len(found) > 10 and all("Romeo and Juliet" in text for text in found)
    assert AUTHOR.prompt not in found


def test_an_edit_without_a_subject_has_near_misses_too() -> None:
    found = misses(OFFICE)
    assert "another company's office opens at" in found, "the same thing of somebody else"
    assert any("office" in text and "opens" not in text for text in found), "a request about one of its words"
    assert OFFICE.prompt not in found


def test_a_subject_that_may_be_a_common_word_is_asked_for_as_one() -> None:
    found = misses(APPLE)
    assert any("apple" in text for text in found) and any("Apple" in text for text in found)
    assert not [text for text in misses(AUTHOR) if "romeo" in text]


def test_an_edit_whose_words_say_nothing_has_no_near_misses() -> None:
    assert misses(Edit(prompt="谁是我们的经理", target_new="王")) == misses(Edit(prompt="a b c", target_new="d")) == []


def test_tasks_hold_the_prompt() -> None:
    found = tasks(CAPITAL, random.Random(0), 5)
    assert len(set(found)) == 5 and all(CAPITAL.prompt in text and text != CAPITAL.prompt for text in found)


def test_swaps_ask_of_a_subject_what_another_edit_asks() -> None:
    others = [CAPITAL, AUTHOR, OFFICE, Edit(prompt="Zora is", target_new="tall", subject="Zora")]
    assert swaps(CAPITAL, others, random.Random(0), 5) == ["Who wrote Australia?"]
    assert swaps(OFFICE, others, random.Random(0), 5) == []


@pytest.mark.parametrize("most", [3, 200])
def test_no_kind_is_larger_than_asked_for_and_none_asks_for_a_live_edit(most: int) -> None:
    wrote = Edit(prompt="who wrote  Australia?", target_new="Ann", subject="Australia")
    live = [CAPITAL, AUTHOR, OFFICE, APPLE, wrote]
    found = around(live, live, most)
    assert found == around(live, live, most)
    assert found.keys() == {"near_misses", "tasks", "swaps"}
    assert all(0 < len(texts) <= min(most, MOST_OF_ONE * len(live)) for texts in found.values())
    assert "Who wrote Australia?" not in found["swaps"]
