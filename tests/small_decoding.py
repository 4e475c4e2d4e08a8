"""Decoders whose gate has a given weight, over the models of the fixture `models`, and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from onceedit_ray.config import FusionConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.models.local_model import LocalModel
from tests.families import SENTENCES
from tests.small_system import ForcedGate, TaughtModels, half_sentence

BEGUN = [half_sentence(sentence)[0] for sentence in SENTENCES]
BUDGET = 8


def decoder_of(models: TaughtModels, weight: float, **fusion: Any) -> FusedDecoder:
    settings = {"threshold": 0.0, "max_new_tokens": BUDGET, "draft_tokens": 5} | fusion
    return models.decoder(FusionConfig(**settings), ForcedGate(models.plugin, weight))


def open_sessions(models: TaughtModels) -> int:
    inner = [models.plugin, *[member.model for member in models.members.values()]]
    assert all(isinstance(model, LocalModel) for model in inner)
    return sum(model.open_sessions for model in inner if isinstance(model, LocalModel))


def generations(
    decoder: FusedDecoder, target: str, prompts: Sequence[str], strategy: str | None = None, budget: int = BUDGET
) -> list[Generation]:
    async def all_of_them() -> list[Generation]:
        return [await decoder.generate(target, prompt, strategy, max_new_tokens=budget) for prompt in prompts]

    return asyncio.run(all_of_them())
