"""A GGUF file of a few kilobytes, as llama.cpp writes it: a random one-layer Llama with SmolLM's kind of tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import gguf
import numpy as np

LAYERS, HIDDEN, HEADS, FEED_FORWARD, CONTEXT = 1, 32, 2, 32, 128


def write_gguf(path: Path, tokenizer_folder: Path, pre: str = "smollm") -> Path:
    """Write the file with the byte-level vocabulary and the merges of the tokenizer in `tokenizer_folder`.

    pre: llama.cpp's name of how the vocabulary splits text; "" leaves it out.
    """
    bpe = json.loads((tokenizer_folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)
    end = tokens.index("<|endoftext|>")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if id == end else gguf.TokenType.NORMAL for id in range(len(tokens))]
    )
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_eos_token_id(end)
    for name, shape in _shapes(len(tokens)).items():
        writer.add_tensor(name, tensor(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The content of the tensor called `name` in the file; float32."""
    seed = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    block: dict[str, tuple[int, ...]] = {
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
        **{f"attn_{kind}": (HIDDEN, HIDDEN) for kind in ("q", "k", "v", "output")},
        **{f"ffn_{kind}": (FEED_FORWARD, HIDDEN) for kind in ("gate", "up")},
        "ffn_down": (HIDDEN, FEED_FORWARD),
    }
    return {
        "token_embd.weight": (vocabulary, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        **{f"blk.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in block.items()},
    }
