"""The HTTP ingress: OpenAI's routes for a `Backend`.

The first item of a stream is awaited before the response begins, so an error before it gets its own HTTP status. When a
client disconnects, the work for its request ends, streamed or not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from onceedit_ray import __version__
from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import OnceEditError
from onceedit_ray.serving.admission import Admission
from onceedit_ray.serving.backend import Backend
from onceedit_ray.serving.cancellation import merged, together, while_there
from onceedit_ray.serving.deadline import Deadline
from onceedit_ray.serving.docs_page import docs_page
from onceedit_ray.serving.editing_routes import add_editing_routes
from onceedit_ray.serving.engine_keys import EngineKeys
from onceedit_ray.serving.errors import ApiError, api_error_of, api_errors, invalid, unknown_model
from onceedit_ray.serving.event_stream import EventStream
from onceedit_ray.serving.every_target import Failed, answered, spoken
from onceedit_ray.serving.generation_request import BUSY, PLUGIN, GenerationEnd, GenerationRequest
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.late_passage import LatePassage
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.logprobs import Piece
from onceedit_ray.serving.model_routes import add_model_routes
from onceedit_ray.serving.observing import CLIENT_GONE, Account, Observed, Observer, account_of
from onceedit_ray.serving.proxy_guard import unhealthy
from onceedit_ray.serving.requests import EVERY, questions
from onceedit_ray.serving.responses import ResponseWriter, model_card
from onceedit_ray.serving.schema import ChatRequest, CompletionRequest
from onceedit_ray.serving.server_sent_events import DONE, event

HEALTH_SECONDS = 4.4
"""`/health` answers within this time; a probe of the models takes `backend.PROBE_SECONDS` if a model is busy."""


def build_ingress(
    backend: Backend,
    limits: Limits,
    keys: Keys,
    edit_keys: Keys | None = None,
    observers: Sequence[Observer] = (),
    behind_proxy: bool = False,
    admin_keys: Keys | None = None,
    engine_keys: EngineKeys | None = None,
) -> FastAPI:
    """The ASGI application.

    Args:
        backend: gives the answers. limits: of the requests. keys: keys for asking; if empty, only this machine may ask.
        edit_keys: keys for editing; if empty, nobody may edit if there are keys for asking, else only this machine.
        observers: are told of every request. behind_proxy: whether a proxy in front writes `x-request-id` itself.
        admin_keys: keys for adding and removing targets; as for editing. engine_keys: the secrets that such targets may
            use; none if not given.
    """
    api = FastAPI(title="OnceEdit", version=__version__, docs_url=None, redoc_url=None)
    api.add_middleware(LatePassage, backend=backend, limits=limits)
    api.add_middleware(Deadline, seconds=limits.seconds)
    api.add_middleware(
        Admission, keys=keys, limits=limits, edit_keys=edit_keys or Keys(), admin_keys=admin_keys or Keys()
    )
    api.add_middleware(Observed, observers=observers, names=not behind_proxy)
    _refuse_in_openais_shape(api)

    @api.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [model_card(name) for name in await backend.targets()]})

    @api.get("/v1/models/{name:path}")
    async def model(name: str) -> JSONResponse:
        known = await backend.targets()
        if name not in (*known, EVERY):
            raise unknown_model(name, known)
        return JSONResponse(model_card(name))

    @api.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await _respond(backend, body, request, limits)

    @api.post("/v1/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await _respond(backend, body, request, limits)

    add_editing_routes(api, backend, limits)
    add_model_routes(api, backend, engine_keys or EngineKeys())

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(api.openapi()))

    @api.get("/health")
    async def health() -> JSONResponse:
        probing = asyncio.ensure_future(_states(backend))
        await asyncio.wait([probing], timeout=HEALTH_SECONDS)
        if not probing.done():
            probing.cancel()  # not awaited: it may hang and ignore the cancellation
            return unhealthy("the models' coordinator does not answer")
        if (error := probing.exception()) is not None:
            return unhealthy(api_error_of(error).message)
        states, served = probing.result()
        broken = {name: state for name, state in states.items() if state not in ("", BUSY)}
        down = broken.keys() & served.keys()  # a server that is down takes only its own model down
        lost = bool(broken.keys() - down) or (bool(down) and down == states.keys() - {PLUGIN})
        status = "unhealthy" if lost else "degraded" if down else "ok"
        shown = {name: _shown(name, state, served) for name, state in states.items()}
        return JSONResponse({"status": status, "models": shown}, 503 if lost else 200)

    return api


async def _states(backend: Backend) -> tuple[dict[str, str], Mapping[str, ModelConfig]]:
    return await backend.probe(), await backend.served()


def _shown(name: str, state: str, served: Mapping[str, ModelConfig]) -> str:
    """A model's state for everybody: without the address of a server."""
    return "its server does not answer" if name in served and state not in ("", BUSY) else state or "ok"


