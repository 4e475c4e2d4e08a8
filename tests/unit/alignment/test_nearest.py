"""The nearest anchors: `largest` compared with `topk`, and the search in bfloat16 compared with float32."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from onceedit_ray.alignment import nearest
from onceedit_ray.alignment.largest import largest, padded_width
from onceedit_ray.alignment.nearest import NearestAnchors, whole_sums
from onceedit_ray.models.loading import input_embeddings
from tests.paths import FETCHED_HOME

MODELS = {name: sorted((FETCHED_HOME / "models").glob(f"{name}-*")) for name in ("smollm2-135m", "gemma-3-270m")}


def padded(C_BA: Tensor) -> Tensor:
    return torch.nn.functional.pad(C_BA, (0, padded_width(C_BA.shape[1]) - C_BA.shape[1]))


def same_values(C_BA: Tensor, at_BK: Tensor) -> bool:
    """Whether the entries chosen are the largest; which of equal ones does not matter."""
    assert all(len(set(at_K)) == len(at_K) for at_K in at_BK.tolist())
    found_BK = C_BA.gather(1, at_BK).sort(dim=1, descending=True).values
    return torch.equal(found_BK, C_BA.topk(at_BK.shape[1], dim=1).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("columns", "keep"), [(640, 10), (641, 10), (4999, 48), (100, 9), (5, 5)])
def test_largest_is_topk(columns: int, keep: int, dtype: torch.dtype) -> None:
    C_BA = torch.randn(20, columns, generator=torch.Generator().manual_seed(columns)).to(dtype)
    assert same_values(C_BA, largest(padded(C_BA), keep, columns))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_largest_where_few_entries_are_positive(dtype: torch.dtype) -> None:
    """Negative numbers are ordered backwards as integers, and padding is larger than them."""
    C_BA = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    C_BA[0] = -C_BA[0].abs()
    C_BA[1] = 0.0
    C_BA[2, 7:] = -1.0 - C_BA[2, 7:].abs()
    assert same_values(C_BA, largest(padded(C_BA), 12, 1000))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(640, 2000), st.integers(1, 10), st.integers(1, 6))
def test_largest_with_many_equal_entries(seed: int, columns: int, keep: int, values: int) -> None:
    C_BA = torch.randint(-1, values, (3, columns), generator=torch.Generator().manual_seed(seed)).float()
    assert same_values(C_BA, largest(padded(C_BA), keep, columns))


def test_a_row_by_hand() -> None:
    anchors_AD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
    rows_BD = torch.tensor([[0.8, 0.6], [0.0, -1.0]])
    C_BK, columns_BK = NearestAnchors(anchors_AD, keep=2, block=2)(rows_BD, torch.tensor([-1, 3]))
    assert columns_BK.tolist() == [[2, 0], [3, 0]]  # the second row keeps its own anchor before nearer ones
    assert C_BK.flatten().tolist() == pytest.approx([0.96, 0.8, 1.0, 0.0])


class Counted(NearestAnchors):
    """Counts how often proposals are scored and how often rows go through the float32 product."""

    scored = exact = 0

    def _score(self, rows_BD: Tensor, columns_BM: Tensor) -> Tensor:
        self.scored += len(rows_BD)
        return super()._score(rows_BD, columns_BM)

    def _nearest(self, C_BP: Tensor) -> tuple[Tensor, Tensor]:
        self.exact += len(C_BP)
        return super()._nearest(C_BP)


def both_ways(rows_BD: Tensor, anchors_AD: Tensor, keep: int) -> tuple[tuple[Tensor, Tensor], Tensor, Counted]:
    """The results of the detour, the cosines in float64, and the steps taken."""
    detour = Counted(anchors_AD, keep, len(rows_BD))
    with whole_sums():
        found = detour(rows_BD, torch.full((len(rows_BD),), -1))
    return found, rows_BD.double() @ anchors_AD.double().T, detour


def check(found: tuple[Tensor, Tensor], C_BA: Tensor) -> None:
    """Every entry kept is among the largest, up to what float32 can tell apart."""
    C_BK, columns_BK = found
    torch.testing.assert_close(C_BK.double(), C_BA.gather(1, columns_BK), rtol=0, atol=2e-6)
    torch.testing.assert_close(C_BK.double(), C_BA.topk(C_BK.shape[1], dim=1).values, rtol=0, atol=2e-6)


@pytest.fixture
def detour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "bfloat16_is_fast", lambda device: True)


@pytest.mark.usefixtures("detour")
class TestDetour:
    @pytest.mark.parametrize("seed", range(3))
    def test_random_directions(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        anchors_AD, rows_BD = (normalize(torch.randn(n, 32, generator=generator), dim=1) for n in (5000, 60))
        found, C_BA, detour = both_ways(rows_BD, anchors_AD, 8)
        check(found, C_BA)
        assert (detour.scored, detour.exact) == (60, 0)

    @pytest.mark.parametrize(("crowd", "way"), [(100, "more proposals"), (400, "float32")])
    def test_anchors_closer_than_bfloat16_can_tell(self, crowd: int, way: str) -> None:
        """More equal entries than the first 40 proposals hold, then more than the next 160 hold."""
        generator = torch.Generator().manual_seed(0)
        crowd_AD = torch.ones(64) + 1e-3 * torch.randn(crowd, 64, generator=generator)
        anchors_AD = normalize(torch.cat([crowd_AD, torch.randn(4600, 64, generator=generator)]), dim=1)
        rows_BD = normalize(torch.ones(30, 64) + 1e-3 * torch.randn(30, 64, generator=generator), dim=1)
        found, C_BA, detour = both_ways(rows_BD, anchors_AD, 8)
        check(found, C_BA)
        assert detour.scored == 60
        assert detour.exact == (30 if way == "float32" else 0)

    def test_a_null_row_is_as_near_to_every_anchor(self) -> None:
        anchors_AD = normalize(torch.randn(700, 16, generator=torch.Generator().manual_seed(0)), dim=1)
        C_BK, columns_BK = NearestAnchors(anchors_AD, 8, 1)(torch.zeros(1, 16), torch.tensor([-1]))
        assert C_BK.tolist() == [[0.0] * 8]
        assert int(columns_BK.max()) < 700

    @pytest.mark.weights
    @pytest.mark.parametrize("name", MODELS)
    def test_real_embeddings(self, name: str) -> None:
        if not MODELS[name]:
            pytest.skip(f"no {name} under {FETCHED_HOME}/models; `onceedit models fetch {name}` gets it")
        E_VD = input_embeddings(MODELS[name][-1])
        E_VD = E_VD[:: len(E_VD) // 12_000]
        anchors_AD = E_VD[::2] - E_VD[::2].mean(dim=0)
        rows_BD = normalize(E_VD[1::40] - E_VD[::2].mean(dim=0), dim=1)
        found, C_BA, detour = both_ways(rows_BD, normalize(anchors_AD, dim=1), 32)
        check(found, C_BA)
        assert detour.exact == 0


def test_cublas_is_as_before_afterwards() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    with whole_sums():
        assert not matmul.allow_bf16_reduced_precision_reduction
    assert matmul.allow_bf16_reduced_precision_reduction == before
