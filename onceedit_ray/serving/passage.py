"""Requests for a target that a server has. A request about no edit passes through: the server gets the client's body
unchanged, and the client gets the server's answer, in which only the model's name and the field `onceedit` differ. Any
other request is answered with the plug-in: here, or by the routes if the server's tokens are known.

ASGI middleware between the admission and the routes; requests for other targets go on to the routes. The server is
called from this process, so an answer that passes through reaches no other process of this system.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from onceedit_ray.config import ModelConfig
from onceedit_ray.fusion.engine_answer import finish_of
from onceedit_ray.models.engines.events import parsed
from onceedit_ray.models.engines.openai import OpenAIEngine
from onceedit_ray.models.engines.start import open_engine
from onceedit_ray.serving.admission import given_again
from onceedit_ray.serving.any_target import ending
from onceedit_ray.serving.backend import Backend
from onceedit_ray.serving.cancellation import merged, while_there
from onceedit_ray.serving.engine_requests import CHAT_PATH, EXTENSION, ROUTES, EngineRequest, choices_of
from onceedit_ray.serving.errors import ApiError, api_error_of
from onceedit_ray.serving.event_stream import EventStream
from onceedit_ray.serving.generation_request import GenerationEnd
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.observing import CLIENT_GONE, Account, account_of
from onceedit_ray.serving.passed_stream import PassedStream, named
from onceedit_ray.serving.server_sent_events import DONE, event
from onceedit_ray.serving.whole_answer import assembled


@dataclass
class _Passing:
    """A request on its way. engine: its target's server. streamed: whether it asks for a stream. counted: with token
    counts at the end. account: of the request. deadline: in the event loop's time. edited: a request for each choice if
    any may be about an edit, else none; None while that is not known."""

    engine: OpenAIEngine
    path: str
    body: dict[str, Any]
    account: Account
    deadline: float
    streamed: bool
    counted: bool
    unedited: bool
    edited: list[EngineRequest] | None = None

    @property
    def name(self) -> str:
        """Of the target."""
        return self.engine.name


class Passage:
    """Args:
    app: the routes. backend: gives the answers with the plug-in, and says which targets servers have. limits: of the
        requests.
    """

    def __init__(self, app: ASGIApp, backend: Backend, limits: Limits) -> None:
        self._app = app
        self._backend = backend
        self._engines: dict[str, OpenAIEngine] = {}
        self._served: Mapping[str, ModelConfig] = {}
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = ROUTES.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        if path is None:
            await self._app(scope, receive, send)
            return
        content = (await receive()).get("body", b"")  # the admission gives it in one message
        again = given_again(content, receive)
        body = parsed(content)
        name = body.get("model") if body else None
        try:
            engine = await self._engine(name) if isinstance(name, str) else None
        except Exception as error:
            await self._refused(account_of(scope), error)(scope, again, send)
            return
        if body is None or engine is None:
            await self._app(scope, again, send)
            return
        scope["route"] = SimpleNamespace(path_format=scope["path"])  # as the router would set it, for the metrics
        account = account_of(scope)
        try:
            response = await self._respond(engine, path, body, account, again)
        except Exception as error:
            response = self._refused(account, error)
        await (response or self._app)(scope, again, send)

    async def _engine(self, name: str) -> OpenAIEngine | None:
        """The server of a target, None for other targets; raises `ConfigError` if this process lacks its key."""
        served = await self._backend.served()
        if served is not self._served:
            for other in [other for other, engine in self._engines.items() if engine.config != served.get(other)]:
                gone = self._engines.pop(other, None)  # another request may have removed it
                if gone is not None:
                    await gone.leave()
            self._served = served
        if name in served and name not in self._engines:
            self._engines[name] = open_engine(name, served[name])
        return self._engines.get(name)

    def _refused(self, account: Account, error: Exception) -> Response:
        refusal = api_error_of(error)
        account.error = refusal.code
        return refusal.response()

    async def _respond(
        self, engine: OpenAIEngine, path: str, body: dict[str, Any], account: Account, receive: Receive
    ) -> Response | None:
        """The response, None if the routes give it; the first item of a stream is awaited, so that an error before it
        has its own status.
        """
        options = body.get("stream_options")
        passing = _Passing(
            engine, path, body, account, asyncio.get_running_loop().time() + self._limits.seconds,
            streamed=bool(body.get("stream")),
            counted=isinstance(options, dict) and bool(options.get("include_usage")),
            unedited=_unedited(body.pop(EXTENSION, None)),
        )  # fmt: skip
        if engine.distributions and await self._choices(passing):
            return None
        account.model, account.streamed = engine.name, passing.streamed
        if self._limits.keep_prompts:
            account.prompts = [body.get("messages") or body.get("prompt")]
        answer = while_there(receive, self._answer(passing), passing.deadline)
        items = _told(passing, answer) if passing.streamed else answer
        first = await anext(items, None)
        if first is None:
            return Response(status_code=CLIENT_GONE)
        if passing.streamed:
            return EventStream(first, items, {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        await items.aclose()
        return Response(first, media_type="application/json")

    async def _answer(self, passing: _Passing) -> AsyncGenerator[bytes]:
        asked = await self._choices(passing)
        async with contextlib.aclosing(self._edited(passing, asked) if asked else self._passed(passing)) as items:
            async for item in items:
                yield item

    async def _choices(self, passing: _Passing) -> list[EngineRequest]:
        """As `_Passing.edited`, found out once."""
        if passing.edited is None:
            passing.edited = [] if passing.unedited else await self._about_an_edit(passing)
        return passing.edited

    async def _about_an_edit(self, passing: _Passing) -> list[EngineRequest]:
        choices = choices_of(EngineRequest(passing.name, passing.body))
        prompts = dict.fromkeys(choice.prompt for choice in choices)
        about = [prompt is not None and await self._backend.mentioned(prompt) for prompt in prompts]
        if any(about) and len(choices) > self._limits.answers:
            raise ApiError(400, f"more than {self._limits.answers} answers are asked for, the most at once", "n")
        return choices if any(about) else []

    async def _passed(self, passing: _Passing) -> AsyncGenerator[bytes]:
        """The server's own answer: its events, as they come, or its whole body as one item."""
        engine, extension = passing.engine, _extension(passing)
        async with engine.answer(passing.path, passing.body) as response:
            if not passing.streamed:
                whole = await engine.whole(response)
                passing.account.endings.append(_ending(passing, whole.get("usage") or {}, whole.get("choices")))
                yield _json(named(whole, passing.name, extension))
                return
            await engine.check_stream(response)
            stream = PassedStream(passing.name, extension)
            async for part in response.content.iter_any():
                if events := stream.feed(part):
                    passing.account.told()
                    yield events
            if events := stream.end():
                yield events
        if not stream.complete:
            raise engine.complaints.broken_off()
        usage = stream.usage or {"completion_tokens": stream.events}
        passing.account.endings.append(_ending(passing, usage, [{"finish_reason": stream.finish}]))

    async def _edited(self, passing: _Passing, asked: list[EngineRequest]) -> AsyncGenerator[bytes]:
        """The answer that the plug-in reads along, of every choice."""
        parts: list[list[dict[str, Any]]] = [[] for _ in asked]
        last: list[dict[str, Any]] = []
        async for index, item in merged([self._backend.relay(each) for each in asked]):
            if isinstance(item, GenerationEnd):
                passing.account.endings.append(item)
                continue
            choices = [{**choice, "index": index} for choice in item.get("choices") or ()]
            item = {**item, "model": passing.name, "choices": choices}
            if not choices:
                last.append(item)
            if not passing.streamed:
                parts[index].append(item)
            elif choices:
                passing.account.told()
                yield event(item)
        if passing.streamed:
            if passing.counted:
                yield event({**last[0], "usage": _sum(last)})
            yield DONE
            return
        wholes = [assembled(part, passing.path == CHAT_PATH) for part in parts]
        choices = [{**whole["choices"][0], "index": index} for index, whole in enumerate(wholes)]
        yield _json({**wholes[0], "choices": choices, "usage": _sum(last)})


