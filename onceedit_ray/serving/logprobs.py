"""Log probabilities of an answer's tokens in OpenAI's two formats: four lists for completions, a token list for chats.

A token that ends in the middle of a character is written as its bytes; a token that stands for no text as its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onceedit_ray.fusion.outputs import TokenProbability

if TYPE_CHECKING:  # the ingress writes log probabilities, and has no tokenizer
    from onceedit_ray.models.codec import Codec

UNLIKELIEST = -9999.0
"""What OpenAI writes for a probability of 0; JSON has no infinity."""


@dataclass(frozen=True)
class Likely:
    """A token: its bytes, None if it stands for no text; its name, "" if it stands for text; and its log probability,
    None for the first token of a prompt."""

    data: bytes | None
    name: str
    logprob: float | None


@dataclass(frozen=True)
class Scored:
    """A token of an answer. at: number of characters before it. top: the most likely tokens at its position."""

    token: Likely
    at: int
    top: tuple[Likely, ...]


@dataclass(frozen=True)
class Piece:
    """Text of an answer, and the tokens whose text it completes if log probabilities are asked for."""

    text: str
    tokens: tuple[Scored, ...] = ()


def scored(chance: TokenProbability, codec: Codec, at: int) -> Scored:
    """A token of an answer after `at` characters of it."""
    top = tuple(_likely(token, p, codec) for token, p in chance.likely)
    return Scored(_likely(chance.token, chance.p, codec), at, top)


def unscored(token: int, codec: Codec) -> Scored:
    """The first token of a prompt."""
    return Scored(replace(_likely(token, 1.0, codec), logprob=None), 0, ())


def of_chat(tokens: Sequence[Scored]) -> dict[str, Any]:
    """`logprobs` of a chat's choice."""
    content = [_in_chat(each.token) | {"top_logprobs": [_in_chat(likely) for likely in each.top]} for each in tokens]
    return {"content": content, "refusal": None}


def of_completion(tokens: Sequence[Scored], likely: int) -> dict[str, Any]:
    """`logprobs` of a completion's choice.

    As at OpenAI, the token itself is always among its `top_logprobs`; they are empty if 0 were asked for.
    """
    top = [
        {_spelled(other, "bytes:"): other.logprob for other in (*each.top, each.token)}
        if each.token.logprob is not None
        else None
        for each in tokens
    ]
    return {
        "tokens": [_spelled(each.token, "bytes:") for each in tokens],
        "token_logprobs": [each.token.logprob for each in tokens],
        "top_logprobs": top if likely else None,
        "text_offset": [each.at for each in tokens],
    }


def _likely(token: int, p: float, codec: Codec) -> Likely:
    logprob = max(math.log(min(p, 1.0)), UNLIKELIEST) if p > 0 else UNLIKELIEST
    data = codec.surfaces.get(token)
    return Likely(data, "" if data is not None else str(codec.tokenizer.convert_ids_to_tokens(token) or ""), logprob)


def _in_chat(token: Likely) -> dict[str, Any]:
    data = None if token.data is None else list(token.data)
    return {"token": _spelled(token), "logprob": token.logprob, "bytes": data}


def _spelled(token: Likely, mark: str = "") -> str:
    if token.data is None:
        return token.name
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return mark + "".join(f"\\x{byte:02x}" for byte in token.data)
