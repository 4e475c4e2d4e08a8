"""Small random models of any type that transformers has, beyond the families of `tests.families`.

folder = build_type("mamba2", tmp_path / "mamba2")  # an ordinary folder; `SETTINGS` holds what a type needs
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, GPT2Tokenizer

from onceedit_ray.models.loading import without_progress_bars
from tests.families import GPT2_SPLIT, SENTENCES, SPREAD, _byte_level, _special_ids

WIDTH = 64
_COMMON = {
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": SPREAD,
}
_MAMBA2 = {"hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 16, "n_groups": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {
        **_COMMON,
        "attn_layer_indices": [1],
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
        "mamba_n_groups": 1,
    },
    "bloom": {"hidden_size": WIDTH, "n_layer": 2, "n_head": 4, "initializer_range": SPREAD},
    "granite": {**_COMMON, "num_hidden_layers": 4, "residual_multiplier": 0.22, "attention_multiplier": 0.25},
    "jamba": {
        **_COMMON,
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
    },
    "mamba2": {**_MAMBA2, "chunk_size": 16, "expand": 2, "initializer_range": SPREAD},
    "opt": {  # as OPT-350m: embeddings of another width than the layers, norms after the sums
        "hidden_size": WIDTH,
        "ffn_dim": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 32,
        "do_layer_norm_before": False,
    },
    "qwen2_moe": {
        **_COMMON,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 96,
    },
    "qwen3_5_text": {
        **_COMMON,
        "head_dim": 16,
        "num_hidden_layers": 4,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "recurrent_gemma": {
        **_COMMON,
        "num_hidden_layers": 3,
        "head_dim": 16,
        "lru_width": WIDTH,
        "attention_window_size": 32,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
}


def byte_level_tokenizer() -> GPT2Tokenizer:
    """The tokenizer of every model made here: GPT-2's kind, 600 tokens."""
    vocab, merges = _byte_level(["<|endoftext|>"], GPT2_SPLIT, size=600, text=SENTENCES)
    return GPT2Tokenizer(vocab=vocab, merges=merges)


def build_type(model_type: str, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Write a random model of a type with `settings` over those of `SETTINGS`, and its tokenizer; returns `folder`."""
    tokenizer = byte_level_tokenizer()
    given = {**SETTINGS.get(model_type, _COMMON), **settings}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **_special_ids(tokenizer), **given)
    with torch.random.fork_rng(), without_progress_bars():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_gemma3_with_vision(folder: Path) -> Path:
    """A Gemma 3 inside its multimodal wrapper, as the checkpoints from 4B on are; returns `folder`."""
    tokenizer = byte_level_tokenizer()
    text = {**_COMMON, "head_dim": 16, "vocab_size": 600, "sliding_window": 16, "model_type": "gemma3_text"}
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    images = {"mm_tokens_per_image": 4, "image_token_index": 599, "boi_token_index": 598, "eoi_token_index": 597}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, **images)
    with torch.random.fork_rng(), without_progress_bars():
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
