"""The prompt templates of a reader, for facts and a request.

A reader gets the facts first, so that the tokens of a fact come before the request. There are two endings:

- `asked`: the request and `Answer:`. The gate there shows whether the request asks for a fact, and the fact's answer
  follows.
- `read_along`: the request and `Reply:`, or `Text:` if a text is continued. The target's text is appended, and the gate
  at each of its tokens shows whether the fact's answer comes next.

This module knows strings only.
"""

from __future__ import annotations

from collections.abc import Sequence

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.prompt import Exchange

REPLY = "Reply:"
"""The end of the view in which a reply is read along."""


def fact_line(edit: Edit) -> str:
    """One fact as one line: a half sentence and its end, or a question and its answer."""
    return line_of(edit.question, edit.target_new)


def line_of(prompt: str, answer: str) -> str:
    """As `fact_line`, for a prompt and its answer."""
    return " ".join(f"Fact: {prompt.strip()} {answer.strip()}".split())


def asked(facts: Sequence[str], request: str, turns: Sequence[Exchange] = ()) -> str:
    """The view in which a request is answered directly; `facts` are lines of `fact_line`."""
    return "\n".join([*facts, *_dialogue(turns), f"Question: {request.strip()}", "Answer:"])


def read_along(facts: Sequence[str], request: str, turns: Sequence[Exchange] = ()) -> str:
    """The view in which a text is read as it is written; an empty request means that a text is continued."""
    if not request.strip():
        return "\n".join([*facts, "Text:"])
    return "\n".join([*facts, *_dialogue(turns), f"Question: {request.strip()}", REPLY])


def as_read(request: str) -> str:
    """A request as a reader gets it: one in capitals is read in lower case, as nearly all text is written."""
    return request.lower() if request.isupper() and len(request.split()) > 1 else request


def _dialogue(turns: Sequence[Exchange]) -> list[str]:
    return [line for turn in turns for line in (f"Question: {turn.request.strip()}", f"Reply: {turn.reply.strip()}")]
