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
_EXPERTS = {  # under every name that a configuration gives them
    **_COMMON,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
_LATENT = {  # multi-head latent attention
    **_EXPERTS,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
_OLD = {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": SPREAD}
_HEADS_16 = {**_COMMON, "head_dim": 16}
_MAMBA = {"hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 8, "initializer_range": SPREAD}
_MAMBA2 = {**_MAMBA, "num_heads": 8, "head_dim": 16, "n_groups": 1}
_LINEAR = {
    **_HEADS_16,
    "num_hidden_layers": 4,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
_BART = {
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_position_embeddings": 256,
    "init_std": SPREAD,
}
_ENCODER = {**_COMMON, "pad_token_id": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "apertus": _COMMON,
    "arcee": _COMMON,
    "bamba": {
        **_COMMON,
        "attn_layer_indices": [1],
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
        "mamba_n_groups": 1,
    },
    "bart": _BART,
    "bert": _ENCODER,
    "biogpt": _COMMON,
    "bitnet": _COMMON,
    "bloom": {"hidden_size": WIDTH, "n_layer": 2, "n_head": 4, "initializer_range": SPREAD},
    "codegen": {**_OLD, "rotary_dim": 8, "n_ctx": 256},
    "cohere": _COMMON,
    "cohere2": {**_COMMON, "sliding_window": 16, "num_hidden_layers": 4},
    "ctrl": {**_OLD, "dff": 96},
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "diffllama": _COMMON,
    "doge": _COMMON,
    "ernie4_5": _HEADS_16,
    "ernie4_5_moe": {**_EXPERTS, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "exaone4": {**_COMMON, "sliding_window": 16, "num_hidden_layers": 4},
    "falcon": {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": SPREAD},
    "falcon_h1": {
        **_HEADS_16,
        "mamba_d_ssm": 128,
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
    "falcon_mamba": _MAMBA,
    "gemma": _HEADS_16,
    "gemma2": {**_HEADS_16, "sliding_window": 16},
    "gemma3_text": {**_HEADS_16, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "glm": {**_HEADS_16, "pad_token_id": 0},
    "glm4": {**_HEADS_16, "pad_token_id": 0},
    "glm4_moe": {**_EXPERTS, "head_dim": 16, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "gpt2": _OLD,
    "gpt_bigcode": _OLD,
    "gpt_neo": {
        "hidden_size": WIDTH,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
        "max_position_embeddings": 256,
        "initializer_range": SPREAD,
    },
    "gpt_neox": _COMMON,
    "gpt_oss": {**_EXPERTS, "head_dim": 16, "sliding_window": 16},
    "gptj": {**_OLD, "rotary_dim": 8},
    "granite": {**_COMMON, "num_hidden_layers": 4, "residual_multiplier": 0.22, "attention_multiplier": 0.25},
    "granitemoe": _EXPERTS,
    "granitemoehybrid": {
        **_EXPERTS,
        "shared_intermediate_size": 48,
        "layer_types": ["mamba", "attention"],
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
        "mamba_n_groups": 1,
    },
    "granitemoeshared": {**_EXPERTS, "shared_intermediate_size": 48},
    "helium": _HEADS_16,
    "hunyuan_v1_dense": _HEADS_16,
    "jamba": {
        **_EXPERTS,
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
    },
    "jetmoe": {**_EXPERTS, "kv_channels": 16, "num_key_value_heads": 2},
    "lfm2": {**_COMMON, "layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    "llama": _COMMON,
    "llama4_text": {
        **_EXPERTS,
        "head_dim": 16,
        "intermediate_size_mlp": 96,
        "attention_chunk_size": 16,
        "interleave_moe_layer_step": 2,
    },
    "mamba": _MAMBA,
    "mamba2": {**_MAMBA2, "chunk_size": 16, "expand": 2},
    "minimax": {**_EXPERTS, "head_dim": 16, "layer_types": ["linear_attention", "full_attention"], "block_size": 16},
    "ministral": {**_HEADS_16, "sliding_window": 16},
    "mistral": {**_HEADS_16, "sliding_window": 16},
    "mixtral": _EXPERTS,
    "modernbert-decoder": {**_COMMON, "local_attention": 16, "pad_token_id": 0},
    "mpt": {"d_model": WIDTH, "n_layers": 2, "n_heads": 4, "max_seq_len": 256, "initializer_range": SPREAD},
    "nemotron": _COMMON,
    "nemotron_h": {
        **_EXPERTS,
        "layers_block_type": ["mamba", "moe", "attention", "moe"],
        "head_dim": 16,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "chunk_size": 16,
        "n_groups": 1,
        "moe_shared_expert_intermediate_size": 48,
    },
    "olmo": _COMMON,
    "olmo2": _COMMON,
    "olmo3": {**_COMMON, "sliding_window": 16, "num_hidden_layers": 4},
    "olmoe": _EXPERTS,
    "openai-gpt": _OLD,
    "opt": {  # as OPT-350m: embeddings of another width than the layers, norms after the sums
        "hidden_size": WIDTH,
        "ffn_dim": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "word_embed_proj_dim": 32,
        "do_layer_norm_before": False,
    },
    "persimmon": _COMMON,
    "phi": _COMMON,
    "phi3": {**_COMMON, "pad_token_id": 0},
    "phimoe": _EXPERTS,
    "qwen2": _COMMON,
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 96},
    "qwen3": _HEADS_16,
    "qwen3_5_text": _LINEAR,
    "qwen3_moe": {**_EXPERTS, "head_dim": 16},
    "qwen3_next": {**_LINEAR, **_EXPERTS, "num_hidden_layers": 4, "shared_expert_intermediate_size": 48},
    "recurrent_gemma": {
        **_HEADS_16,
        "num_hidden_layers": 3,
        "lru_width": WIDTH,
        "attention_window_size": 32,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "roberta": {**_ENCODER, "is_decoder": True},
    "rwkv": {"hidden_size": WIDTH, "attention_hidden_size": WIDTH, "num_hidden_layers": 2, "context_length": 256},
    "seed_oss": _HEADS_16,
    "smollm3": {**_COMMON, "pad_token_id": 0},
    "stablelm": _COMMON,
    "starcoder2": {**_COMMON, "sliding_window": 16},
    "vaultgemma": {**_HEADS_16, "sliding_window": 16},
    "xglm": {
        "d_model": WIDTH,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 96,
        "max_position_embeddings": 256,
        "init_std": SPREAD,
        "pad_token_id": 1,
    },
    "xlnet": {"d_model": WIDTH, "n_layer": 2, "n_head": 4, "d_inner": 96, "initializer_range": SPREAD},
    "zamba2": {
        "hidden_size": WIDTH,
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "mamba_d_state": 8,
        "n_mamba_heads": 8,
        "chunk_size": 16,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_mem_blocks": 1,
        "adapter_rank": 8,
        "max_position_embeddings": 256,
        "initializer_range": SPREAD,
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
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **{**_special_ids(tokenizer), **given})
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
