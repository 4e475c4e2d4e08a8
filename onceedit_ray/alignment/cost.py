"""The cost of aligning a target with the plug-in: Appendix C (eq. 17-26) and Table 5.

Counts floating-point operations of the literal matrix as the paper does; it does not predict the time on a machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The paper gives one constant to the square root (eq. 21) and the exponential (eq. 24), but does not state its value.
# With 25 all three totals of Table 5 come out to 0.01 %; with 1 they are 0.4 % too low.
FUNCTION_FLOPS = 25


@dataclass(frozen=True)
class ModelShape:
    """The sizes that determine a model's cost; `parameters` counts everything, both embedding matrices included."""

    vocabulary: int
    dim: int
    parameters: int


@dataclass(frozen=True)
class TransferCost:
    """A row of Table 5: the cost of both matrices, of one token's forward pass, and their ratio."""

    tflop: float
    tflop_per_token: float
    tokens: int


TINYLLAMA_WEIGHT = ModelShape(vocabulary=32_001, dim=2048, parameters=1_100_052_480)
TABLE_5_TARGETS = {
    "Llama2-7B": (ModelShape(32_000, 4096, 6_738_415_616), 31_999),
    "Mistral-7B-v0.1": (ModelShape(32_000, 4096, 7_241_732_096), 24_184),
    "GPT-J-6B": (ModelShape(50_400, 4096, 6_050_882_784), 17_830),
}


def dot_product_flops(vocabulary: int, anchors: int, dim: int) -> int:
    """Eq. 20: `dim` products and `dim - 1` sums for every pair of eq. 17."""
    return vocabulary * anchors * (2 * dim - 1)


def norm_flops(vocabulary: int, anchors: int, dim: int, function_flops: int = FUNCTION_FLOPS) -> int:
    """Eq. 21: the L2 norms of eq. 18 and 19, a square root each."""
    return (vocabulary + anchors) * (2 * dim - 1 + function_flops)


def division_flops(vocabulary: int, anchors: int) -> int:
    """Eq. 22: one division for every pair."""
    return vocabulary * anchors


def softmax_flops(vocabulary: int, anchors: int, function_flops: int = FUNCTION_FLOPS) -> int:
    """Eq. 24: an exponential and a division for every entry, `anchors - 1` sums for every row."""
    return vocabulary * (anchors * function_flops + (anchors - 1) + anchors)


def matrix_flops(vocabulary: int, anchors: int, dim: int, function_flops: int = FUNCTION_FLOPS) -> int:
    """Eq. 25, and eq. 26 for the plug-in: one model's literal transfer matrix.

    Args:
        vocabulary, anchors: rows and columns of the matrix. dim: of the input embeddings.
        function_flops: cost of one square root and of one exponential.
    """
    return (
        dot_product_flops(vocabulary, anchors, dim)
        + norm_flops(vocabulary, anchors, dim, function_flops)
        + division_flops(vocabulary, anchors)
        + softmax_flops(vocabulary, anchors, function_flops)
    )


def transfer_flops(
    target_vocabulary: int,
    target_dim: int,
    plugin_vocabulary: int,
    plugin_dim: int,
    anchors: int,
    function_flops: int = FUNCTION_FLOPS,
) -> int:
    """Both matrices of one pair, target plus plug-in: the total of Table 5."""
    target = matrix_flops(target_vocabulary, anchors, target_dim, function_flops)
    return target + matrix_flops(plugin_vocabulary, anchors, plugin_dim, function_flops)


def forward_flops(model: ModelShape) -> int:
    """One token's forward pass: a product and a sum for every parameter outside the two embedding matrices."""
    return 2 * (model.parameters - 2 * model.vocabulary * model.dim)


def transfer_cost(target: ModelShape, plugin: ModelShape, anchors: int, decimals: int | None = None) -> TransferCost:
    """The cost of one pair, in the terms of Table 5; tokens are rounded up.

    `decimals` rounds the forward pass, in TFLOP, before it divides: Table 5 divides by the 0.013 that it prints.
    """
    tflop = transfer_flops(target.vocabulary, target.dim, plugin.vocabulary, plugin.dim, anchors) / 1e12
    per_token = forward_flops(target) / 1e12
    per_token = per_token if decimals is None else round(per_token, decimals)
    return TransferCost(tflop, per_token, math.ceil(tflop / per_token))


def table_5() -> dict[str, TransferCost]:
    """Table 5: the paper's three targets with TinyLlama and its `[WEIGHT]` token as the plug-in."""
    return {
        name: transfer_cost(target, TINYLLAMA_WEIGHT, anchors, decimals=3)
        for name, (target, anchors) in TABLE_5_TARGETS.items()
    }
