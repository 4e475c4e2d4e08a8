"""Writes a line of JSON for each request: its cost and its outcome, but no prompt, no answer and no key.

The log contains prompts only if the deployment's settings ask for it (`keep_prompts`).
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, Protocol

from onceedit_ray.serving.observing import Account
from onceedit_ray.serving.responses import usage

DIGITS = 6


class Stream(Protocol):
    """Where lines are written."""

    def write(self, text: str, /) -> object:
        """Write lines, each with its end."""

    def flush(self) -> None:
        """Write what is held back."""


class RequestLog:
    """An `Observer` that writes lines to `stream`, by default to the process's standard output."""

    def __init__(self, stream: Stream | None = None) -> None:
        self._stream = stream or sys.stdout

    def began(self, account: Account) -> None:
        """Nothing is written yet."""

    def ended(self, account: Account) -> None:
        """Write the request's line, in one piece."""
        self._stream.write(json.dumps(line(account), ensure_ascii=False) + "\n")
        self._stream.flush()


def line(account: Account) -> dict[str, Any]:
    """The fields that are written for a request."""
    entry: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": account.id,
        "method": account.method,
        "route": account.route,
        "status": account.status,
        "seconds": round(account.seconds, DIGITS),
    }
    if account.error:
        entry["error"] = account.error
    if account.model:
        entry |= {"model": account.model, "stream": account.streamed, **usage(account.endings)}
        entry["answers"] = [
            {"target": end.target, "version": end.version, "weight": end.weight, "alone": end.alone}
            for end in account.endings
        ]
    if account.first is not None:
        entry["first_token_seconds"] = round(account.first, DIGITS)
    if account.prompts:
        entry["prompts"] = account.prompts
    return entry
