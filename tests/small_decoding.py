"""Shared by the tests of the decoder: models that were taught a few sentences, and a decoder with a forced gate."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.config import FusionConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.models.local_model import LocalModel
from tests.families import FAMILIES, SENTENCES
from tests.small_system import ForcedGate, TaughtModels, half_sentence, teach_models

BEGUN = [half_sentence(sentence)[0] for sentence in SENTENCES]
BUDGET = 8


@functools.cache
def taught(folder: Path) -> TaughtModels:
    """Once for all the files that use the fixture."""
    return teach_models(folder, FAMILIES)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TaughtModels:
    return taught(tmp_path_factory.getbasetemp() / "taught")


@pytest.fixture
def decoder(models: TaughtModels) -> Iterator[FusedDecoder]:
    """A decoder whose gate is always open; whatever a test does, every session must be closed after it."""
    yield decoder_of(models, weight=0.6)
    assert open_sessions(models) == 0


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
