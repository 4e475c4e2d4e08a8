"""The stream of a server's answer that passes through: its own events, with the target's name as `model`, and the field
`onceedit` where a choice ends.

Most events of a stream differ only in their choices. So the text around the choices is taken from the first event, and
an event with the same text around its choices is not parsed: it gets the target's name, and every other byte is the
server's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from onceedit_ray.fusion.engine_answer import finish_of
from onceedit_ray.models.engines.events import DONE, LARGEST, data_of, parsed
from onceedit_ray.serving.engine_requests import EXTENSION
from onceedit_ray.serving.server_sent_events import event

_FIELD = b"data:"
_CHOICES = re.compile(rb'"choices"\s*:\s*')
_MODEL = re.compile(rb'("model"\s*:\s*)"(?:[^"\\]|\\.)*"')
_TELLS = re.compile(rb'"(?:finish_reason|usage|error)"\s*:\s*(?!null|\s)')
"""A field that has a value. It cannot be text of the answer, in which each quotation mark follows a backslash."""


def named(item: dict[str, Any], name: str, extension: Mapping[str, Any]) -> dict[str, Any]:
    """An object of a server with a target's name, and the field `onceedit` where a choice ends."""
    if "model" in item:
        item["model"] = name
    for choice in item.get("choices") or ():
        if isinstance(choice, dict) and choice.get("finish_reason"):
            choice[EXTENSION] = extension
    return item


class PassedStream:
    """One stream.

    Args:
        name: of the target. extension: the field `onceedit` of a choice.

    usage: the server's token counts. finish: why the answer has ended. events: number of events with a choice.
    complete: whether the answer has ended.
    """

    def __init__(self, name: str, extension: Mapping[str, Any]) -> None:
        self._name = name
        self._extension = extension
        self._held = b""
        self._around: tuple[bytes, bytes] | None = None
        self._named_around = (b"", b"")
        self._done = False
        self.usage: dict[str, Any] = {}
        self.finish = ""
        self.events = 0

    @property
    def complete(self) -> bool:
        return self._done or bool(self.finish)

    def feed(self, part: bytes) -> bytes:
        """The events that are whole with the next bytes of the server; raises `ValueError` for one without an end."""
        held = self._held + part
        if b"\r" in held:
            held = held.replace(b"\r\n", b"\n")
        *whole, self._held = held.split(b"\n\n")
        if len(self._held) > LARGEST:
            raise ValueError(f"an event of more than {LARGEST} bytes")
        return b"".join(map(self._passed, whole))

    def end(self) -> bytes:
        """The rest of the stream, when the server has closed it."""
        return self._passed(self._held) if self._held.strip() else b""

    def _passed(self, block: bytes) -> bytes:
        if self._around is not None and _TELLS.search(block) is None:
            before, after = self._around
            if block.startswith(before) and block.endswith(after) and len(block) >= len(before) + len(after):
                self.events += 1
                own_before, own_after = self._named_around
                return own_before + block[len(before) : len(block) - len(after)] + own_after + b"\n\n"
        data = data_of(block)
        self._done = self._done or data == DONE
        item = parsed(data)
        if item is None:
            return block + b"\n\n"
        self.usage = item.get("usage") or self.usage
        self.events += len(item.get("choices") or ())
        self.finish = finish_of(item) or self.finish
        if self._around is None:
            self._learn(block, item)
        return event(named(item, self._name, self._extension))

    def _learn(self, block: bytes, item: Mapping[str, Any]) -> None:
        """Take the text around the choices of an event, if the same event can be put together from it again."""
        found = _CHOICES.search(block)
        if found is None or b"\n" in block or not block.startswith(_FIELD) or not item.get("choices"):
            return
        try:
            text = block[found.end() :].decode()
            _, length = json.JSONDecoder().raw_decode(text)
        except ValueError:
            return
        before, after = block[: found.end()], text[length:].encode()
        name = json.dumps(self._name).encode()
        own = [_MODEL.sub(lambda match: match[1] + name, side) for side in (before, after)]
        rest = {**item, "choices": []}
        wanted = {**rest, "model": self._name} if "model" in rest else rest
        if _object(before, after) == rest and _object(*own) == wanted:
            self._around, self._named_around = (before, after), (own[0], own[1])


def _object(before: bytes, after: bytes) -> dict[str, Any] | None:
    return parsed(before.removeprefix(_FIELD) + b"[]" + after)
