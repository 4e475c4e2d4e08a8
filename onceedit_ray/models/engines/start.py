"""Opens the engines of targets that servers have, and tries them before anything is started."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import EngineError
from onceedit_ray.models.engines import ENGINES
from onceedit_ray.models.engines.openai import OpenAIEngine
from onceedit_ray.progress import Progress


def open_engine(name: str, config: ModelConfig) -> OpenAIEngine:
    """The engine of a target that a server has; raises `ConfigError` if the environment lacks its key."""
    return cast(type[OpenAIEngine], ENGINES.get(config.engine))(name, config)


def try_servers(served: Mapping[str, ModelConfig], progress: Progress) -> None:
    """Report what each server can do. A server that does not answer yet is reported, and does not stop the others.

    Raises `EngineError` where a setting is wrong (address, key, model's name), `ConfigError` for a key that is missing.
    """
    engines = [open_engine(name, config) for name, config in served.items()]

    async def all_of_them() -> list[str]:
        return list(await asyncio.gather(*map(_tried, engines)))

    for line in asyncio.run(all_of_them()) if engines else ():
        progress(line)


async def _tried(engine: OpenAIEngine) -> str:
    try:
        abilities = await engine.check()
        return f"{engine.name}: {await engine.model()} at {engine.url}: {abilities}"
    except EngineError as error:
        if error.lasting:
            raise
        return f"{error}; its requests are refused until it answers, the other targets answer"
    finally:
        await engine.aclose()
