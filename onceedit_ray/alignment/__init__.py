"""Alignment of two vocabularies: anchors, transfer matrices (literal; calibrated sparse), and their cost."""

from onceedit_ray.alignment.alignment import Alignment, Side, build_alignment
from onceedit_ray.alignment.anchors import Anchors, Rule, find_anchors
from onceedit_ray.alignment.cache import cache_key, embedding_digest
from onceedit_ray.alignment.calibrated_matrix import build_sparse, calibrate
from onceedit_ray.alignment.cost import ModelShape, TransferCost, matrix_flops, table_5, transfer_cost, transfer_flops
from onceedit_ray.alignment.literal_matrix import LiteralMatrix, column_winners, literal_blocks, literal_rows
from onceedit_ray.alignment.sparse_rows import SparseRows

__all__ = [
    "Alignment",
    "Anchors",
    "LiteralMatrix",
    "ModelShape",
    "Rule",
    "Side",
    "SparseRows",
    "TransferCost",
    "build_alignment",
    "build_sparse",
    "cache_key",
    "calibrate",
    "column_winners",
    "embedding_digest",
    "find_anchors",
    "literal_blocks",
    "literal_rows",
    "matrix_flops",
    "table_5",
    "transfer_cost",
    "transfer_flops",
]
