"""DEEPEN with dense matrices, for the benchmark: the same output as the strategy with all tokens as candidates."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import dense_deepen
from benchmarks.dense_deepen import DenseDeepen, dense, dense_bytes, released_deepen
from onceedit_ray.config import FusionConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.models.sources import resolve
from tests.small_system import small_decoder, small_member

PROMPTS = ["What is the capital of France?", "The river Nile flows through ", "Who walked on the Moon first?"]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> FusedDecoder:
    """Every token is among the candidates; one of the targets is the plug-in's own base."""
    folder = tmp_path_factory.mktemp("dense")
    fusion = FusionConfig(strategy="deepen", top_k=4096, max_new_tokens=6)
    made = small_decoder(folder, ["gpt2"], fusion, sharpness=3.0)
    base = resolve(f"local:{folder / 'plugin' / 'base'}")
    made.members["twin"] = small_member("twin", base, base, fusion)
    return made


@pytest.mark.parametrize("target", ["gpt2", "twin"])
async def test_it_writes_what_fusion_over_all_candidates_writes(decoder: FusedDecoder, target: str) -> None:
    released = DenseDeepen(decoder.plugin, decoder.members[target])
    for prompt in PROMPTS:
        ours = await decoder.generate(target, prompt, "deepen", 6)
        assert released.generate(prompt, 6) == list(ours.token_ids)


def test_matrices_are_whole_and_those_of_one_model_are_held_once(decoder: FusedDecoder) -> None:
    for name, count in (("gpt2", 2), ("twin", 1)):
        pair = decoder.members[name].pair()
        released = DenseDeepen(decoder.plugin, decoder.members[name])
        matrices = {id(held): held for held in (released._target_VA, released._helper_VA)}.values()
        assert len(matrices) == count
        assert sum(held.numel() for held in matrices) * 4 == dense_bytes(pair)
        literal = pair.alignment.target_literal
        expected = literal.rows(torch.arange(len(literal)))
        torch.testing.assert_close(dense(literal, len(pair.alignment.anchors)), expected)


@pytest.mark.parametrize(("quick", "limit"), [(False, ("SPARE", 1 << 50)), (True, ("QUICK", 0))])
def test_matrices_that_are_too_large_are_not_begun(
    decoder: FusedDecoder, monkeypatch: pytest.MonkeyPatch, quick: bool, limit: tuple[str, int]
) -> None:
    """Too large for the free memory, or for a short run."""
    lines: list[str] = []
    monkeypatch.setattr(dense_deepen, *limit)
    monkeypatch.setattr(dense_deepen, "dense", lambda *_: pytest.fail("a matrix was begun"))
    bench: Any = SimpleNamespace(decoder=decoder, ratios=SimpleNamespace(skip=lines.append), quick=quick)
    released_deepen(bench)
    (line,) = lines
    assert "dense matrices, twin, seconds per token: skipped, " in line and "0.0 GB of matrices" in line
