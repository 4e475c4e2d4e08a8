"""The calibrated, sparse transfer matrix, and its methods that fusion uses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from onceedit_ray.alignment import SparseRows, build_sparse, calibrate, nearest
from onceedit_ray.alignment.devices import fastest_device
from onceedit_ray.errors import AlignmentError
from tests.largest_tensor import LargestTensor

VOCABULARY, DIM = 300, 24
ANCHORS_A = torch.arange(0, 300, 3)


@pytest.fixture
def E_VD():
    """Embeddings that share a direction, as real ones do."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(VOCABULARY, DIM, generator=generator) + 4.0 * torch.ones(DIM)


def dense(E_VD, anchors_A, multiplier):
    """R_VA in float64, written as in algorithm.md."""
    centred = E_VD.double() - E_VD.double()[anchors_A].mean(dim=0)
    cosines = normalize(centred, dim=1) @ normalize(centred[anchors_A], dim=1).T
    return torch.softmax(multiplier * cosines, dim=1)


def as_dense(rows):
    R_VA = torch.zeros(len(rows), rows.anchors)
    return R_VA.scatter_(1, rows.columns_VK.long(), rows.mass_VK)


@pytest.mark.parametrize("own_mass", [0.5, 0.95])
def test_calibration_gives_the_median_anchor_its_own_mass(E_VD, own_mass):
    multiplier = calibrate(E_VD[ANCHORS_A], own_mass)
    own_A = dense(E_VD, ANCHORS_A, multiplier)[ANCHORS_A].diagonal()
    assert own_A.median().item() == pytest.approx(own_mass, abs=1e-3)
    assert calibrate(E_VD[ANCHORS_A], own_mass) == multiplier


def test_calibration_does_not_depend_on_the_common_direction(E_VD):
    assert calibrate(E_VD[ANCHORS_A] + 7.0) == pytest.approx(calibrate(E_VD[ANCHORS_A]), rel=1e-3)


def test_calibration_of_equal_embeddings_is_refused():
    with pytest.raises(AlignmentError, match="share their embedding"):
        calibrate(torch.eye(3).repeat(4, 1))
    with pytest.raises(AlignmentError, match="outside"):
        calibrate(torch.eye(3), own_mass=1.0)


@pytest.mark.parametrize("block", [None, 1, 64])
@pytest.mark.parametrize("fast", [True, False])
def test_rows_are_the_largest_entries_renormalised(E_VD, monkeypatch, block, fast):
    monkeypatch.setattr(nearest, "bfloat16_is_fast", lambda device: fast)
    rows = build_sparse(E_VD, ANCHORS_A, keep=8, block=block)
    assert (rows.columns_VK.dtype, rows.mass_VK.dtype) == (torch.int32, torch.float32)
    mass_VK, columns_VK = dense(E_VD, ANCHORS_A, rows.multiplier).topk(8, dim=1)
    assert torch.equal(rows.columns_VK.long(), columns_VK)
    torch.testing.assert_close(rows.mass_VK.double(), mass_VK / mass_VK.sum(dim=1, keepdim=True), rtol=1e-4, atol=1e-7)


def test_the_bfloat16_pass_only_proposes(E_VD, monkeypatch):
    monkeypatch.setattr(nearest, "bfloat16_is_fast", lambda device: True)
    fast, exact = build_sparse(E_VD, ANCHORS_A, keep=8), build_sparse(E_VD, ANCHORS_A, keep=8, exact=True)
    torch.testing.assert_close(as_dense(fast), as_dense(exact), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing_but_the_time(E_VD, threads):
    alone = build_sparse(E_VD, ANCHORS_A, keep=8, block=16)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = build_sparse(E_VD, ANCHORS_A, keep=8, block=16)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(as_dense(together), as_dense(alone), rtol=1e-5, atol=1e-7)


def test_a_gpu_is_taken_if_it_has_the_memory(E_VD, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 20, 1 << 30))  # a GPU that others fill
    assert fastest_device(E_VD, 100) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 40, 1 << 40))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert fastest_device(E_VD, 100) == torch.device("cuda", 3)


