"""One answer as text, beside the decoder: prompt in, pieces of text out, and at the end what is known about it.

Runs where the decoder runs, in the coordinator or in one process, so that only text travels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Literal

from onceedit_ray.errors import OnceEditError
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder, Generation
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.protocol import LanguageModel
from onceedit_ray.models.sampling import Sampling
from onceedit_ray.serving.plain_text import PlainCodec, Prompt
from onceedit_ray.serving.text_stream import TextStream

BUSY = "busy"
"""What `probe` says of a model that did not answer in time: it may be loading, or have long work before it."""
PLUGIN = "plug-in"


@dataclass(frozen=True)
class Asked:
    """A question to one target.

    prompt: text to go on with. messages: a chat, each `{"role", "content"}`, in place of a prompt.
    stop: strings that end the answer. unedited: the target answers alone, the plug-in is not asked.
    """

    target: str
    max_tokens: int
    sampling: Sampling
    prompt: str = ""
    messages: tuple[Mapping[str, str], ...] = ()
    stop: tuple[str, ...] = ()
    unedited: bool = False

    @property
    def strategy(self) -> str | None:
        """The decoder's strategy; None is the configured one."""
        return UNEDITED if self.unedited else None


@dataclass(frozen=True)
class Ending:
    """What is known about an answer when it has ended.

    reason: "stop" at an end of text or a stop string, "length" where tokens or context ran out. version, weight, alone:
    as in `Generation`.
    """

    target: str
    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    version: str
    weight: float | None
    alone: bool


async def speak(decoder: FusedDecoder, asked: Asked) -> AsyncGenerator[str | Ending]:
    """An answer, piece by piece, and its `Ending` at last. Closing the generator frees the sessions.

    The decoder's codecs must be `PlainCodec`s (`take_prompts_as_text`). Raises `PromptError`, `ContextLengthError`,
    and `ConfigError` for an unknown target.
    """
    with decoder.pinned() as pinned:
        async with contextlib.aclosing(_spoken(pinned, asked)) as pieces:
            async for piece in pieces:
                yield piece


async def _spoken(decoder: FusedDecoder, asked: Asked) -> AsyncGenerator[str | Ending]:
    prompt, codec = _prompt(decoder, asked)
    text, tokens = TextStream(asked.stop), 0
    pieces = decoder.stream(asked.target, prompt, asked.strategy, asked.max_tokens, asked.sampling)
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Generation):
                if rest := text.feed(b"", final=True):
                    yield rest
                yield _ending(piece, text.stopped)
                return
            tokens += len(piece)
            if certain := text.feed(codec.bytes_of(piece)):
                yield certain
            if text.stopped:
                # Asked while the answer is open: the plug-in's reading of the question is shared, so it is the same.
                begun = await decoder.generate(asked.target, prompt, asked.strategy, 1, asked.sampling)
                yield _ending(begun, stopped=True, tokens=tokens)
                return


async def answer(decoder: FusedDecoder, asked: Asked) -> tuple[str, Ending]:
    """A whole answer; as `speak`, in fewer steps where no stop string is looked for."""
    if asked.stop:
        said, ending = [], None
        async with contextlib.aclosing(speak(decoder, asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Ending):
                    ending = piece
                else:
                    said.append(piece)
        assert ending is not None, "an answer ends with an Ending"
        return "".join(said), ending
    prompt, _ = _prompt(decoder, asked)
    generation = await decoder.generate(asked.target, prompt, asked.strategy, asked.max_tokens, asked.sampling)
    return generation.text, _ending(generation)


async def probe(decoder: FusedDecoder, seconds: float) -> dict[str, str]:
    """Let the plug-in and every target read a token: "" for each that does, `BUSY`, or what is wrong with it."""
    models = {PLUGIN: (decoder.plugin.model, decoder.plugin.codec)}
    models |= {name: (member.model, member.codec) for name, member in decoder.members.items()}
    states = await asyncio.gather(*(_state(*model, seconds) for model in models.values()))
    return dict(zip(models, states, strict=True))


async def _state(model: LanguageModel, codec: Codec, seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            step = await model.open(codec.encode_prompt("a")[:1])
        await model.close(step.session)
    except TimeoutError:
        return BUSY
    except OnceEditError as error:
        return str(error)
    return ""


def _prompt(decoder: FusedDecoder, asked: Asked) -> tuple[Prompt, Codec]:
    codec = decoder.member(asked.target).codec
    assert isinstance(codec, PlainCodec), "take_prompts_as_text comes first"
    return codec.chat(asked.messages) if asked.messages else codec.completion(asked.prompt), codec


def _ending(generation: Generation, stopped: bool = False, tokens: int | None = None) -> Ending:
    return Ending(
        target=generation.target,
        reason="stop" if stopped or generation.ended else "length",
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=len(generation.token_ids) if tokens is None else tokens,
        version=generation.version,
        weight=generation.weight,
        alone=generation.alone,
    )