async def _told(passing: _Passing, items: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The items of a stream; an error after the first item becomes an event, as the stream has begun."""
    begun = False
    try:
        async for item in items:
            yield item
            begun = True
    except Exception as error:
        if not begun:
            raise
        refusal = api_error_of(error)
        passing.account.error = refusal.code
        yield event(refusal.body)
    finally:
        await items.aclose()


def _ending(passing: _Passing, usage: dict[str, Any], choices: Any) -> GenerationEnd:
    return ending(passing.name, usage, True, _weight(passing), finish_of({"choices": choices}) or "stop")


def _extension(passing: _Passing) -> dict[str, Any]:
    """The field `onceedit` of a choice that passes through."""
    return {"target": passing.name, "version": "", "weight": _weight(passing), "alone": True, "edits": []}


def _weight(passing: _Passing) -> float | None:
    """The gate's w of an answer that passes through: None for an unedited answer, 0 if the screen found no edit."""
    return None if passing.unedited else 0.0


def _unedited(extension: Any) -> bool:
    """The body's field for this system; raises `ApiError` for unknown keys or values."""
    fields = {} if extension is None else extension
    if not isinstance(fields, dict) or fields not in ({}, {"unedited": True}, {"unedited": False}):
        raise ApiError(400, f"'{EXTENSION}' takes only 'unedited', true or false", EXTENSION)
    return bool(fields.get("unedited"))


def _sum(items: list[dict[str, Any]]) -> dict[str, Any]:
    """The token counts of all choices; those of a single one are the server's own, with all their fields."""
    if len(items) == 1:
        return dict(items[0]["usage"])
    keys = ("prompt_tokens", "completion_tokens", "total_tokens")
    return {key: sum(int(item["usage"].get(key) or 0) for item in items) for key in keys}


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
