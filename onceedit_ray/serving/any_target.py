"""Answers of any target: of a model whose tokens are known here (`generation`), or of a server, whose events are
relayed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Literal

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ConfigError, NotPossibleError, UnknownTargetError
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.engine_answer import EngineAnswer, Event, Server, finish_of, text_of
from onceedit_ray.models.engines.start import open_engine
from onceedit_ray.serving import generation
from onceedit_ray.serving.engine_requests import EXTENSION, EngineRequest, body_of
from onceedit_ray.serving.generation_request import BUSY, GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece


async def relay(decoder: FusedDecoder, asked: EngineRequest) -> AsyncGenerator[Event | GenerationEnd]:
    """The events of a server's answer while the plug-in reads along, and at last the summary.

    Raises `EngineError`; `ConfigError` if the plug-in does not read; `UnknownTargetError` for a removed target.
    """
    if asked.target not in decoder.servers:
        raise UnknownTargetError(f"the model '{asked.target}' has been removed")
    server, prompt = decoder.servers[asked.target], asked.prompt
    body = {**asked.body, "stream_options": {"include_usage": True}}
    with decoder.pinned() as pinned:
        plugin = pinned.plugin
        if asked.unedited or prompt is None:
            usage: dict[str, Any] = {}
            finish = ""
            async with contextlib.aclosing(server.events(asked.path, body)) as events:
                async for event in events:
                    usage = event.get("usage") or usage
                    finish = finish_of(event) or finish
                    yield event
            yield ending(asked.target, usage, alone=True, weight=None, finish=finish)
            return
        if plugin.facts is None:
            raise ConfigError(f"version {plugin.version} was trained, and '{asked.target}' needs one that reads facts")
        async with pinned.reading_along(plugin, prompt) as found:
            answer = EngineAnswer(server, body, prompt, found)
            async for event in answer.events():
                if event["choices"][0].get("finish_reason"):
                    event["choices"][0][EXTENSION] = _extension(asked.target, answer)
                yield event
            yield {**answer.head, "choices": [], "usage": answer.usage}
            weight, alone = max(found.weight, found.request_weight), answer.untouched
            yield ending(asked.target, answer.usage, alone, weight, answer.finish, plugin.version, found.edits)


def ending(
    target: str,
    usage: dict[str, Any],
    alone: bool,
    weight: float | None,
    finish: str = "stop",
    version: str = "",
    edits: tuple[str, ...] = (),
) -> GenerationEnd:
    """The summary of a server's answer."""
    reason: Literal["stop", "length"] = "length" if finish == "length" else "stop"
    prompt, new = (int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
    return GenerationEnd(target, reason, prompt, new, version, weight, alone, edits=edits)


async def speak(decoder: FusedDecoder, asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
    """As `generation.speak`, for every target."""
    if asked.target in decoder.members:
        async with contextlib.aclosing(generation.speak(decoder, asked)) as pieces:
            async for piece in pieces:
                yield piece
        return
    request = EngineRequest(asked.target, body_of(asked), asked.unedited)
    async with contextlib.aclosing(relay(decoder, request)) as events:
        async for event in events:
            if isinstance(event, GenerationEnd):
                yield event
            elif event.get("choices") and (text := text_of(event)):
                yield Piece(text)


async def answer(decoder: FusedDecoder, asked: GenerationRequest) -> tuple[Piece, GenerationEnd]:
    """As `generation.answer`, for every target."""
    if asked.target in decoder.members:
        return await generation.answer(decoder, asked)
    text = ""
    async with contextlib.aclosing(speak(decoder, asked)) as pieces:
        async for piece in pieces:
            if isinstance(piece, GenerationEnd):
                return Piece(text), piece
            text += piece.text
    raise AssertionError("an answer ends with a GenerationEnd")


async def probe(decoder: FusedDecoder, seconds: float) -> dict[str, str]:
    """As `generation.probe`; a server must list its models."""
    states = asyncio.gather(*(_state(server, seconds) for server in decoder.servers.values()))
    loaded, served = await asyncio.gather(generation.probe(decoder, seconds), states)
    return {**loaded, **dict(zip(decoder.servers, served, strict=True))}


def targets(decoder: FusedDecoder) -> list[str]:
    """The names of all targets."""
    return list({**decoder.members, **decoder.servers})


def served(decoder: FusedDecoder) -> dict[str, ModelConfig]:
    """The targets that servers have, each with its entry in a run file."""
    return {name: server.config for name, server in decoder.servers.items()}


async def try_server(decoder: FusedDecoder, name: str, config: ModelConfig) -> str:
    """The abilities of a server that may become a target; nothing is added.

    Raises `NotPossibleError` if there is such a target, `EngineError` and `ConfigError` for settings that are wrong or
    a server that does not answer.
    """
    if name in targets(decoder):
        raise NotPossibleError(f"there is a model '{name}' already; remove it first, or choose another name")
    engine = open_engine(name, config)
    try:
        abilities = await engine.check()
        return f"{await engine.model()}: {abilities}"
    finally:
        await engine.aclose()


async def remove_server(decoder: FusedDecoder, name: str) -> None:
    """Remove a server's target; its answers under way end as they would. Nothing happens if it has been removed."""
    if (server := decoder.servers.pop(name, None)) is not None:
        decoder.members.pop(name, None)  # if its tokens are known
        await server.leave()


def check_removable(decoder: FusedDecoder, name: str) -> None:
    """Raise `NotPossibleError` for a target that is loaded here, `UnknownTargetError` for a name of no target."""
    if name in decoder.members and name not in decoder.servers:
        raise NotPossibleError(f"'{name}' is loaded here; only targets that servers have can be removed")
    if name not in decoder.servers:
        known = ", ".join(decoder.servers) or "no target that a server has"
        raise UnknownTargetError(f"unknown target '{name}': there is {known}")


async def _state(server: Server, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            return await server.state()
    except TimeoutError:
        return BUSY


def _extension(target: str, answer: EngineAnswer) -> dict[str, Any]:
    """The `onceedit` field of a choice, as `responses` writes it."""
    found = answer.found
    return {
        "target": target,
        "version": found.version,
        "weight": max(found.weight, found.request_weight),
        "alone": answer.untouched,
        "edits": list(found.edits),
    }
