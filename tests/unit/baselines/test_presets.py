"""The settings of a model: those published for its family and a similar size, or the default ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, OPTConfig, Qwen2Config

from onceedit_ray.baselines import BASELINES, WIDTHS, Baseline, preset


def sized(config: Any) -> Any:
    """A model of this shape without weights. It has two layers, since only the width decides."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def llama(width: int) -> Any:
    small = {"num_hidden_layers": 2, "vocab_size": 8, "intermediate_size": 64, "num_attention_heads": width // 64}
    return sized(LlamaConfig(hidden_size=width, num_key_value_heads=1, **small))


@pytest.mark.parametrize(
    ("width", "kind"),
    [(576, "default"), (2048, "llama"), (1984, "default"), (4096, "llama"), (8192, "llama"), (8256, "default")],
)
def test_published_settings_need_a_model_of_like_width(width: int, kind: str) -> None:
    model = llama(width)
    for name in ("rome", "memit", "grace", "defer", "wise", "ft-l"):
        method: Baseline = BASELINES.get(name)  # type: ignore[assignment]
        assert preset(name, model) is method.presets[kind]


def test_other_families() -> None:
    rome: Baseline = BASELINES.get("rome")  # type: ignore[assignment]
    memit: Baseline = BASELINES.get("memit")  # type: ignore[assignment]
    xl, small = ({"n_embd": 1600, "n_head": 25}, {"n_embd": 768})
    assert preset("rome", sized(GPT2Config(n_layer=2, vocab_size=8, **xl))) is rome.presets["gpt2"]
    assert preset("rome", sized(GPT2Config(n_layer=2, vocab_size=8, **small))) is rome.presets["default"]
    gemma = {"num_hidden_layers": 2, "vocab_size": 8, "intermediate_size": 64, "num_attention_heads": 4}
    assert preset("memit", sized(Gemma3TextConfig(hidden_size=640, **gemma))) is memit.presets["gemma3_text"]
    assert preset("memit", sized(Gemma3TextConfig(hidden_size=2560, **gemma))) is memit.presets["default"]
    assert preset("rome", sized(Gemma3TextConfig(hidden_size=640, **gemma))) is rome.presets["default"]
    tiny = Qwen2Config(hidden_size=896, num_hidden_layers=2, vocab_size=8, intermediate_size=64, num_attention_heads=14)
    assert preset("rome", sized(tiny)) is rome.presets["default"]
    assert preset("rome", sized(OPTConfig(hidden_size=768, num_hidden_layers=2))) is rome.presets["default"]


def test_every_published_preset_says_how_wide_its_model_is() -> None:
    for name in BASELINES.names():
        method: Baseline = BASELINES.get(name)  # type: ignore[assignment]
        assert set(method.presets) - {"default"} <= set(WIDTHS)
