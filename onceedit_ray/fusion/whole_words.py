"""Looks for a name or a phrase in a text, as whole words and without regard to case."""

from __future__ import annotations

import re


def find_whole(part: str, text: str) -> re.Match[str] | None:
    """The first place where a text holds `part`; "Rome" is not in "Romeo"."""
    return re.search(rf"(?<!\w){re.escape(part.strip())}(?!\w)", text, re.IGNORECASE)
