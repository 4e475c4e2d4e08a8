"""Finds out by trying what a server of OpenAI's API can do. Each trial asks for one token.

A server's count of the prompt's tokens shows whether it continues a reply: a reply of one token that is continued
adds one token to the prompt; a reply that is closed, with a new one opened after it, adds the template's tokens, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from onceedit_ray.errors import EngineError

MOST_LIKELY = (20, 5, 1)
"""Numbers of log probabilities that are tried: vLLM's default limit, and OpenAI's of completions."""
QUESTION = {"role": "user", "content": "Write a letter."}
FLAGS: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
"""How vLLM and SGLang are asked to continue the last message; llama.cpp does it unasked."""
TOKEN_IDS: dict[str, Any] = {"return_tokens_as_token_ids": True}
"""How vLLM is asked to name tokens by their ids: two tokens may have one text, and would then count as one."""
REFUSALS = frozenset(range(400, 500)) - {401, 403, 408, 429} | {500, 501}
"""Statuses with which a server refuses a request that it does not support; other statuses are temporary errors."""
REPLY = "Zyx"
"""A reply that a model would not write by itself."""


@dataclass(frozen=True)
class Abilities:
    """What a server can do.

    completions: it has `/completions`. token_ids: whether `/completions` takes lists of prompts as token ids. logprobs:
    number of most likely tokens that it returns at each position; 0 for none. tokenize: it has `/tokenize`. chat: it
    has `/chat/completions`. continues: the fields that make it continue an assistant's message; None if it does not.
    repeats: whether it then repeats that message in its stream.
    """

    completions: bool = False
    token_ids: bool = False
    logprobs: int = 0
    tokenize: bool = False
    chat: bool = False
    continues: Mapping[str, Any] | None = None
    repeats: bool = False

    def __str__(self) -> str:
        can = {
            "completions": self.completions,
            "token ids": self.token_ids,
            f"{self.logprobs} log probabilities": bool(self.logprobs),
            "/tokenize": self.tokenize,
            "chat": self.chat,
            "continues replies": self.continues is not None,
        }
        return ", ".join(name for name, has in can.items() if has) or "nothing of OpenAI's API"


class Asked(Protocol):
    """A server, as this file uses it."""

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]: ...

    def events(self, path: str, body: Mapping[str, Any]) -> Any: ...


async def find_out(server: Asked) -> Abilities:
    """Try everything; raises `EngineError` if the server has neither completions nor chat."""
    refused: list[EngineError] = []
    text = await _tried(server, "completions", {"prompt": "a", "max_tokens": 1}, refused)
    chat = await _tried(server, "chat/completions", {"messages": [QUESTION], "max_tokens": 1}, refused)
    if text is None and chat is None:
        raise refused[-1]
    ids = text and await _tried(server, "completions", {"prompt": [[1], [1, 2]], "max_tokens": 1})
    continues = await _continuing(server, _prompt_tokens(chat)) if chat else None
    return Abilities(
        completions=text is not None,
        token_ids=bool(ids and len(ids.get("choices") or ()) == 2),
        logprobs=await _most_likely(server) if text else 0,
        tokenize=await _tried(server, "../tokenize", {"prompt": "a", "content": "a"}) is not None,
        chat=chat is not None,
        continues=continues,
        repeats=continues is not None and await _repeats(server, continues),
    )


async def _tried(
    server: Asked, path: str, body: Mapping[str, Any], refused: list[EngineError] | None = None
) -> dict[str, Any] | None:
    """The answer; None if the server refuses this request. Raises the error of a server that cannot be used now."""
    try:
        return await server.post(path, body)
    except EngineError as error:
        if error.found not in REFUSALS:
            raise
        if refused is not None:
            refused.append(error)
        return None


async def _most_likely(server: Asked) -> int:
    for named, number in itertools.product((TOKEN_IDS, {}), MOST_LIKELY):
        found = await _tried(server, "completions", {"prompt": "a", "max_tokens": 1, "logprobs": number, **named})
        for choice in (found or {}).get("choices") or ():
            told = choice.get("logprobs") or {}
            rows = told.get("top_logprobs") or [each.get("top_logprobs") for each in told.get("content") or ()]
            if rows and rows[0]:
                return len(rows[0])
    return 0


async def _continuing(server: Asked, before: int) -> Mapping[str, Any] | None:
    reply = [QUESTION, {"role": "assistant", "content": "a"}]
    flags: Mapping[str, Any]
    for flags in (FLAGS, {}):
        found = await _tried(server, "chat/completions", {"messages": reply, "max_tokens": 1, **flags})
        if found is not None and before and _prompt_tokens(found) == before + 1:
            return flags
    return None


async def _repeats(server: Asked, flags: Mapping[str, Any]) -> bool:
    reply = [QUESTION, {"role": "assistant", "content": REPLY}]
    written = ""
    async for event in server.events("chat/completions", {"messages": reply, "max_tokens": 1, **flags}):
        for choice in event.get("choices") or ():
            written += (choice.get("delta") or {}).get("content") or ""
    return written.startswith(REPLY)


def _prompt_tokens(answer: Mapping[str, Any]) -> int:
    return int((answer.get("usage") or {}).get("prompt_tokens") or 0)
