"""Generates one answer as text: takes a prompt, yields pieces of text, and at the end a summary of the answer.

It runs in the decoder's process (the coordinator, or the only process), so only text is sent between processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from onceedit_ray.errors import OnceEditError, UnwritableError
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.outputs import Generation, Trace
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.models.protocol import LanguageModel
from onceedit_ray.serving.detokenizer import Detokenizer
from onceedit_ray.serving.echo import echoed
from onceedit_ray.serving.generation_request import BUSY, PLUGIN, GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece, Scored, scored


async def speak(decoder: FusedDecoder, asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
    """An answer in pieces, and at last its `GenerationEnd`. Closing the generator frees the sessions.

    Raises `PromptError`, `ContextLengthError`, and `ConfigError` for an unknown target.
    """
    with decoder.pinned() as pinned:
        async with contextlib.aclosing(_spoken(pinned, asked)) as pieces:
            async for piece in pieces:
                yield piece


async def _spoken(decoder: FusedDecoder, asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
    prompt, codec = _prompt(decoder, asked)
    echo = Piece("")
    if asked.echo:
        text = asked.prompt if isinstance(asked.prompt, str) else None
        echo = await echoed(decoder.member(asked.target), prompt, text, asked.logprobs)
        yield echo
        if not asked.max_tokens:
            yield GenerationEnd(asked.target, "length", len(prompt.ids), 0, "", None, True)
            return
    trace = Trace(asked.logprobs)
    stops = _chat_stops(asked, codec)
    writing = _Writing(codec, Detokenizer((*asked.stop, *stops)), trace, len(echo.text), asked.echo, bool(stops))
    pieces = decoder.stream(
        asked.target, prompt, _strategy(asked), asked.max_tokens, asked.sampling, trace=trace,
        stop=lambda: writing.text.stopped,
    )  # fmt: skip
    async with contextlib.aclosing(pieces):
        async for piece in pieces:
            if not isinstance(piece, Generation):
                if (certain := writing.write(piece)) is not None:
                    yield certain
                continue
            if not writing.text.stopped and (rest := writing.end()) is not None:
                yield rest
            yield _ending(piece, writing.text.stopped)


@dataclass
class _Writing:
    """Turns the tokens of an answer into text.

    before: characters before the answer. ends: whether the token that ends the answer is among the scored tokens, as
    clients expect that count the tokens of an echo. strips: whether leading white space is removed. waiting: scored
    tokens whose text has not been returned yet.
    """

    codec: Codec
    text: Detokenizer
    trace: Trace
    before: int = 0
    ends: bool = False
    strips: bool = False
    tokens: int = 0
    waiting: deque[Scored] = field(default_factory=deque)

    def write(self, ids: Sequence[int]) -> Piece | None:
        """The text that has become certain with these tokens; None if there is none."""
        if not self.trace.wanted:
            return self._piece(self.text.feed(self.codec.bytes_of(ids)))
        certain = ""
        for token in ids:
            ends = token in self.codec.end_ids
            if not self.text.stopped and (self.ends or not ends):
                at = self.before + self.text.read
                self.waiting.append(scored(self.trace.chances[self.tokens], self.codec, at))
                certain += "" if ends else self.text.feed(self.codec.surface(token))
            self.tokens += 1
        return self._piece(certain, self._complete(self.before + self.text.given))

    def end(self) -> Piece | None:
        """The remaining text."""
        return self._piece(self.text.feed(b"", final=True), self._complete(None))

    def _complete(self, given: int | None) -> tuple[Scored, ...]:
        """Take the waiting tokens that begin before character `given`; all of them if it is None."""
        out = []
        while self.waiting and (given is None or self.waiting[0].at < given):
            out.append(self.waiting.popleft())
        return tuple(out)

    def _piece(self, text: str, tokens: tuple[Scored, ...] = ()) -> Piece | None:
        if self.strips:
            text = text.lstrip()
            self.strips = not text
        return Piece(text, tokens) if text or tokens else None


async def answer(decoder: FusedDecoder, asked: GenerationRequest) -> tuple[Piece, GenerationEnd]:
    """A whole answer; as `speak`, but in fewer steps if there are no stop strings, no echo and no log probabilities."""
    prompt, codec = _prompt(decoder, asked)
    if asked.stop or _chat_stops(asked, codec) or asked.echo or asked.logprobs is not None:
        written: list[Piece] = []
        async with contextlib.aclosing(speak(decoder, asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, GenerationEnd):
                    tokens = tuple(token for part in written for token in part.tokens)
                    return Piece("".join(part.text for part in written), tokens), piece
                written.append(piece)
        raise AssertionError("an answer ends with a GenerationEnd")
    generation = await decoder.generate(asked.target, prompt, _strategy(asked), asked.max_tokens, asked.sampling)
    return Piece(generation.text), _ending(generation)


async def probe(decoder: FusedDecoder, seconds: float) -> dict[str, str]:
    """Let the plug-in and every target read a token. Returns the state of each by name: "" if it works, `BUSY`, or its
    error.
    """
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


def _strategy(asked: GenerationRequest) -> str | None:
    """The fusion strategy; None for the configured one."""
    return UNEDITED if asked.unedited else None


def _chat_stops(asked: GenerationRequest, codec: Codec) -> tuple[str, ...]:
    return codec.chat_stops if asked.messages else ()


def _prompt(decoder: FusedDecoder, asked: GenerationRequest) -> tuple[Prompt, Codec]:
    codec = decoder.member(asked.target).codec
    if asked.messages:
        prompt = codec.chat_prompt(asked.messages)
    elif isinstance(asked.prompt, str):
        prompt = codec.text_prompt(asked.prompt)
    else:
        prompt = codec.token_prompt(asked.prompt)
    if asked.known and not asked.echo:
        with contextlib.suppress(UnwritableError):  # an incomplete character, written as U+FFFD
            prompt = replace(prompt, known=codec.encode_bytes(asked.known.encode()))
    return prompt, codec


def _ending(generation: Generation, stopped: bool = False) -> GenerationEnd:
    return GenerationEnd(
        target=generation.target,
        reason="stop" if stopped or generation.ended else "length",
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=len(generation.token_ids),
        version=generation.version,
        weight=generation.weight,
        alone=generation.alone,
        drafted=generation.drafted,
        accepted=generation.accepted,
        edits=generation.edits,
    )
