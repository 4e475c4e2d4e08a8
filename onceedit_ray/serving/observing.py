"""Tells observers, such as the log and the metrics, about each request and its outcome. Gives every request its id.

Plain ASGI, outside of all other middleware. It sees prompts only if the ingress keeps them, and does not depend on what
an observer does.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from onceedit_ray.serving.errors import api_error_of
from onceedit_ray.serving.generation_request import GenerationEnd

ID_HEADER = "x-request-id"
CLIENT_GONE = 499
"""The status recorded for a request whose client disconnected."""
NO_ROUTE = "other"
_ACCOUNT = "onceedit.account"
_PLAIN = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass
class Account:
    """One request.

    id: also the response's `x-request-id`. route: the template of the route, never the requested path. model: a served
    model, or "*", set after the name was checked. prompts: of the request, if prompts are kept. endings: the summaries
    of its answers. first, last: seconds until the first and the last piece of a stream's text. seconds: until the
    response ended.
    """

    id: str
    method: str
    route: str = NO_ROUTE
    status: int = CLIENT_GONE
    error: str | None = None
    model: str = ""
    streamed: bool = False
    prompts: list[Any] = field(default_factory=list)
    endings: list[GenerationEnd] = field(default_factory=list)
    first: float | None = None
    last: float = 0.0
    seconds: float = 0.0
    _begun: float = field(default_factory=time.monotonic)

    def told(self) -> None:
        """Record that a piece of text is sent."""
        self.last = time.monotonic() - self._begun
        self.first = self.last if self.first is None else self.first

    def end(self) -> None:
        """Record that the response has ended."""
        self.seconds = time.monotonic() - self._begun


class Observer(Protocol):
    """Is told about every request; its methods must not raise and must not block."""

    def began(self, account: Account) -> None:
        """A request has arrived."""

    def ended(self, account: Account) -> None:
        """The response has ended, or the client has disconnected."""


class Observed:
    """ASGI middleware.

    Args:
        app: the observed application. observers: are told about every request. names: whether to write the id into
            responses; False if a proxy in front writes it.
    """

    def __init__(self, app: ASGIApp, observers: Sequence[Observer], names: bool = True) -> None:
        self._app = app
        self._observers = observers
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        account = scope[_ACCOUNT] = Account(_id(scope), scope["method"])
        begun = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                account.status = message["status"]
                if self._names:
                    MutableHeaders(scope=message)[ID_HEADER] = account.id
            await send(message)

        for observer in self._observers:
            observer.began(account)
        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            if begun:
                raise
            await api_error_of(error).response()(scope, receive, sending)
        finally:
            account.route = getattr(scope.get("route"), "path_format", NO_ROUTE)
            account.end()
            for observer in self._observers:
                observer.ended(account)


def account_of(scope: Scope) -> Account:
    """The account of the request that is being served."""
    account: Account = scope[_ACCOUNT]
    return account


def _id(scope: Scope) -> str:
    """The id that the client or the proxy sent, if it is short and plain; else a new one."""
    given = Headers(scope=scope).get(ID_HEADER, "")
    return given if _PLAIN.fullmatch(given) else f"req_{uuid.uuid4().hex}"
