"""How facts and a request are written for a reader.

A reader sees the facts first, so that the tokens of a fact come before whatever is asked. Two endings follow:

- `asked`: the request and `Answer:`. The gate says there whether the request asks for the facts, and the fact's answer
  follows.
- `read_along`: the request and `Reply:`, or `Text:` where a text is continued. What a target writes is appended, and
  the gate says at each of its tokens whether the fact's answer comes next.

This module knows strings only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

REPLY = "Reply:"
"""How the view ends in which a reply is read along."""


@dataclass(frozen=True)
class Turn:
    """An earlier exchange of a conversation: what was asked and what was replied."""

    request: str
    reply: str


def fact_line(prompt: str, answer: str) -> str:
    """One fact as one line: a half sentence and its end, or a question and its answer."""
    return " ".join(f"Fact: {prompt.strip()} {answer.strip()}".split())


def asked(facts: Sequence[str], request: str, turns: Sequence[Turn] = ()) -> str:
    """The view in which a request is answered directly; `facts` are lines of `fact_line`."""
    return "\n".join([*facts, *_dialogue(turns), f"Question: {request.strip()}", "Answer:"])


def read_along(facts: Sequence[str], request: str, turns: Sequence[Turn] = ()) -> str:
    """The view in which a text is read as it is written; an empty request means that a text is continued."""
    if not request.strip():
        return "\n".join([*facts, "Text:"])
    return "\n".join([*facts, *_dialogue(turns), f"Question: {request.strip()}", REPLY])


def _dialogue(turns: Sequence[Turn]) -> list[str]:
    return [line for turn in turns for line in (f"Question: {turn.request.strip()}", f"Reply: {turn.reply.strip()}")]
