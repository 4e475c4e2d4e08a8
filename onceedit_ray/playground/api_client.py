"""Sends requests to a OnceEdit server, and turns each error into one line.

Answers are requested with the `openai` client, everything else over plain HTTP. This file does not use the page.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from onceedit_ray.errors import ConfigError

NO_KEY = "unused"
"""The key that the `openai` client sends if none is given; a server without keys ignores it."""
SENDABLE_KEY = re.compile(r"[\x21-\x7e]*")
TIMEOUT = httpx2.Timeout(330.0, connect=10.0)
"""Seconds. By default a server ends a request after 300 s (`limits.seconds`)."""


class RequestError(Exception):
    """A request that failed, with a message of one line. status: of the HTTP response; 0 if there was no response."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_about_keys(self) -> bool:
        """Whether another key may help."""
        return self.status in (401, 403)


@dataclass(frozen=True)
class CompletionQuery:
    """A question to the models.

    prompt: the text. model: a target's name, or `*` for all. chat: whether it is a chat message or plain text.
    max_tokens: of each answer.
    """

    prompt: str
    model: str
    chat: bool
    max_tokens: int


@dataclass(frozen=True)
class AnswerEnd:
    """How an answer ended.

    finish_reason: `stop` or `length`. version: of the plug-in. weight: w of the gate, in [0, 1]; None if the plug-in
    was not run. alone: whether the target answered alone.
    """

    finish_reason: str
    version: str
    weight: float | None
    alone: bool


@dataclass(frozen=True)
class AnswerPiece:
    """A piece of the answer of choice `index`; the last piece has an `end`."""

    index: int
    text: str
    end: AnswerEnd | None = None


class ApiClient:
    """A client of the API at `url`, such as `http://127.0.0.1:8000/v1`; raises `ConfigError` if `url` is no address.

    transport: replaces the network in tests.
    """

    def __init__(self, url: str, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"'{url}' is no address of an API; give one such as http://127.0.0.1:8000/v1")
        self.url = url.rstrip("/")
        self._http = httpx2.AsyncClient(timeout=TIMEOUT, follow_redirects=False, transport=transport)
        self._openai = openai.AsyncOpenAI(
            base_url=self.url, api_key=NO_KEY, http_client=self._http, timeout=TIMEOUT, max_retries=0
        )

    async def models(self, key: str) -> list[str]:
        """The names of the targets; raises `RequestError`."""
        return [str(card["id"]) for card in listed(await self.request("GET", "models", key))]

    async def request(self, method: str, path: str, key: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON of a response; raises `RequestError`. path: relative to `url`. key: the bearer key, "" for none."""
        headers = {"Authorization": f"Bearer {sendable(key)}"} if key else {}
        with self._errors():
            response = await self._http.request(method, f"{self.url}/{path}", json=body, headers=headers)
        try:
            content = response.json()
        except ValueError:
            content = None
        if not response.is_success:
            raise RequestError(
                _message_of(content) or f"the server answered {response.status_code}", response.status_code
            )
        if content is None:
            raise RequestError(f"the answer of {self.url}/{path} is not JSON; check the address of the API")
        return content

    async def answers(self, query: CompletionQuery, unedited: bool, key: str) -> AsyncGenerator[AnswerPiece]:
        """The pieces of the answers as they arrive; raises `RequestError`. Closing it ends the server's work."""
        settings = {
            "model": query.model,
            "max_tokens": query.max_tokens,
            "temperature": 0.0,
            "extra_body": {"onceedit": {"unedited": unedited}},
        }
        with self._errors():
            client = self._openai.with_options(api_key=sendable(key) or NO_KEY)
            stream: Any
            if query.chat:
                messages: Any = [{"role": "user", "content": query.prompt}]
                stream = await client.chat.completions.create(messages=messages, stream=True, **settings)  # type: ignore[call-overload]
            else:
                stream = await client.completions.create(prompt=query.prompt, stream=True, **settings)  # type: ignore[call-overload]
            async with stream:
                async for chunk in stream:
                    for choice in chunk.choices:
                        yield _piece(choice, query.chat)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the errors of both clients into `RequestError`."""
        try:
            yield
        except openai.APIStatusError as error:
            message = _message_of({"error": error.body}) or f"the server answered {error.status_code}"
            raise RequestError(message, error.status_code) from None
        except (openai.APIConnectionError, httpx2.TransportError):
            raise RequestError(f"the server at {self.url} cannot be reached; check that it runs") from None
        except openai.APIError as error:
            raise RequestError(error.message) from None


def sendable(key: str) -> str:
    """`key`, if it can be sent in a header; otherwise raises `RequestError`."""
    if not SENDABLE_KEY.fullmatch(key):
        raise RequestError("a key has ASCII characters and no space; check the one you typed", 401)
    return key


def listed(content: Any) -> list[dict[str, Any]]:
    """The items of a list of the API; raises `RequestError` if `content` is not such a list."""
    items = content.get("data") if isinstance(content, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) and "id" in item for item in items):
        raise RequestError("the server's answer is not a list of OnceEdit's API; check the address of the API")
    return items


def _piece(choice: Any, chat: bool) -> AnswerPiece:
    text = (choice.delta.content if chat else choice.text) or ""
    told = getattr(choice, "onceedit", None)
    if told is None:
        return AnswerPiece(choice.index, text)
    end = AnswerEnd(choice.finish_reason, told["version"], told["weight"], told["alone"])
    return AnswerPiece(choice.index, text, end)


def _message_of(content: Any) -> str:
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""
