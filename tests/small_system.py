"""A whole small system for tests: an edited plug-in and targets of several families, random weights, no download."""

from __future__ import annotations

from pathlib import Path

import torch

from onceedit_ray.config import AlignmentConfig, FusionConfig, ModelConfig
from onceedit_ray.fusion.decoder import FusedDecoder, Member
from onceedit_ray.fusion.pairing import pair_up
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.models.weight_token import add_weight_token
from tests.families import build_family

CPU = ModelConfig(model="unused", threads=1)


def build_plugin(folder: Path, family: str = "llama", seed: int = 7) -> tuple[ModelFolder, Path]:
    """A base plug-in of a family, and its edited version (a `[WEIGHT]` token, weights moved a little)."""
    base = resolve(f"local:{build_family(family, folder / 'base', seed=seed)}")
    model, tokenizer = load_model(base.path, dtype="float32", device="cpu"), load_tokenizer(base.path)
    torch.manual_seed(seed)
    add_weight_token(model, tokenizer)
    edited = folder / "edited"
    model.save_pretrained(edited)
    tokenizer.save_pretrained(edited)
    return base, edited


def small_decoder(folder: Path, families: list[str], fusion: FusionConfig, plugin: str = "llama") -> FusedDecoder:
    """A decoder in this process over small random targets, each named by its family."""
    base, edited = build_plugin(folder / "plugin", plugin)
    codec = open_codec(edited)
    decoder = FusedDecoder(open_model(edited, CPU, codec, fusion.top_k, "plug-in"), codec, "short", fusion)
    for seed, family in enumerate(families):
        target = resolve(f"local:{build_family(family, folder / family, seed=seed)}")
        decoder.members[family] = small_member(family, target, base, fusion)
    return decoder


def small_member(name: str, target: ModelFolder, base: ModelFolder, fusion: FusionConfig) -> Member:
    """One target of `small_decoder`."""
    codec = open_codec(target.path)
    model = open_model(target.path, CPU, codec, fusion.top_k, name)
    return Member(name, model, codec, lambda: pair_up(base, open_codec(base.path), target, codec, AlignmentConfig()))
