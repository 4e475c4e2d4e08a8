"""Small random models of any type that transformers has, beyond the families of `tests.families`.

folder = build_type("mamba2", tmp_path / "mamba2")  # an ordinary folder; `tests.model_settings` holds what a type needs
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, GPT2Tokenizer

from onceedit_ray.models.loading import without_progress_bars
from tests.families import GPT2_SPLIT, SENTENCES, _byte_level, _special_ids
from tests.model_settings import SETTINGS, VARIANTS, WRAPPED


def byte_level_tokenizer() -> GPT2Tokenizer:
    """The tokenizer of every model made here: GPT-2's kind, 600 tokens."""
    vocab, merges = _byte_level(["<|endoftext|>"], GPT2_SPLIT, size=600, text=SENTENCES)
    return GPT2Tokenizer(vocab=vocab, merges=merges)


def build_type(model_type: str, folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Write a random model of a type with `settings` over those of `SETTINGS`, and its tokenizer; returns `folder`."""
    tokenizer = byte_level_tokenizer()
    given = {**_special_ids(tokenizer), **SETTINGS[model_type], **settings}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **given)
    with torch.random.fork_rng(), without_progress_bars():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_wrapped(model_type: str, folder: Path) -> Path:
    """Write a random model inside its multimodal wrapper, one of `WRAPPED`, and its tokenizer; returns `folder`."""
    tokenizer = byte_level_tokenizer()
    config = AutoConfig.for_model(model_type, **WRAPPED[model_type])
    with torch.random.fork_rng(), without_progress_bars():
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_row(row: str, folder: Path) -> Path:
    """Write the model of a row of the matrix, one of `tests.model_settings.ROWS`; returns `folder`."""
    if row in WRAPPED:
        return build_wrapped(row, folder)
    model_type, settings = VARIANTS.get(row, (row, {}))
    return build_type(model_type, folder, **settings)
