"""The checks before a request is parsed: its key, its origin, the size of its body, and the number of running requests.

Plain ASGI: a request counts as running until the last byte of its response is sent or its client has disconnected.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from onceedit_ray.serving.errors import ApiError
from onceedit_ray.serving.keys import ADMIN_KEYS_VARIABLE, EDIT_KEYS_VARIABLE, Keys, is_loopback
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.same_origin import check_json, check_own_page, headers
from onceedit_ray.serving.waiting_time import WaitingTime

GUARDED = "/v1/"
EDITING = ("/v1/edits", "/v1/versions")
MODELS = "/v1/models"


class Admission:
    """ASGI middleware in front of the API.

    Args:
        app: the guarded application. keys: keys for asking; if empty, only the loopback is admitted. limits: sizes and
            counts. edit_keys: keys for editing; if empty while there are keys for asking, nobody may edit.
        admin_keys: keys for adding and removing targets; if empty while there are other keys, nobody may.
    """

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits, edit_keys: Keys, admin_keys: Keys) -> None:
        self._app = app
        self._keys = keys
        self._edit_keys = edit_keys
        self._admin_keys = admin_keys
        self._limits = limits
        self._waiting = WaitingTime(limits.in_flight, limits.retry_after)
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._admit(scope)
            body = await self._body(scope, receive)
            if body is None:
                return  # the client has disconnected
            check_json(scope, body)
            counted = scope["method"] == "POST"
            if counted and self.in_flight >= self._limits.in_flight:
                raise ApiError(
                    429, f"{self.in_flight} requests are under way, the most there may be; try again",
                    code="too_many_requests", retry_after=self._waiting.next(),
                )  # fmt: skip
        except ApiError as refusal:
            await refusal.response()(scope, receive, send)
            return
        self.in_flight += counted
        begun = time.monotonic()
        try:
            await self._app(scope, given_again(body, receive), self._with_waiting_time(send) if counted else send)
        finally:
            self.in_flight -= counted
            if counted:
                self._waiting.took(time.monotonic() - begun)

    def _with_waiting_time(self, send: Send) -> Send:
        """An ASGI channel that adds `Retry-After` to a 429 which does not say when to try again."""

        async def channel(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] == 429:
                given = list(message["headers"])
                if not any(name.lower() == b"retry-after" for name, _ in given):
                    given.append((b"retry-after", str(self._waiting.next()).encode()))
                message = {**message, "headers": given}
            await send(message)

        return channel

    def _admit(self, scope: Scope) -> None:
        client = scope.get("client")
        if not self._keys and client and not is_loopback(client[0]):
            raise ApiError(403, "this server has no API keys, so it answers only its own machine", code="no_keys")
        if not self._keys:
            check_own_page(scope)
        given = _header(scope, b"authorization")
        if _manages(scope):
            self._admit_managing(given)
        elif _edits(scope["path"]):
            self._admit_editing(given)
        elif scope["path"].startswith(GUARDED) and not self._keys.admits(given):
            raise ApiError(401, "give one of the server's keys: `Authorization: Bearer KEY`", code="invalid_api_key")

    def _admit_editing(self, given: str) -> None:
        if not self._edit_keys and self._keys:
            message = f"editing is not allowed: start the server with {EDIT_KEYS_VARIABLE} or a file of editing keys"
            raise ApiError(403, message, code="editing_not_allowed")
        if self._edit_keys.admits(given):
            return
        if self._keys and self._keys.admits(given):
            raise ApiError(
                403, "this key may ask and not edit; use one of the editing keys", code="editing_not_allowed"
            )
        raise ApiError(401, "give an editing key: `Authorization: Bearer KEY`", code="invalid_api_key")

    def _admit_managing(self, given: str) -> None:
        if not self._admin_keys and (self._keys or self._edit_keys):
            message = f"targets are not added or removed here: start the server with {ADMIN_KEYS_VARIABLE}, or a file"
            raise ApiError(403, f"{message} of administrators' keys", code="managing_not_allowed")
        if self._admin_keys.admits(given):
            return
        if any(keys and keys.admits(given) for keys in (self._keys, self._edit_keys)):
            message = "this key may not add or remove targets; use one of the administrators' keys"
            raise ApiError(403, message, code="managing_not_allowed")
        raise ApiError(401, "give an administrator's key: `Authorization: Bearer KEY`", code="invalid_api_key")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the client disconnects before it has arrived."""
        most = self._limits.body_bytes
        announced = _header(scope, b"content-length")
        too_large = ApiError(413, f"the body has more than {most} bytes; shorten it", code="request_too_large")
        if announced.isascii() and announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
            raise too_large
        body = b""
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body"):
                        return body
        except TimeoutError:
            waited = f"the body did not arrive within {self._limits.body_seconds:g} s"
            raise ApiError(408, waited, code="timeout") from None


def _edits(path: str) -> bool:
    return any(path == route or path.startswith(f"{route}/") for route in EDITING)


def _manages(scope: Scope) -> bool:
    is_model = scope["path"] == MODELS or scope["path"].startswith(f"{MODELS}/")
    return is_model and scope["method"] not in ("GET", "HEAD", "OPTIONS")


def _header(scope: Scope, name: bytes) -> str:
    return next(iter(headers(scope, name)), "")


def given_again(body: bytes, receive: Receive) -> Receive:
    """An ASGI channel that gives the body again, and then the messages that follow it."""
    given = False

    async def channel() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return channel
