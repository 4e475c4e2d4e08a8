"""Server-sent events. This file imports no model code, so that the proxy can use it."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"


_LINE_ENDS = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"})
"""Characters at which `str.splitlines`, and so httpx's `iter_lines`, ends a line; JSON has them in strings only."""


def event(data: dict[str, Any]) -> bytes:
    """A server-sent event, on one line for every client."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    return b"data: " + text.encode() + b"\n\n"