@pytest.mark.parametrize("fast", [True, False])
def test_an_anchor_is_in_its_own_row_whatever_its_duplicates(E_VD, monkeypatch, fast):
    monkeypatch.setattr(nearest, "bfloat16_is_fast", lambda device: fast)
    E_VD[ANCHORS_A[:40]] = E_VD[0].clone()
    rows = build_sparse(E_VD, ANCHORS_A, keep=4)
    assert all(a in rows.columns_VK[token].tolist() for a, token in enumerate(ANCHORS_A.tolist()))
    assert (as_dense(rows).amax(dim=0) > 0).all()


def test_fewer_anchors_than_entries_to_keep(E_VD):
    rows = build_sparse(E_VD, torch.tensor([4, 9, 100]), keep=32)
    assert rows.columns_VK.shape == (VOCABULARY, 3)
    torch.testing.assert_close(as_dense(rows).double(), dense(E_VD, torch.tensor([4, 9, 100]), rows.multiplier))


def test_the_matrix_is_never_whole():
    vocabulary, anchors, block, keep = 3000, 600, 16, 4
    E_VD = torch.randn(vocabulary, 16, generator=torch.Generator().manual_seed(1))
    with LargestTensor() as largest:
        build_sparse(E_VD, torch.arange(anchors), keep=keep, block=block)
    sampled = 512 * anchors  # calibration looks at 512 rows whatever the vocabulary
    assert largest.elements <= max(block * anchors, E_VD.numel(), sampled) < vocabulary * anchors


def test_progress_is_told_in_rows(E_VD):
    told = []
    build_sparse(E_VD, ANCHORS_A, block=200, on_block=lambda done, rows: told.append((done, rows)))
    assert told == [(200, 300), (300, 300)]


def some_rows(vocabulary, anchors, keep, seed):
    generator = torch.Generator().manual_seed(seed)
    mass_VK, columns_VK = torch.rand(vocabulary, anchors, generator=generator).topk(keep, dim=1)
    return SparseRows(columns_VK.int(), mass_VK / mass_VK.sum(dim=1, keepdim=True), anchors, 1.0)


@settings(max_examples=30)
@given(st.integers(0, 1000), st.lists(st.integers(0, 11), min_size=1, max_size=8))
def test_mix_is_the_product_with_the_dense_matrix(seed, tokens):
    rows = some_rows(12, 9, 4, seed)
    ids_T, p_T = torch.tensor(tokens), torch.rand(len(tokens), generator=torch.Generator().manual_seed(seed))
    p_V = torch.zeros(12).index_add_(0, ids_T, p_T)
    torch.testing.assert_close(rows.mix(ids_T, p_T), p_V @ as_dense(rows))


def test_mix_of_a_batch_is_the_mixes_of_its_members():
    rows = some_rows(12, 9, 4, 0)
    ids_BT, p_BT = torch.randint(0, 12, (2, 3, 5)), torch.rand(2, 3, 5)
    mixed = rows.mix(ids_BT, p_BT)
    assert mixed.shape == (2, 3, 9)
    torch.testing.assert_close(mixed[1, 2], rows.mix(ids_BT[1, 2], p_BT[1, 2]))


@pytest.mark.parametrize("seed", range(5))
def test_sparse_column_winners_are_the_column_argmax(seed):
    rows = some_rows(40, 9, 4, seed)
    mass_A, winner_A = as_dense(rows).max(dim=0)
    found_A, found_mass_A = rows.column_winners()
    assert torch.equal(found_A, winner_A)
    assert torch.equal(found_mass_A, mass_A)


def test_sparse_winners_by_hand():
    rows = SparseRows(
        torch.tensor([[1, 0], [0, 1], [0, 1], [1, 0]], dtype=torch.int32),
        torch.tensor([[0.6, 0.4], [0.7, 0.3], [0.7, 0.3], [0.9, 0.1]]),
        2,
        1.0,
    )
    winner_A, mass_A = rows.column_winners()
    assert winner_A.tolist() == [1, 3]  # rows 1 and 2 tie
    assert mass_A.tolist() == pytest.approx([0.7, 0.9])
    assert rows.column_winners(torch.tensor([0, 2]))[0].tolist() == [2, 0]


def test_a_column_without_entries_is_refused():
    rows = SparseRows(torch.tensor([[0]], dtype=torch.int32), torch.ones(1, 1), 2, 1.0)
    with pytest.raises(AlignmentError, match="anchor 1"):
        rows.column_winners()
