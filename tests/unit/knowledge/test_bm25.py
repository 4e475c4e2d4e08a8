"""BM25 over edits, held against the formula worked out by hand."""

from __future__ import annotations

import math

import pytest

from onceedit_ray.knowledge.bm25 import K1, B, Bm25
from onceedit_ray.knowledge.edit import Edit

EDITS = {
    "a": Edit(prompt="The capital of Peru is", target_new="Cusco"),
    "b": Edit(prompt="The capital of Chile is", target_new="Arica"),
    "c": Edit(prompt="Bees make", target_new="butter"),
}


def test_the_score_is_the_formula() -> None:
    # Content words: capital, peru, cusco; capital, chile, arica; bees, butter ("make" is a function word or it is not).
    index = Bm25(EDITS)
    found = dict(index.most_similar("capital", 3))
    assert set(found) == {"a", "b"}
    idf = {"capital": math.log(1 + (3 - 2 + 0.5) / 2.5), "peru": math.log(1 + (3 - 1 + 0.5) / 1.5)}
    lengths = [index._by_word["capital"]["a"] / idf["capital"], index._by_word["peru"]["a"] / idf["peru"]]
    assert lengths[0] == pytest.approx(lengths[1]), "words that occur once in one document have one factor"
    mean = (3 + 3 + (2 if "make" not in index._by_word else 3)) / 3
    assert lengths[0] == pytest.approx((K1 + 1) / (1 + K1 * (1 - B + B * 3 / mean)))
    assert found["a"] == pytest.approx(idf["capital"] / (idf["capital"] + idf["peru"]))


def test_a_prompt_itself_is_wholly_similar_and_others_are_less() -> None:
    (first, similarity), (second, less) = Bm25(EDITS).most_similar("What is the capital of Peru?", 2)
    assert (first, similarity, second) == ("a", pytest.approx(1.0), "b")
    assert 0 < less < 1


def test_nothing_shared_is_nothing_found_and_ties_go_by_id() -> None:
    index = Bm25(EDITS)
    assert index.most_similar("Two and two?", 3) == []
    assert [id for id, _ in index.most_similar("capital", 1)] == ["a"]
    assert Bm25({}).most_similar("capital", 3) == []
