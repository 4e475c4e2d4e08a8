"""Answers if every target is asked: working targets answer, failed ones are named. It does not use HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from onceedit_ray.serving.backend import Backend
from onceedit_ray.serving.errors import ApiError, api_error_of
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece


@dataclass(frozen=True)
class Failed:
    """A target that did not answer, and why."""

    target: str
    error: ApiError


async def answered(
    backend: Backend, question: GenerationRequest, deadline: float, every: bool
) -> tuple[Piece, GenerationEnd] | Failed:
    """A whole answer until `deadline`, in the event loop's time; raises errors unless `every` target is asked."""
    try:
        async with asyncio.timeout_at(deadline):
            return await backend.answer(question)
    except Exception as error:
        if not every:
            raise
        return Failed(question.target, api_error_of(error))


async def spoken(
    backend: Backend, question: GenerationRequest, every: bool
) -> AsyncGenerator[Piece | GenerationEnd | Failed]:
    """An answer in pieces; otherwise as `answered`."""
    try:
        async with contextlib.aclosing(backend.speak(question)) as pieces:
            async for piece in pieces:
                yield piece
    except Exception as error:
        if not every:
            raise
        yield Failed(question.target, api_error_of(error))
