"""Calls of a running server's API, for the commands that need one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx2

from onceedit_ray.errors import OnceEditError

SERVER = "http://127.0.0.1:8000/v1"
SECONDS = 600.0
"""How long a server may take for one call; a server whose plug-in is trained answers at once, with the edit's state."""


def part(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")


def call(
    address: str, key: str, method: str, path: str, body: Mapping[str, Any] | None = None, option: str = "--url"
) -> dict[str, Any]:
    """The answer to a call.

    Args:
        address: of the API. key: "" for a server without keys. path: below the address. body: of the request, as JSON.
        option: of the command line, which gives the address.

    Raises `OnceEditError`, one line, if the call cannot be made or is refused.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = f"{address.rstrip('/')}{path}"
    try:
        response = httpx2.request(method, url, json=body, headers=headers, timeout=SECONDS)
        answer = response.json()
    except httpx2.HTTPError as error:
        raise OnceEditError(f"no server answers at {address} ({error}); start one, or give its {option}") from None
    except ValueError:
        raise OnceEditError(f"{address} is not the address of a OnceEdit server; it ends in /v1") from None
    if response.is_success and isinstance(answer, dict):
        return answer
    raise OnceEditError(_reason(answer, response.status_code))


def _reason(answer: Any, status: int) -> str:
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(error, dict) and error.get("message"):
        return str(error["message"])
    return f"the server refused the call with status {status}"
