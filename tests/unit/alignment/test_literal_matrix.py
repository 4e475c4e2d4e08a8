"""The literal transfer matrix, of which only the requested rows are computed."""

import math

import pytest
import torch

from onceedit_ray.alignment import LiteralMatrix, column_winners, literal_blocks, literal_rows
from onceedit_ray.errors import AlignmentError
from tests.largest_tensor import LargestTensor

VOCABULARY, DIM = 61, 8
ANCHORS_A = torch.tensor([3, 4, 10, 25, 40])


@pytest.fixture
def E_VD():
    return torch.randn(VOCABULARY, DIM, generator=torch.Generator().manual_seed(0))


def test_a_row_by_hand():
    E_VD = torch.tensor([[2.0, 0.0], [3.0, 3.0]])
    cosines = [1 / math.sqrt(2), 1.0]  # of row 1 to the anchors 0 and 1
    norm = math.sqrt(0.5 + 1.0)
    weights = [math.exp(10 * cosine / norm) for cosine in cosines]
    R_NA = literal_rows(E_VD, torch.tensor([0, 1]), torch.tensor([1]), multiplier=10.0)
    assert R_NA.tolist()[0] == pytest.approx([w / sum(weights) for w in weights])
    weights = [math.exp(10 * cosine) for cosine in cosines]
    R_NA = literal_rows(E_VD, torch.tensor([0, 1]), torch.tensor([1]), multiplier=10.0, l2=False)
    assert R_NA.tolist()[0] == pytest.approx([w / sum(weights) for w in weights])


def test_the_default_is_deepens_code(E_VD):
    unit = torch.nn.functional.normalize(E_VD.double(), dim=1)
    cosines = unit @ unit[ANCHORS_A].T
    expected = torch.softmax(100 * cosines / cosines.norm(dim=1, keepdim=True), dim=1)
    R_VA = literal_rows(E_VD, ANCHORS_A, torch.arange(VOCABULARY))
    assert R_VA.dtype == torch.float32
    torch.testing.assert_close(R_VA.double(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("block", [1, 7, VOCABULARY, 1000])
def test_blocks_are_the_rows(E_VD, block):
    R_VA = torch.cat([R_BA.clone() for R_BA in literal_blocks(E_VD, ANCHORS_A, block=block)])
    torch.testing.assert_close(R_VA, literal_rows(E_VD, ANCHORS_A, torch.arange(VOCABULARY)))


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_column_winners_are_the_column_argmax(E_VD, block):
    mass_A, winner_A = literal_rows(E_VD, ANCHORS_A, torch.arange(VOCABULARY)).max(dim=0)
    found_A, found_mass_A = column_winners(E_VD, ANCHORS_A, block=block)
    assert torch.equal(found_A, winner_A)
    torch.testing.assert_close(found_mass_A, mass_A)
    assert found_A.dtype == torch.int64


@pytest.mark.parametrize("block", [1, 2, 10])
def test_ties_go_to_the_lowest_id(block):
    E_VD = torch.eye(2)[[1, 0, 1, 0, 0]]
    winner_A, _ = column_winners(E_VD, torch.tensor([3, 2]), block=block)
    assert winner_A.tolist() == [1, 0]


def test_only_the_rows_named_can_win(E_VD):
    rows_N = torch.arange(20, VOCABULARY)
    mass_A, at_A = literal_rows(E_VD, ANCHORS_A, rows_N).max(dim=0)
    winner_A, found_mass_A = column_winners(E_VD, ANCHORS_A, rows_N, block=9)
    assert torch.equal(winner_A, rows_N[at_A])
    torch.testing.assert_close(found_mass_A, mass_A)


def test_a_null_embedding_is_uniform():
    R_NA = literal_rows(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), torch.tensor([0]))
    assert R_NA.tolist() == [[0.5, 0.5]]


def test_half_precision_embeddings_are_computed_in_float32(E_VD):
    half = E_VD.bfloat16()
    torch.testing.assert_close(
        literal_rows(half, ANCHORS_A, torch.tensor([5])), literal_rows(half.float(), ANCHORS_A, torch.tensor([5]))
    )


def test_the_matrix_is_never_whole():
    vocabulary, anchors, block = 3000, 500, 16
    E_VD = torch.randn(vocabulary, 4, generator=torch.Generator().manual_seed(1))
    with LargestTensor() as largest:
        column_winners(E_VD, torch.arange(anchors), block=block)
    assert largest.elements <= max(block * anchors, E_VD.numel())


def test_progress_is_told_in_rows(E_VD):
    told = []
    LiteralMatrix(E_VD, ANCHORS_A).column_winners(block=30, on_block=lambda done, rows: told.append((done, rows)))
    assert told == [(30, 61), (60, 61), (61, 61)]


@pytest.mark.parametrize(("ids", "message"), [([], "no anchors"), ([0, 61], "anchor id 61"), ([-1], "outside")])
def test_anchors_that_are_no_rows_are_refused(E_VD, ids, message):
    with pytest.raises(AlignmentError, match=message):
        LiteralMatrix(E_VD, torch.tensor(ids, dtype=torch.int64))
