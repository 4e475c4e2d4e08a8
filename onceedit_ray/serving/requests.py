"""Splits a request into generation requests, one for each prompt, target and choice, and checks the limits."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from onceedit_ray.models.sampling import Sampling
from onceedit_ray.serving.errors import ApiError, unknown_model
from onceedit_ray.serving.generation_request import GenerationRequest
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.schema import ChatRequest, CompletionRequest

EVERY = "*"
"""The model name that stands for all targets."""
COMPLETION_TOKENS = 16
"""OpenAI's default for completions."""
COLDEST = 0.01
"""Below this temperature the most likely token is taken; dividing by less would exceed the range of float32."""

Messages = tuple[Mapping[str, str], ...]


def questions(
    request: CompletionRequest | ChatRequest, targets: Sequence[str], limits: Limits
) -> list[GenerationRequest]:
    """The generation requests in the order of the choices: prompt by prompt, target by target, `n` of each.

    Raises `ApiError` for an unknown model and for values above the limits.
    """
    if request.model != EVERY and request.model not in targets:
        raise unknown_model(request.model, targets)
    asked = list(targets) if request.model == EVERY else [request.model]
    prompts = _prompts(request, limits)
    n = request.n or 1
    answers = len(prompts) * len(asked) * n
    if answers > limits.answers:
        raise ApiError(400, f"{answers} answers are asked for; {limits.answers} is the most at once", "n")
    tokens, stops = _tokens(request, limits), request.stops
    seed = secrets.randbits(63) if request.seed is None else request.seed
    options = (request.unedited, request.likely, isinstance(request, CompletionRequest) and bool(request.echo))
    return [
        GenerationRequest(target, tokens, _sampling(request, seed + choice, limits), prompt, messages, stops, *options)
        for prompt, messages in prompts
        for target in asked
        for choice in range(n)
    ]


def _prompts(request: CompletionRequest | ChatRequest, limits: Limits) -> list[tuple[str | tuple[int, ...], Messages]]:
    if isinstance(request, CompletionRequest):
        _check_length(request.prompts, "prompt", limits)
        return [(prompt, ()) for prompt in request.prompts]
    if len(request.messages) > limits.messages:
        found = f"{len(request.messages)} messages; {limits.messages} is the most"
        raise ApiError(400, found, "messages")
    messages = tuple(message.plain for message in request.messages)
    _check_length([message["content"] for message in messages], "messages", limits)
    return [("", messages)]


def _check_length(texts: Sequence[str | tuple[int, ...]], param: str, limits: Limits) -> None:
    chars = sum(map(len, texts))
    if chars > limits.prompt_chars:
        found = f"{chars} characters or tokens; {limits.prompt_chars} is the most, so shorten it"
        raise ApiError(400, found, param, "context_length_exceeded")


def _tokens(request: CompletionRequest | ChatRequest, limits: Limits) -> int:
    """The most tokens of an answer. A value above the limit, or beyond the context, is reduced to it; the answer then
    ends with "length".
    """
    if isinstance(request, ChatRequest):
        wanted = request.max_completion_tokens or request.max_tokens or limits.chat_tokens
    else:
        wanted = COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens
        if not wanted and not request.echo:
            raise ApiError(400, "'max_tokens' is 0, which needs 'echo'; set it to 1 at least", "max_tokens")
    return min(wanted, limits.max_tokens)


def _sampling(request: CompletionRequest | ChatRequest, seed: int, limits: Limits) -> Sampling:
    temperature = limits.temperature if request.temperature is None else request.temperature
    top_p = 1.0 if request.top_p is None else request.top_p
    return Sampling(temperature if temperature >= COLDEST else 0.0, top_p, seed)
