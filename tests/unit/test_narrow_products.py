"""The faster product is the same product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onceedit_ray.models import narrow_products
from onceedit_ray.models.loading import load_model
from onceedit_ray.models.narrow_products import narrow_linear, speed_up_narrow_products
from tests.families import build_family


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 7), (1, 1, 7), (2, 7), (1, 3, 7), (2, 2, 7), (1, 5, 7), (3, 9, 7)])
def test_equals_the_linear_map(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(7, 11, bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        found = narrow_linear(linear, x)
    assert found.shape == (*shape[:-1], 11) and found.is_contiguous()
    torch.testing.assert_close(found, linear(x), atol=1e-6, rtol=1e-5)


def test_one_row_and_many_rows_are_untouched_to_the_bit() -> None:
    linear = nn.Linear(64, 96)
    for rows in (1, 5, 40):
        x = torch.randn(rows, 64)
        assert torch.equal(narrow_linear(linear, x), linear(x))


def test_wide_outputs_take_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_products, "LARGE", 96)
    linear, x = nn.Linear(64, 96), torch.randn(8, 64)
    torch.testing.assert_close(narrow_linear(linear, x), linear(x), atol=1e-5, rtol=1e-5)


def test_a_whole_model_gives_the_same_logits(tmp_path: Path) -> None:
    model: Any = load_model(build_family("gemma3", tmp_path / "gemma3"), dtype="float32", device="cpu")
    ids = torch.tensor([[5, 9, 33]])
    with torch.inference_mode():
        before = model(ids).logits
        speed_up_narrow_products(model)
        torch.testing.assert_close(model(ids).logits, before, atol=1e-4, rtol=1e-4)
