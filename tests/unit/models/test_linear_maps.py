"""The faster matrix product gives the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onceedit_ray.models.linear_maps import laid_out_linear, lay_out, speed_up_linear_maps
from onceedit_ray.models.loading import has_bfloat16, load_model
from tests.families import build_family

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this CPU has no AVX512-BF16")
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]
FAMILIES = ["gemma3", "qwen2", "gpt2"]  # tied head; biases; no nn.Linear but the head


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 7), (1, 1, 7), (2, 7), (1, 3, 7), (2, 2, 7), (1, 5, 7), (3, 9, 7), (1, 64, 7)])
def test_equals_the_linear_map(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(7, 11, bias=bias)
    x = torch.randn(shape)
    with torch.inference_mode():
        found = laid_out_linear(lay_out(linear.weight), linear.bias, x)
    assert found.shape == (*shape[:-1], 11) and found.is_contiguous()
    torch.testing.assert_close(found, linear(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 8, 40])
def test_a_row_is_the_same_whatever_is_multiplied_beside_it(rows: int) -> None:
    torch.manual_seed(0)
    laid_out, x = lay_out(torch.randn(96, 64)), torch.randn(rows, 64)
    with torch.inference_mode():
        together = laid_out_linear(laid_out, None, x)
        alone = torch.cat([laid_out_linear(laid_out, None, row[None]) for row in x])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_model_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    model: Any = load_model(build_family(family, tmp_path / family), dtype="float32", device="cpu")
    ids = torch.tensor([[5, 9, 33]])
    with torch.inference_mode():
        before = model(ids).logits
        speed_up_linear_maps(model)
        torch.testing.assert_close(model(ids).logits, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_embeddings_stay_as_they_are_where_the_head_shares_them(dtype: torch.dtype, tmp_path: Path) -> None:
    name = str(dtype).removeprefix("torch.")
    model: Any = load_model(build_family("gemma3", tmp_path / "gemma3"), dtype=name, device="cpu")
    before = model.get_input_embeddings().weight.clone()
    speed_up_linear_maps(model)
    assert torch.equal(model.get_input_embeddings().weight, before)


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
def test_a_bfloat16_weight_laid_out_once_gives_the_same_bits(bias: bool) -> None:
    torch.manual_seed(0)
    for inputs, outputs in ((24, 37), (64, 96), (576, 1536)):
        linear = nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16)
        laid_out = lay_out(linear.weight)
        for rows in (1, 2, 3, 5, 8, 21, 64):
            x = torch.randn(1, rows, inputs, dtype=torch.bfloat16)
            with torch.inference_mode():
                assert torch.equal(laid_out_linear(laid_out, linear.bias, x), linear(x)), (inputs, outputs, rows)


@needs_bfloat16
@pytest.mark.parametrize("family", FAMILIES)
def test_a_bfloat16_model_gives_the_same_bits(family: str, tmp_path: Path) -> None:
    model: Any = load_model(build_family(family, tmp_path / family), dtype="bfloat16", device="cpu")
    ids = torch.tensor([[5, 9, 33]])
    with torch.inference_mode():
        before = model(ids).logits
        speed_up_linear_maps(model)
        assert torch.equal(model(ids).logits, before)
