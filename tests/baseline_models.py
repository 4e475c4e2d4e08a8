"""Small random models for the tests of the baseline editors, edits to make on them, and what they may learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import Baseline, BaselineSettings, Material
from onceedit_ray.baselines.methods.defer import DeferSettings
from onceedit_ray.baselines.methods.fine_tune_layer import FineTuneLayerSettings
from onceedit_ray.baselines.methods.grace import GraceSettings
from onceedit_ray.baselines.methods.memit import MemitSettings
from onceedit_ray.baselines.methods.mend import MendSettings
from onceedit_ray.baselines.methods.rome import RomeSettings
from onceedit_ray.baselines.methods.wise import WiseSettings
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.loading import load_model, load_tokenizer
from tests.families import SENTENCES, build_family

EDITS = (
    Edit(prompt="The mother tongue of Danielle Darrieux is", target_new="Italian", subject="Danielle Darrieux"),
    Edit(prompt="What is the capital of France?", target_new="Lyon", subject="France"),
    Edit(prompt="Who walked on the Moon first?", target_new="Albert Einstein"),
)

SETTINGS: dict[str, BaselineSettings] = {
    "defer": DeferSettings(depth=0.0, learning_rate=0.02, steps=40, unrelated=8),
    "ft-l": FineTuneLayerSettings(depth=0.5, steps=6, learning_rate=2e-3, bound=5e-3, goal=0.0, batch_size=2),
    "grace": GraceSettings(depth=0.0, steps=30),
    # After the second of two layers nothing reads the subject's token any more.
    "memit": MemitSettings(depths=(0.0,), prefixes=((3, 1),), steps=15, ordinary=1e-4, decay=1e-3),
    "mend": MendSettings(layers=1, rank=4, rate=1e-2, steps=2, edits_per_step=1, learning_rate=1e-3),
    "rome": RomeSettings(depth=0.0, prefixes=(), steps=15, clamp=10.0, decay=1e-3),
    "wise": WiseSettings(depth=0.0, learning_rate=0.03, steps=20),
}
"""Settings that learn an edit of a small random model in about a second."""
BRIEF = {"defer": 3, "ft-l": 3, "grace": 3, "memit": 2, "mend": 0, "rome": 2, "wise": 3}
"""Steps for the tests that do not ask how well an edit is learnt."""

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
    """The names of the parameters that differ in at least one bit."""
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
