"""Small random models for the tests of the baseline editors, edits to make on them, and what they may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import Baseline, Material
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.loading import load_model, load_tokenizer
from tests.families import SENTENCES, build_family

EDITS = (
    Edit(prompt="The mother tongue of Danielle Darrieux is", target_new="Italian", subject="Danielle Darrieux"),
    Edit(prompt="What is the capital of France?", target_new="Lyon", subject="France"),
    Edit(prompt="Who walked on the Moon first?", target_new="Albert Einstein"),
)

Method = TypeVar("Method", bound=Baseline)


@dataclass(frozen=True)
class Small:
    """A model with its tokenizer, and the folder both came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path

    def again(self) -> PreTrainedModel:
        """The same model, loaded afresh."""
        return load_model(self.folder, device="cpu")


def small(family: str, folder: Path) -> Small:
    """A model of `family`, written into `folder`."""
    build_family(family, folder)
    return Small(load_model(folder, device="cpu"), load_tokenizer(folder), folder)


def prepared(method: Method, given: Small, cache: Path) -> Method:
    """The method after `prepare` with a corpus."""
    method.prepare(given.model, given.tokenizer, material(cache), [].append)
    return method


def material(cache: Path, corpus: Sequence[str] = SENTENCES) -> Material:
    """A corpus, nothing else to learn from, and a cache."""
    return Material(corpus=corpus, training=(), unrelated=(), cache=cache, digest="a-model")


def parameters(model: PreTrainedModel) -> dict[str, Tensor]:
    """A copy of every parameter."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def changed(model: PreTrainedModel, before: dict[str, Tensor]) -> set[str]:
    """The names of the parameters of which a bit differs."""
    return {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def mixture_of_experts() -> PreTrainedModel:
    """A decoder whose layers have experts, and so no MLP with one output projection."""
    config = MixtralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    return MixtralForCausalLM(config).eval()
