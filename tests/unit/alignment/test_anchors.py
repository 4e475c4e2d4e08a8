"""Tokens common to two vocabularies, by text and by the paper's string rule."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onceedit_ray.alignment import find_anchors
from onceedit_ray.errors import AlignmentError
from onceedit_ray.models.surface import vocabulary_surfaces
from tests.vocabularies import published

GPT2_LIKE = {"Ġthe": 0, "Ċ": 1, "Ã©": 2, "A": 3, "<|endoftext|>": 4, "Ġonly": 5}
LLAMA_LIKE = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "<0x41>": 4, "é": 5, "A": 6, "▁the": 7, "▁other": 8}


def pairs(anchors):
    return list(zip(anchors.plugin_ids_A.tolist(), anchors.target_ids_A.tolist(), strict=True))


def test_text_rule_sees_through_the_spelling_and_orders_by_target_id():
    anchors = find_anchors(GPT2_LIKE, LLAMA_LIKE)
    assert pairs(anchors) == [(1, 3), (2, 5), (3, 6), (0, 7)]
    assert len(anchors) == 4
    assert anchors.plugin_ids_A.dtype == anchors.target_ids_A.dtype == torch.int64


def test_paper_rule_compares_strings():
    assert pairs(find_anchors(GPT2_LIKE, LLAMA_LIKE, "paper")) == [(3, 6), (0, 7)]


def test_a_piece_stands_for_its_text_before_the_byte_of_lower_id():
    assert (3, 6) in pairs(find_anchors(GPT2_LIKE, LLAMA_LIKE))
    assert (6, 3) in pairs(find_anchors(LLAMA_LIKE, GPT2_LIKE))


def test_of_equal_texts_the_lowest_id_is_taken():
    assert pairs(find_anchors({"▁": 7, "Ġ": 2, "▁x": 3}, {"Ġ": 0, "Ġx": 1, "Ċ": 2}, "paper")) == [(2, 0), (3, 1)]


def test_end_of_text_maps_to_end_of_text():
    assert (4, 2) in pairs(find_anchors(GPT2_LIKE, LLAMA_LIKE, end=(4, 2)))
    moved = find_anchors(GPT2_LIKE, LLAMA_LIKE, end=(4, 7))  # a target id serves one anchor only
    assert pairs(moved) == [(1, 3), (2, 5), (3, 6), (4, 7)]
    moved = find_anchors(GPT2_LIKE, LLAMA_LIKE, end=(0, 2))  # and so does a plug-in id
    assert pairs(moved) == [(0, 2), (1, 3), (2, 5), (3, 6)]


def test_special_tokens_are_never_anchors_under_text():
    both = {"a": 0, "STOP": 1, "<pad>": 2}
    assert pairs(find_anchors(both, both, plugin_special={"STOP"})) == [(0, 0)]


def test_no_common_token_is_a_clear_error():
    with pytest.raises(AlignmentError, match="none in common"):
        find_anchors({"a": 0}, {"b": 0})


def test_unknown_rule_is_a_clear_error():
    with pytest.raises(AlignmentError, match="expected 'text' or 'paper'"):
        find_anchors(GPT2_LIKE, LLAMA_LIKE, "spelling")  # type: ignore[arg-type]


VOCABULARY = st.lists(st.text("Ġ▁abĊ<>0xA", max_size=4), min_size=1, max_size=12, unique=True)


@given(VOCABULARY, VOCABULARY)
def test_anchors_stand_for_one_text_and_ids_do_not_repeat(plugin_tokens, target_tokens):
    plugin = {token: i for i, token in enumerate(plugin_tokens)}
    target = {token: i for i, token in enumerate(target_tokens)}
    plugin_text, target_text = vocabulary_surfaces(plugin), vocabulary_surfaces(target)
    common = (set(plugin_text.values()) & set(target_text.values())) - {b""}
    if not common:
        with pytest.raises(AlignmentError):
            find_anchors(plugin, target)
        return
    anchors = find_anchors(plugin, target)
    assert {plugin_text[p] for p in anchors.plugin_ids_A.tolist()} == common
    assert all(plugin_text[p] == target_text[t] for p, t in pairs(anchors))
    assert anchors.target_ids_A.tolist() == sorted(set(anchors.target_ids_A.tolist()))
    assert len(set(anchors.plugin_ids_A.tolist())) == len(anchors)


@pytest.mark.parametrize(("name", "count"), [("tinyllama", 31_999), ("mistral-7b-v0.1", 24_184), ("gpt-j-6b", 17_830)])
def test_the_papers_anchor_counts(name, count):
    assert len(find_anchors(published("tinyllama-weight"), published(name), "paper")) == count


def test_text_rule_pairs_every_piece_of_equal_vocabularies():
    vocab = published("tinyllama")
    anchors = find_anchors(published("tinyllama-weight"), vocab)
    assert torch.equal(anchors.plugin_ids_A, anchors.target_ids_A)
    # 3 special tokens, and the bytes that a piece spells as well, stand apart.
    doubled = sum(vocab.get(chr(byte).replace(" ", "▁"), 0) > 0 for byte in range(128))
    assert len(anchors) == 32_000 - 3 - doubled
