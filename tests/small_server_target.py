"""A decoder whose only target is the model of a server, and a plug-in that reads two facts: for the tests of relays."""

from __future__ import annotations

from typing import Any

from onceedit_ray.config import FusionConfig, ModelConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.engines.openai import OpenAIEngine
from tests.small_reader import small_reader

TARGET = "llama"


def served_config(url: str, **more: Any) -> ModelConfig:
    """The target's entry in a run file."""
    return ModelConfig(model="auto", engine="openai", url=url, **more)


def decoder_at(url: str, codec: Codec, **more: Any) -> FusedDecoder:
    """The decoder; `codec` is the plug-in's."""
    decoder = FusedDecoder(small_reader(codec), FusionConfig(strategy="selective"))
    decoder.servers[TARGET] = OpenAIEngine(TARGET, served_config(url, **more))
    return decoder
