"""What each request was and how it went, told to whoever observes: a log, metrics. Gives every request its id.

Plain ASGI, around everything else. Knows no prompt unless the ingress is told to keep them, and no observer's business.
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
from onceedit_ray.serving.generation import GenerationEnd

ID_HEADER = "x-request-id"
CLIENT_GONE = 499
"""The status, seen by nobody, of a request whose client went away."""
NO_ROUTE = "other"
_ACCOUNT = "onceedit.account"
_PLAIN = re.compile(r"[\x21-\x7e]{1,128}")


@dataclass
class Account:
    """One request.

    id: also the response's `x-request-id`. route: the route's template, never the path that was asked. model: a served
    one, or "*", once it is known to be. prompts: what was asked, where prompts are kept. endings: of its answers.
    first, last: seconds until the first and the last piece of a stream's text. seconds: until the response ended.
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
        """A piece of text leaves."""
        self.last = time.monotonic() - self._begun
        self.first = self.last if self.first is None else self.first

    def end(self) -> None:
        """The response has ended."""
        self.seconds = time.monotonic() - self._begun


class Observer(Protocol):
    """Is told of every request; must not raise and not block."""

    def began(self, account: Account) -> None:
        """A request has arrived."""

    def ended(self, account: Account) -> None:
        """Its response has ended, or its client has gone."""


class Observed:
    """ASGI middleware.

    Args:
        app: what is observed. observers: who is told. names: whether responses carry the id; False where a proxy in
            front writes it.
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
    """The client's or the proxy's own id where it is a plain one, else a new one."""
    given = Headers(scope=scope).get(ID_HEADER, "")
    return given if _PLAIN.fullmatch(given) else f"req_{uuid.uuid4().hex}"
