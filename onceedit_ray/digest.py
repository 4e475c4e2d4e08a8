"""One name for whatever JSON can write: the hash that the ids of versions and of comparison cells are made of.

What is kept under such an id is found again only while the bytes hashed here stay as they are. Knows nothing about what
goes into an id.
"""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel


def digest(value: object) -> str:
    """SHA-256, hexadecimal, of the JSON of `value`; settings count as their fields, anything else as its `str`."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)
