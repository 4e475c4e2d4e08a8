"""Appendix C and Table 5."""

import pytest

from onceedit_ray.alignment import ModelShape, matrix_flops, table_5, transfer_cost, transfer_flops
from onceedit_ray.alignment.cost import TABLE_5_TARGETS, division_flops, dot_product_flops, norm_flops, softmax_flops


def test_each_term_by_hand():
    assert dot_product_flops(vocabulary=4, anchors=2, dim=3) == 8 * (3 + 2)
    assert norm_flops(4, 2, 3, function_flops=1) == 6 * (3 + 2 + 1)
    assert division_flops(4, 2) == 8
    assert softmax_flops(4, 2, function_flops=1) == 4 * (2 + 1 + 2)
    assert matrix_flops(4, 2, 3, function_flops=1) == 40 + 36 + 8 + 20


def test_a_transfer_is_both_matrices():
    assert transfer_flops(10, 4, 7, 2, anchors=5) == matrix_flops(10, 5, 4) + matrix_flops(7, 5, 2)


@pytest.mark.parametrize(
    ("name", "tflop", "per_token", "tokens"),
    [("Llama2-7B", 12.638, 0.013, 973), ("Mistral-7B-v0.1", 9.552, 0.014, 683), ("GPT-J-6B", 9.739, 0.011, 886)],
)
def test_table_5(name, tflop, per_token, tokens):
    row = table_5()[name]
    assert row.tflop == pytest.approx(tflop, rel=2e-4)
    assert row.tflop_per_token == per_token
    assert row.tokens == tokens


@pytest.mark.parametrize(("name", "tflop"), [("Llama2-7B", 12.638), ("Mistral-7B-v0.1", 9.552), ("GPT-J-6B", 9.739)])
def test_the_lost_constant_matters_little(name, tflop):
    target, anchors = TABLE_5_TARGETS[name]
    flops = transfer_flops(target.vocabulary, target.dim, 32_001, 2048, anchors, function_flops=1)
    assert flops / 1e12 == pytest.approx(tflop, rel=5e-3)


def test_tokens_are_rounded_up_and_the_forward_pass_is_not_rounded_by_itself():
    small = ModelShape(vocabulary=10, dim=2, parameters=140)
    cost = transfer_cost(small, small, anchors=3)
    assert cost.tflop_per_token == pytest.approx(2 * (140 - 40) / 1e12)
    assert cost.tokens == -(-2 * matrix_flops(10, 3, 2) // 200)
