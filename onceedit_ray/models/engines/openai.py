"""`openai`: a target that a server of OpenAI's API has: vLLM, SGLang, Ray Serve LLM, llama.cpp, or a commercial one.

The server's answers are passed on as they come; no token of it is computed here. This file speaks HTTP. What the server
can do is found out by trying (`abilities`), once, before its first answer is continued.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import aiohttp
from transformers import PreTrainedTokenizerBase

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ConfigError, EngineError
from onceedit_ray.models.engines import ENGINES, Engine
from onceedit_ray.models.engines.abilities import Abilities, find_out
from onceedit_ray.models.engines.breaker import Breaker
from onceedit_ray.models.engines.complaints import Complaints
from onceedit_ray.models.engines.connections import Connections
from onceedit_ray.models.engines.continuing import CHAT, TEXT, continuing
from onceedit_ray.models.engines.events import DONE, blocks, data_of, parsed
from onceedit_ray.models.loading import load_tokenizer
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.models.sources.folder import tokenizer_folder

QUICK_SECONDS = 30.0
"""For requests that need few tokens; an answer may take as long as its request allows."""
FINDING_SECONDS = 120.0
"""For all trials of what a server can do."""
PAUSES = (0.1, 0.4)
"""Seconds before the second and the third attempt, if the server does not answer."""
UNAVAILABLE = (502, 503, 504)
"""Statuses of a server that is starting, restarting or overloaded."""
NOT_FOUND = 404
COUNTED = "In 1889, Gustave's tower (300 m) rose above Zürich and 東京.\n\treturn x_0 != 3.14159;"
"""A text that tokenizers cut differently."""


@ENGINES.register("openai")
class OpenAIEngine(Engine):
    """A target's server. It may be used in one event loop after another, as by programs that call `asyncio.run` often.

    Args:
        name: the target. config: its entry in the run file.

    Raises `ConfigError` if the environment lacks the variable that `key_env` names.
    """

    about: ClassVar[str] = "a server of OpenAI's API: vLLM, SGLang, Ray Serve LLM, llama.cpp; strategy selective"
    distributions: ClassVar[bool] = False

    def __init__(self, name: str, config: ModelConfig) -> None:
        self.name = name
        self.config = config
        self.url = config.url.rstrip("/")
        self.complaints = Complaints(name, self.url, config.key_env)
        self._tokenizer = config.tokenizer
        key = {"Authorization": f"Bearer {_key(name, config.key_env)}"} if config.key_env else {}
        self._connections = Connections(self.url, key)
        self._unnamed = config.model == "auto"
        self._model = None if self._unnamed else config.model
        self._breaker = Breaker()
        self._abilities: Abilities | None = None
        self._finding: asyncio.Task[Abilities] | None = None
        self._running = 0
        self._has_left = False

    async def model(self) -> str:
        """The server's name of the model; raises `EngineError` if it must be named and is not."""
        if self._model is None:
            listed = await self.listed()
            if len(listed) != 1 and self.name not in listed:
                raise self.complaints.unnamed(listed)
            self._model = self.name if self.name in listed else listed[0]
        return self._model

    async def listed(self) -> list[str]:
        """The names of the server's models; raises `EngineError`."""
        async with self._soon(), self.answer("models", None) as response:
            cards = (await self.whole(response)).get("data")
        return [str(card["id"]) for card in cards or [] if isinstance(card, dict) and "id" in card]

    async def abilities(self) -> Abilities:
        """What the server can do; found out once. Raises `EngineError` if it does not answer."""
        if self._abilities is None:
            if self._finding is None or self._finding.done():
                self._finding = asyncio.ensure_future(self._find_out())
            self._abilities = await asyncio.shield(self._finding)
        return self._abilities

    async def _find_out(self) -> Abilities:
        try:
            async with asyncio.timeout(FINDING_SECONDS):
                return await find_out(self)
        except TimeoutError:
            raise self.complaints.unreachable(TimeoutError()) from None

    async def check(self) -> Abilities:
        """Find out whether the settings are right, and what the server can do; raises `EngineError`."""
        listed = await self.listed()
        if (wanted := await self.model()) not in listed:
            raise self.complaints.unnamed(listed, wanted)
        found = await self.abilities()
        if self._tokenizer and found.completions:
            await self._check_tokenizer()
        return found

    async def state(self) -> str:
        """ "" if the server answers, else its error."""
        try:
            await self.listed()
        except EngineError as error:
            return str(error)
        return ""

    @contextlib.asynccontextmanager
    async def answer(self, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[aiohttp.ClientResponse]:
        """The server's response to a request, whose body has not been read.

        A request is repeated while the server does not answer at all, never after an answer has begun.

        Args:
            path: below the url, such as "chat/completions". body: of a POST, with the server's model name added; None
                for a GET.

        Raises:
            EngineError: the server does not answer, or answers with an error.
        """
        if body is not None:
            body = {**body, "model": await self.model()}
        self._running += 1
        try:
            async with self._response(path, body) as response:
                yield response
        finally:
            self._running -= 1
            await self._close_if_left()

    @contextlib.asynccontextmanager
    async def _response(self, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            response = await self._sent(path, body)
        except EngineError as error:
            if error.found == NOT_FOUND and self._unnamed:  # the server may have another model now: ask again
                self._model = self._abilities = None
            raise
        try:
            yield response
        except aiohttp.ClientError as error:
            raise self.complaints.broken_off() from error
        finally:
            response.close()

    async def whole(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        """A response's body as an object; raises `EngineError` if it is not an object."""
        content = await response.read()
        if (found := parsed(content)) is None:
            kind = response.headers.get("content-type", "")
            raise self.complaints.strange(kind, content.decode("utf-8", "replace"))
        return found

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """A short answer as an object; raises `EngineError`."""
        async with self._soon(), self.answer(path, body) as response:
            return await self.whole(response)

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of a streamed answer; closing the generator ends the server's work for it.

        Raises `EngineError`, also for an answer that breaks off.
        """
        async with self.answer(path, {**body, "stream": True}) as response:
            await self.check_stream(response)
            ended = False
            async for block in blocks(response.content.iter_any()):
                data = data_of(block)
                if data == DONE:
                    return
                event = parsed(data)
                if event is None:
                    continue
                if "error" in event:
                    raise self.complaints.refused(500, json.dumps(event))
                ended = ended or any(choice.get("finish_reason") for choice in event.get("choices") or ())
                yield event
            if not ended:
                raise self.complaints.broken_off()

    async def continued(
        self, body: Mapping[str, Any], written: str, left: int | None
    ) -> AsyncGenerator[dict[str, Any]]:
        """The events of the rest of an answer, as `events` gives them; no events if the server cannot continue it.

        Args:
            body: the request for the whole answer. written: its text so far. left: tokens that may follow.
        """
        abilities = await self.abilities()
        request = continuing(body, written, left, abilities, self._render if self._tokenizer else None)
        if request is None:
            return
        repeated = len(written) if abilities.repeats and request[0] == CHAT else 0
        async with contextlib.aclosing(self.events(*request)) as events:
            async for event in events:
                for choice in event.get("choices") or ():
                    delta = choice.get("delta") or {}
                    if repeated and (text := delta.get("content")):
                        delta["content"] = text[repeated:]
                        repeated = max(repeated - len(text), 0)
                yield event

    async def check_stream(self, response: aiohttp.ClientResponse) -> None:
        """Raise `EngineError` if a response is no stream of events."""
        kind = response.headers.get("content-type", "")
        if "event-stream" not in kind:
            raise self.complaints.strange(kind, (await response.read()).decode("utf-8", "replace"))

    async def leave(self) -> None:
        """The target is removed: close the connections as soon as the answers under way have ended."""
        self._has_left = True
        await self._close_if_left()

    async def aclose(self) -> None:
        """Close the connections; the next request makes new ones."""
        await self._connections.aclose()

    async def _close_if_left(self) -> None:
        if self._has_left and not self._running:
            await self.aclose()

    async def _check_tokenizer(self) -> None:
        """Raise `EngineError` if the tokenizer counts the tokens of a text otherwise than the server does."""
        answer = await self.post(TEXT, {"prompt": COUNTED, "max_tokens": 1})
        there = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
        here = len((await asyncio.to_thread(self._own_tokenizer))(COUNTED).input_ids)
        if there and there != here:
            raise self.complaints.other_tokenizer(self._tokenizer, here, there)

    def tokenizer_path(self) -> Path:
        """The folder of the target's tokenizer, which may hold a tokenizer alone: the weights are the server's."""
        folder = Path(self._tokenizer).expanduser()
        return folder.absolute() if folder.is_dir() else resolve(self._tokenizer).path

    def tokenizer_folder(self) -> ModelFolder:
        """That folder with its digest, for an alignment; of a folder with weights these are read once for it."""
        folder = Path(self._tokenizer).expanduser()
        return tokenizer_folder(folder.absolute()) if folder.is_dir() else resolve(self._tokenizer)

    def _own_tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.tokenizer_path())

    def _render(self, messages: list[dict[str, Any]]) -> str:
        return str(self._own_tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    @contextlib.asynccontextmanager
    async def _soon(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(QUICK_SECONDS):
                yield
        except TimeoutError:
            raise self.complaints.unreachable(TimeoutError()) from None

    async def _sent(self, path: str, body: Mapping[str, Any] | None) -> aiohttp.ClientResponse:
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        for pause in (*PAUSES, None):
            if wait := self._breaker.wait():
                raise self.complaints.resting(wait)
            try:
                response = await self._connections.send(path, content)
                if response.status < 400:
                    self._breaker.worked()
                    return response
                error = await self._refusal(response)
                again = response.status in UNAVAILABLE
            except aiohttp.ClientError as failure:
                error, again = self.complaints.unreachable(failure), not isinstance(failure, aiohttp.InvalidURL)
            if not again:
                self._breaker.worked()
                raise error
            self._breaker.failed()
            if pause is None:
                break
            await asyncio.sleep(pause)
        raise error

    async def _refusal(self, response: aiohttp.ClientResponse) -> EngineError:
        try:
            text = (await response.read()).decode("utf-8", "replace")
        finally:
            response.close()
        return self.complaints.refused(response.status, text, response.headers.get("retry-after", ""))


def _key(name: str, variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or "\n" in key:
        raise ConfigError(f"{name}: the environment variable {variable} holds no key; set it, or leave key_env out")
    return key
