"""Where the MLPs are, in families that arrange their modules differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, OPTConfig

from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.errors import ModelError
from onceedit_ray.models.loading import load_model
from tests.families import FAMILIES, build_family

PLACES = {
    "llama": "model.layers.{n}.mlp.down_proj",
    "mistral": "model.layers.{n}.mlp.down_proj",
    "gptj": "transformer.h.{n}.mlp.fc_out",
    "gpt2": "transformer.h.{n}.mlp.c_proj",
    "qwen2": "model.layers.{n}.mlp.down_proj",
    "gemma3": "model.layers.{n}.mlp.down_proj",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_projection_of_every_layer(family: str, tmp_path: Path) -> None:
    model: Any = load_model(build_family(family, tmp_path / family), dtype="float32", device="cpu")
    mlps = find_mlps(model)
    assert [mlp.projection_path for mlp in mlps] == [PLACES[family].format(n=n) for n in range(len(mlps))]
    assert len(mlps) == model.config.num_hidden_layers
    for mlp in mlps:
        assert model.get_submodule(mlp.projection_path) is mlp.projection
        assert model.get_parameter(mlp.weight_path) is mlp.projection.weight
        assert mlp.path.startswith(mlp.layer_path + ".")
        k_F = torch.randn(mlp.matrix_DF.shape[1])
        bias = 0.0 if mlp.projection.bias is None else mlp.projection.bias
        torch.testing.assert_close(mlp.matrix_DF @ k_F + bias, mlp.projection(k_F))


def test_maps_that_stand_in_the_layer_itself() -> None:
    config = OPTConfig(
        vocab_size=64, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, word_embed_proj_dim=16
    )
    mlps = find_mlps(AutoModelForCausalLM.from_config(config))
    assert [mlp.projection_path for mlp in mlps] == ["model.decoder.layers.0.fc2", "model.decoder.layers.1.fc2"]
    assert mlps[0].path == mlps[0].layer_path == "model.decoder.layers.0"


def test_a_mixture_of_experts_is_refused() -> None:
    config = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2, head_dim=8,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"layers\.0 of MixtralForCausalLM has no MLP"):
        find_mlps(AutoModelForCausalLM.from_config(config))
