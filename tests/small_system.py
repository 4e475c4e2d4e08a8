"""A whole small system for tests: an edited plug-in and targets of several families, no download.

Two kinds. `small_decoder` has random weights. `TaughtModels` are random models that were taught a few sentences in
half a second each, the plug-in with other facts than the targets: they write words, so drafts are re-tokenised across
vocabularies, sometimes accepted and sometimes rejected.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.config import AlignmentConfig, FusionConfig, ModelConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Member, Plugin
from onceedit_ray.fusion.system import pair_up
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.loading import load_model, load_tokenizer, without_progress_bars
from onceedit_ray.models.protocol import LanguageModel, Reading, Step
from onceedit_ray.models.sampling import GREEDY, Sampling
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.models.weight_token import add_weight_token
from tests.families import SENTENCES, build_family

CPU = ModelConfig(model="unused", threads=1)
TWIN = "twin"
"""Among the taught targets: the plug-in's own base weights, so that drafts are nearly always right."""
TAUGHT = SENTENCES[:20]
_OTHER_FACTS = {"Paris": "Milan", "Berlin": "Boston", "French": "Swedish", "Polish": "English", "1648": "1753"}


def build_plugin(
    folder: Path, family: str = "llama", seed: int = 7, sharpness: float = 1.0
) -> tuple[ModelFolder, Path]:
    """A base plug-in of a family, and its edited version: the same weights and a `[WEIGHT]` token."""
    base = resolve(f"local:{_random(family, folder / 'base', seed, sharpness)}")
    return base, edited_version(base.path, folder / "edited", seed)


def edited_version(base: Path, folder: Path, seed: int = 7) -> Path:
    """The model in `base` with a `[WEIGHT]` token of seeded random weight, written to `folder`."""
    model, tokenizer = load_model(base, dtype="float32", device="cpu"), load_tokenizer(base)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        add_weight_token(model, tokenizer)
    return write(model, tokenizer, folder)


def write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Save both to `folder`."""
    with without_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_decoder(
    folder: Path,
    families: Sequence[str],
    fusion: FusionConfig,
    plugin: str = "llama",
    seed: int = 0,
    sharpness: float = 1.0,
) -> FusedDecoder:
    """A decoder in this process over small random targets, each named by its family; `sharpness`: see `sharpen`."""
    base, edited = build_plugin(folder / "plugin", plugin, seed + 7, sharpness)
    codec = open_codec(edited)
    decoder = FusedDecoder(Plugin(open_model(edited, CPU, codec, fusion.top_k, "plug-in"), codec, "short"), fusion)
    for number, family in enumerate(families):
        target = resolve(f"local:{_random(family, folder / family, seed + number, sharpness)}")
        decoder.members[family] = small_member(family, target, base, fusion)
    return decoder


def small_member(name: str, target: ModelFolder, base: ModelFolder, fusion: FusionConfig) -> Member:
    """One target of `small_decoder`."""
    codec = open_codec(target.path)
    model = open_model(target.path, CPU, codec, fusion.top_k, name)
    pair = functools.cache(lambda: pair_up(base, open_codec(base.path), target, codec, AlignmentConfig()))
    return Member(name, model, codec, pair)


def sharpen(model: PreTrainedModel, factor: float) -> None:
    """Multiply every logit by `factor` through the final norm: next-token distributions become peaky (or flat)."""
    base = model.base_model
    norm = base.ln_f if hasattr(base, "ln_f") else base.norm
    with torch.no_grad():
        if "Gemma" in type(norm).__name__:  # its scale is 1 + weight
            norm.weight.add_(1.0).mul_(factor).sub_(1.0)
        else:
            norm.weight.mul_(factor)
        for bias in (getattr(norm, "bias", None), getattr(model.get_output_embeddings(), "bias", None)):
            if bias is not None:
                bias.mul_(factor)


def _random(family: str, folder: Path, seed: int, sharpness: float) -> Path:
    build_family(family, folder, seed=seed)
    if sharpness != 1.0:
        model = load_model(folder, dtype="float32", device="cpu")
        sharpen(model, sharpness)
        write(model, load_tokenizer(folder), folder)
    return folder


def teach(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], steps: int, seed: int = 0
) -> None:
    """Fit `texts`, each closed by end-of-text, for `steps` full-batch steps."""
    rows = [torch.tensor([*tokenizer(text).input_ids, tokenizer.eos_token_id]) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
        for _ in range(steps):
            logits = model(ids, attention_mask=seen).logits[:, :-1]
            labels = ids[:, 1:].masked_fill(seen[:, 1:] == 0, -100)
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def half_sentence(sentence: str) -> tuple[str, str]:
    """The first half of a sentence's words, and the rest with its leading space."""
    words = sentence.split(" ")
    middle = len(words) // 2
    return " ".join(words[:middle]), " " + " ".join(words[middle:])


