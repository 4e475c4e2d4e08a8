"""The selection of edits: repeats, conflicts, samples, and the hash of the selection."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_ray.errors import ConfigError, ConflictError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.selection import OnConflict, data_hash, question_key, select
from tests.paths import DATA


def edit(prompt: str, answer: str = "a", **more: str) -> Edit:
    return Edit(prompt=prompt, target_new=answer, **more)


def prompts(edits: list[Edit]) -> list[str]:
    return [chosen.prompt for chosen in edits]


MANY = [edit(f"question {number}") for number in range(50)]


def test_repeats_are_dropped_and_the_first_stays() -> None:
    first = edit("Who  is it?", subject="it")
    assert select([first, edit(" Who is\nit? "), edit("Who is it?", " a ")]) == [first]


def test_composed_and_decomposed_characters_are_one_prompt() -> None:
    assert len(select([edit("Caf\u00e9?"), edit("Cafe\u0301?")])) == 1


def test_a_prompt_in_another_shape_is_the_same_prompt() -> None:
    """What is answered is the question in it, so two answers to it are a conflict."""
    edits = [Edit(prompt=prompt, target_new="x") for prompt in ("Who leads it?", "Q: Who leads it?\nA:")]
    assert select(edits) == edits[:1]
    assert question_key(edits[0].prompt) == question_key(edits[1].prompt)
    with pytest.raises(ConflictError):
        select([edits[0], edits[1].model_copy(update={"target_new": "y"})])


def test_case_distinguishes_prompts() -> None:
    both = [edit("What does US mean?", "country"), edit("What does us mean?", "we")]
    assert select(both) == both


def test_conflicts_are_named_counted_and_refused() -> None:
    pairs = [edit(f"Q{number}?", answer) for number in range(5) for answer in ("yes", "no")]
    with pytest.raises(ConflictError) as caught:
        select([*pairs, edit("fine?")])
    message = str(caught.value)
    assert "\n" not in message
    assert '"Q0?" has the answers "yes" and "no"' in message
    assert '"Q3?"' not in message
    assert "2 more such prompts" in message
    assert "on_conflict" in message and "'last'" in message


@pytest.mark.parametrize(("on_conflict", "answer"), [("first", "one"), ("last", "three")])
def test_first_or_last_wins_in_the_first_ones_place(on_conflict: OnConflict, answer: str) -> None:
    edits = [edit("Q?", "one"), edit("other"), edit("Q?", "two"), edit("Q?", "three")]
    assert [(chosen.prompt, chosen.target_new) for chosen in select(edits, on_conflict=on_conflict)] == [
        ("Q?", answer),
        ("other", "a"),
    ]


def test_last_means_the_answer_given_last_even_if_given_before() -> None:
    edits = [edit("Q?", "one"), edit("Q?", "two"), edit("Q?", "one")]
    assert select(edits, on_conflict="last")[0].target_new == "one"


def test_one_edit_of_each_subject_stays_and_those_without_a_subject() -> None:
    edits = [
        Edit(prompt="Who built Y?", target_new="a", subject="Y"),
        Edit(prompt="Y is by", target_new="b", subject="y"),
        Edit(prompt="P", target_new="c"),
        Edit(prompt="Q", target_new="d"),
        Edit(prompt="Z?", target_new="e", subject="Z"),
    ]
    assert [edit.target_new for edit in select(edits, on_conflict="first_per_subject")] == ["a", "c", "d", "e"]


def test_conflicts_count_even_outside_the_limit() -> None:
    with pytest.raises(ConflictError):
        select([edit("fine"), edit("Q?", "one"), edit("Q?", "two")], limit=1)


def test_repeats_do_not_use_up_the_limit() -> None:
    assert prompts(select([edit("1"), edit("1"), edit("2"), edit("3")], limit=2)) == ["1", "2"]


def test_without_seed_the_first_are_taken() -> None:
    assert select(MANY, limit=7) == MANY[:7]
    assert select(MANY, limit=1000, seed=1) == MANY


def test_a_sample_is_pinned() -> None:
    # The same on every machine and every Python: the rank is a hash, not a generator's state.
    assert prompts(select(MANY, limit=4, seed=0)) == ["question 26", "question 30", "question 43", "question 44"]


@given(seed=st.integers(0, 2**32), limit=st.integers(1, 49), order=st.randoms(use_true_random=False))
def test_a_sample_hangs_on_the_seed_alone_and_grows(seed: int, limit: int, order: random.Random) -> None:
    shuffled = list(MANY)
    order.shuffle(shuffled)
    sample = select(MANY, limit, seed)
    assert len(sample) == limit
    assert sample == [chosen for chosen in MANY if chosen in sample]
    assert set(select(shuffled, limit, seed)) == set(sample) <= set(select(MANY, limit + 1, seed))


def test_seeds_differ() -> None:
    assert len({tuple(prompts(select(MANY, 5, seed))) for seed in range(10)}) == 10


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        select(MANY, limit=0)
    with pytest.raises(ConfigError, match="'error', 'first', 'last', 'first_per_subject'"):
        select(MANY, on_conflict="newest")  # type: ignore[arg-type]


def test_data_hash_is_pinned_and_sees_every_field_and_the_order() -> None:
    canonical = '[{"prompt":"Q?","target_new":"\\u00e9"}]'
    assert data_hash([edit("Q?", "é")]) == hashlib.sha256(canonical.encode()).hexdigest()
    variants = [[edit("Q?")], [edit("Q?", subject="Q")], [edit("Q?"), edit("R?")], [edit("R?"), edit("Q?")], []]
    assert len({data_hash(variant) for variant in variants}) == len(variants)


def test_counterfact_has_conflicts_and_is_read_with_first() -> None:
    edits = read_edits(DATA / "counterfact_edit.parquet")
    with pytest.raises(ConflictError, match="44 more such prompts"):
        select(edits, limit=100, seed=0)
    assert len(select(edits, on_conflict="first")) == 8935
