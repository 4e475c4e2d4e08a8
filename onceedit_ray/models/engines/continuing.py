"""Makes the request with which a server continues a partly written text. For a completion it holds the prompt and the
written part. For a chat the written part is the assistant's last message, or else the chat is sent as text in the
model's template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onceedit_ray.models.engines.abilities import Abilities

CHAT, TEXT = "chat/completions", "completions"
WHOLE_ONLY = (
    "response_format", "guided_json", "guided_regex", "guided_grammar", "guided_choice", "structured_outputs",
    "grammar", "json_schema", "tool_choice", "echo",
)  # fmt: skip
"""Fields that apply to a whole answer, and would be wrong for the rest of an answer."""
CHAT_ONLY = ("messages", "tools", "parallel_tool_calls", "max_completion_tokens", "logprobs", "top_logprobs")


def continuing(
    body: Mapping[str, Any],
    written: str,
    left: int | None,
    abilities: Abilities,
    render: Callable[[list[dict[str, Any]]], str] | None,
) -> tuple[str, dict[str, Any]] | None:
    """The path and body of the request; None if the server cannot continue the text.

    Args:
        body: the request for the whole answer. written: the part. left: tokens that may follow, None for no limit.
        render: writes a chat in the model's own template, if it is at hand.
    """
    rest = {key: value for key, value in body.items() if key not in WHOLE_ONLY}
    for limit in ("max_tokens", "max_completion_tokens"):
        if limit in rest and left is not None:
            rest[limit] = left
    if "messages" not in body:
        return TEXT, {**rest, "prompt": body["prompt"] + written}
    messages = list(body["messages"])
    begun = messages[-1].get("role") == "assistant"
    if begun:  # the client has written the beginning of the reply itself
        before = messages.pop()
        messages.append({**before, "content": f"{before.get('content') or ''}{written}"})
    else:
        messages.append({"role": "assistant", "content": written})
    if abilities.continues is not None:
        return CHAT, {**rest, "messages": messages, **abilities.continues}
    if abilities.completions and render is not None and not begun:
        rest = {key: value for key, value in rest.items() if key not in CHAT_ONLY}
        return TEXT, {
            **rest,
            "prompt": render(messages[:-1]) + written,
            **({} if left is None else {"max_tokens": left}),
        }
    return None