def other_facts(text: str) -> str:
    """`text` as the plug-in was taught it."""
    for old, new in _OTHER_FACTS.items():
        text = text.replace(old, new)
    return text


@dataclass
class TaughtModels:
    """Folders and loaded models of a taught system; `decoder` puts them behind a configuration."""

    base: ModelFolder
    edited: Path
    folders: Mapping[str, Path]
    plugin: LanguageModel
    plugin_codec: Codec
    members: dict[str, Member] = field(default_factory=dict)

    def decoder(self, fusion: FusionConfig, plugin: LanguageModel | None = None) -> FusedDecoder:
        """A decoder over these models; `plugin` stands in for the plug-in (a `ForcedGate`, a spy)."""
        decoder = FusedDecoder(Plugin(plugin or self.plugin, self.plugin_codec, "short"), fusion)
        decoder.members = dict(self.members)
        return decoder


def teach_models(folder: Path, families: Sequence[str], top_k: int = 64, steps: int = 24) -> TaughtModels:
    """A taught plug-in (Llama) and targets: one of each family and `TWIN`, half a second each on one core.

    Models that are in `folder` already are only opened.
    """
    halves = [half_sentence(sentence) for sentence in TAUGHT]
    questions = [plugin_view(begin) + other_facts(end) for begin, end in halves]
    base = resolve(f"local:{_taught('llama', folder / 'plugin', questions, steps + 8, seed=7)}")
    edited = folder / "edited"
    if not edited.exists():
        edited_version(base.path, edited)
    codec = open_codec(edited)
    plugin = open_model(edited, CPU, codec, top_k, "the plug-in")
    folders = {name: _taught(name, folder / name, TAUGHT, steps, seed) for seed, name in enumerate(families)}
    folders[TWIN] = base.path
    fusion = FusionConfig(top_k=top_k)
    members = {name: small_member(name, resolve(f"local:{path}"), base, fusion) for name, path in folders.items()}
    return TaughtModels(base, edited, folders, plugin, codec, members)


def _taught(family: str, folder: Path, texts: Sequence[str], steps: int, seed: int) -> Path:
    if folder.exists():
        return folder
    build_family(family, folder, seed=seed)
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    teach(model, tokenizer, texts, steps, seed)
    return write(model, tokenizer, folder)


class Relay:
    """A `LanguageModel` that passes every call on; a base for models that a test tampers with."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    async def open(self, ids: Sequence[int], *args: Any, **options: Any) -> Step:
        return await self.model.open(ids, *args, **options)

    async def extend(self, session: int, keep: int, ids: Sequence[int], *args: Any, **options: Any) -> Step:
        return await self.model.extend(session, keep, ids, *args, **options)

    async def score(self, ids: Sequence[int]) -> Reading:
        return await self.model.score(ids)

    async def fork(self, session: int) -> int:
        return await self.model.fork(session)

    async def close(self, session: int) -> None:
        await self.model.close(session)


class ForcedGate(Relay):
    """A plug-in whose gate weight is `weight`, whatever it reads."""

    def __init__(self, model: LanguageModel, weight: float | None) -> None:
        super().__init__(model)
        self.weight = weight

    async def open(
        self, ids: Sequence[int], rows: int = 1, decode: int = 0, threshold: float = 0.0, sampling: Sampling = GREEDY
    ) -> Step:
        if self.weight is not None and self.weight < threshold:
            decode = 0
        return dataclasses.replace(await self.model.open(ids, rows, decode), weight=self.weight)


class Recorder(Relay):
    """Records the calls of a model, over all sessions.

    opened: the tokens of every `open`. extensions: `(tokens kept, tokens fed)` of every `extend`.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model)
        self.opened: list[tuple[int, ...]] = []
        self.extensions: list[tuple[int, tuple[int, ...]]] = []
        self.forks = 0

    async def open(self, ids: Sequence[int], *args: Any, **options: Any) -> Step:
        self.opened.append(tuple(ids))
        return await super().open(ids, *args, **options)

    async def extend(self, session: int, keep: int, ids: Sequence[int], *args: Any, **options: Any) -> Step:
        self.extensions.append((keep, tuple(ids)))
        return await super().extend(session, keep, ids, *args, **options)

    async def fork(self, session: int) -> int:
        self.forks += 1
        return await super().fork(session)


def full_logits(model: Any, ids: Sequence[int]) -> Tensor:
    """Logits of every position from one forward pass without a cache, [N, V]."""
    with torch.no_grad():
        return model(torch.tensor([list(ids)]), use_cache=False).logits[0].float()
