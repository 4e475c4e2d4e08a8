"""Server-sent events: what a client that reads lines gets."""

from __future__ import annotations

import json

import httpx2
import pytest

from onceedit_ray.serving.server_sent_events import event


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\n", "\r", "é", "🙂"])
def test_an_event_is_one_line_whatever_it_says(character: str) -> None:
    """A client that ends lines as Python does (httpx) must not cut an event in its middle."""
    said = {"text": f"a{character}b"}
    lines = list(httpx2.Response(200, content=event(said)).iter_lines())
    assert json.loads(lines[0].removeprefix("data: ")) == said
    assert lines[1:] in ([], [""])