def _refuse_in_openais_shape(api: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        refusal = api_error_of(error)
        account_of(request.scope).error = refusal.code
        return refusal.response()

    async def not_valid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors(), error.body).response()

    async def not_routed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        response = ApiError(error.status_code, str(error.detail), code=code).response()
        response.headers.update(error.headers or {})
        return response

    api.add_exception_handler(RequestValidationError, not_valid)
    api.add_exception_handler(HTTPException, not_routed)
    api.add_exception_handler(OnceEditError, refused)
    api.add_exception_handler(TimeoutError, refused)
    api.add_exception_handler(ApiError, refused)


async def _respond(
    backend: Backend, body: CompletionRequest | ChatRequest, request: Request, limits: Limits
) -> Response:
    writer = ResponseWriter(body.model, isinstance(body, ChatRequest), body.likely)
    account = account_of(request.scope)
    deadline = asyncio.get_running_loop().time() + limits.seconds
    with api_errors():
        async with asyncio.timeout_at(deadline):
            asked = questions(body, await backend.targets(), limits)
    account.model, account.streamed = body.model, bool(body.stream)
    if limits.keep_prompts:
        account.prompts = [*body.prompts] if isinstance(body, CompletionRequest) else [*asked[0].messages]
    if not body.stream:
        return await _whole(backend, asked, writer, request, deadline)
    counted = body.stream_options is not None and bool(body.stream_options.include_usage)
    events = while_there(request.receive, _events(backend, asked, writer, counted, deadline, account))
    with api_errors():
        first = await anext(events, None)
    if first is None:
        return Response(status_code=CLIENT_GONE)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventStream(first, events, headers)


async def _whole(
    backend: Backend, asked: Sequence[GenerationRequest], writer: ResponseWriter, request: Request, deadline: float
) -> Response:
    async def answers() -> AsyncGenerator[list[tuple[Piece, GenerationEnd] | Failed]]:
        yield await together([answered(backend, question, deadline, writer.every) for question in asked])

    with api_errors():
        async with contextlib.aclosing(while_there(request.receive, answers())) as arrived:
            async for found in arrived:
                failed = [each for each in found if isinstance(each, Failed)]
                if len(failed) == len(found):
                    raise failed[0].error
                account = account_of(request.scope)
                account.endings = [each[1] for each in found if not isinstance(each, Failed)]
                account.error = failed[0].error.code if failed else None
                return JSONResponse(writer.whole(found))
    return Response(status_code=CLIENT_GONE)


async def _events(
    backend: Backend,
    asked: Sequence[GenerationRequest],
    writer: ResponseWriter,
    counted: bool,
    deadline: float,
    account: Account,
) -> AsyncGenerator[bytes]:
    """The events of a stream. An error before the first event is raised; a later error becomes an event."""
    begun: set[int] = set()
    failed: list[Failed] = []
    items = merged([spoken(backend, question, writer.every) for question in asked])
    try:
        async with contextlib.aclosing(items):
            while True:
                async with asyncio.timeout_at(deadline):
                    item = await anext(items, None)
                if item is None:
                    break
                index, piece = item
                if isinstance(piece, Failed):
                    failed.append(piece)
                    continue
                opening = event(writer.opening(index)) if writer.chat and index not in begun else b""
                begun.add(index)
                if isinstance(piece, GenerationEnd):
                    account.endings.append(piece)
                    yield opening + event(writer.ending(index, piece))
                else:
                    account.told()
                    yield opening + event(writer.piece(index, piece))
        if failed and not begun:
            raise failed[0].error
        if failed:
            account.error = failed[0].error.code
            yield event(writer.failures(failed))
        if counted:
            yield event(writer.counts(account.endings))
        yield DONE
    except Exception as error:
        if not begun:
            raise
        refusal = api_error_of(error)
        account.error = refusal.code
        yield event(refusal.body)
