"""Joins the events of a streamed answer into the object that a request without a stream gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from onceedit_ray.fusion.engine_answer import Event

HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")


def assembled(events: Iterable[Event], chat: bool) -> dict[str, Any]:
    """The answer of one choice: a `chat.completion` or a `text_completion`."""
    whole: dict[str, Any] = {"object": "chat.completion" if chat else "text_completion"}
    told: dict[str, Any] = {"role": "assistant", "content": None} if chat else {"text": ""}
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": None}
    for event in events:
        whole = {**{key: event[key] for key in HEAD if key in event}, **whole}
        if event.get("usage"):
            whole["usage"] = event["usage"]
        for part in event.get("choices") or ():
            _add(told, part.get("delta") or {} if chat else {"text": part.get("text") or ""})
            choice["logprobs"] = _joined(choice["logprobs"], part.get("logprobs"))
            own = {key: value for key, value in part.items() if key not in ("index", "delta", "text", "logprobs")}
            choice.update({key: value for key, value in own.items() if value is not None})
    return {**whole, "choices": [{**choice, **({"message": told} if chat else told)}]}


def _add(told: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Add a delta: texts are continued, lists of numbered parts (calls of tools) are merged by their numbers."""
    for key, value in delta.items():
        if value is None:
            continue
        before = told.get(key)
        if key == "role" or before is None:
            told[key] = [dict(part) for part in value] if isinstance(value, list) else value
        elif isinstance(value, str):
            told[key] = before + value
        elif isinstance(value, list):
            for part in value:
                _add_part(before, part)
        elif isinstance(value, dict):
            _add(before, value)


def _add_part(parts: list[dict[str, Any]], part: dict[str, Any]) -> None:
    same = next((each for each in parts if each.get("index") == part.get("index")), None)
    if same is None:
        parts.append(dict(part))
    else:
        _add(same, {key: value for key, value in part.items() if key not in ("index", "type", "id")})


def _joined(before: Any, more: Any) -> Any:
    """Log probabilities, one list after the other."""
    if not isinstance(more, dict):
        return before
    if not isinstance(before, dict):
        return {key: list(value) if isinstance(value, list) else value for key, value in more.items()}
    for key, value in more.items():
        before[key] = [*(before.get(key) or []), *value] if isinstance(value, list) else before.get(key) or value
    return before
