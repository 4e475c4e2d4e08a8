"""Replacing a plug-in while requests run: each finishes on its own plug-in, and waiting for the last one works."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from onceedit_ray.config import FusionConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.fusion.screen import Screen
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.sampling import GREEDY
from onceedit_ray.serving.generation import speak
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece
from tests.small_system import ForcedGate, TaughtModels

PROMPT = "The capital of France"


def plugin_of(models: TaughtModels, version: str, weight: float, **options: Any) -> Plugin:
    return Plugin(ForcedGate(models.plugin, weight), models.plugin_codec, "short", version=version, **options)


def decoder_of(models: TaughtModels) -> FusedDecoder:
    decoder = models.decoder(FusionConfig(max_new_tokens=12))
    decoder.plugin = plugin_of(models, "old", 0.9)
    return decoder


async def test_a_stream_ends_on_the_version_it_began_with(models: TaughtModels) -> None:
    decoder = decoder_of(models)
    whole = await decoder.generate("gpt2", PROMPT)
    old = decoder.plugin
    pieces = []
    async with contextlib.aclosing(decoder.stream("gpt2", PROMPT)) as stream:
        async for piece in stream:
            pieces.append(piece)
            if len(pieces) == 1:
                decoder.plugin = plugin_of(models, "new", 0.1)
                leaving = asyncio.ensure_future(old.idle())
                await asyncio.sleep(0)
                assert not leaving.done(), "a request holds it"
                after = await decoder.generate("gpt2", PROMPT)
                assert (after.version, after.alone) == ("new", True)
                assert not leaving.done(), "and still does"
    await leaving
    ending = pieces[-1]
    assert isinstance(ending, Generation)
    assert (ending.version, ending.token_ids, ending.weight) == ("old", whole.token_ids, whole.weight)


async def test_an_answer_cut_by_a_stop_string_names_the_version_that_gave_it(models: TaughtModels) -> None:
    """The plug-in is asked a second time for its weight; another version may be active by then."""

    decoder = decoder_of(models)
    text = (await decoder.generate("gpt2", PROMPT)).text
    stop = text.strip()[-2:]
    said: list[Piece | GenerationEnd] = []
    async with contextlib.aclosing(
        speak(decoder, GenerationRequest("gpt2", 12, GREEDY, PROMPT, stop=(stop,)))
    ) as pieces:
        async for piece in pieces:
            said.append(piece)
            decoder.plugin = plugin_of(models, "new", 0.1)
    assert isinstance(said[-1], GenerationEnd)
    assert (said[-1].reason, said[-1].version, said[-1].alone) == ("stop", "old", False)


async def test_the_screen_is_that_of_the_version_a_request_began_with(models: TaughtModels) -> None:
    decoder = decoder_of(models)
    strategy = decoder._strategy

    async def slow(*arguments: Any) -> Any:
        decoder.plugin = plugin_of(models, "new", 0.9, screen=Screen([Edit(prompt="Zebra", target_new="x")]))
        return await strategy(*arguments)

    decoder._strategy = slow  # type: ignore[method-assign]
    answer = await decoder.generate("gpt2", PROMPT)
    assert (answer.version, answer.alone) == ("old", False)
    after = await decoder.generate("gpt2", PROMPT)
    assert (after.version, after.alone, after.weight) == ("new", True, 0.0)


async def test_asking_every_target_sees_one_version(models: TaughtModels) -> None:
    decoder = decoder_of(models)
    asking = asyncio.ensure_future(decoder.generate_all(dict.fromkeys(decoder.members, PROMPT)))
    await asyncio.sleep(0)
    decoder.plugin = plugin_of(models, "new", 0.1)
    assert {answer.version for answer in (await asking).values()} == {"old"}


async def test_a_plug_in_that_nobody_holds_is_idle_at_once(models: TaughtModels, tmp_path: Path) -> None:
    plugin = plugin_of(models, "old", 0.9)
    await plugin.idle()
    with contextlib.suppress(ZeroDivisionError), plugin.held():
        raise ZeroDivisionError
    await plugin.idle()
    assert plugin.requests == 0
