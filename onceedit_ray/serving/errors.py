"""Errors in OpenAI's format: `{"error": {"message", "type", "param", "code"}}` with the matching HTTP status."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.responses import JSONResponse

from onceedit_ray.errors import (
    ConflictError,
    ContextLengthError,
    CrowdedError,
    EngineError,
    NotPossibleError,
    OnceEditError,
    PromptError,
    QueueFullError,
    RefusedError,
    UnknownIdError,
    UnknownTargetError,
)
from onceedit_ray.validation import first_problem

LOG = logging.getLogger(__name__)

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """A request that is refused or has failed.

    status: the HTTP status. message: what was found and what to do. param: the wrong field. code: OpenAI's error code.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message.encode("utf-8", "replace").decode()  # it may quote a name that UTF-8 cannot encode
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the error."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as a response."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def unknown_model(name: str, known: Sequence[str]) -> ApiError:
    """The error for a model that is not served; a long name is cut."""
    shown = name if len(name) <= 64 else name[:61] + "..."
    return ApiError(
        404, f"the model '{shown}' does not exist; served are {', '.join(known)}, and '*' for all of them", "model",
        "model_not_found",
    )  # fmt: skip


@contextmanager
def api_errors() -> Iterator[None]:
    """Raise every error of the block as the response for it."""
    try:
        yield
    except Exception as error:
        raise api_error_of(error) from None


def api_error_of(error: BaseException) -> ApiError:
    """The response for an error; errors that the client cannot correct are logged, and their text is not shown."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextLengthError):
        return ApiError(400, str(error), "prompt", "context_length_exceeded")
    if isinstance(error, PromptError):
        return ApiError(400, str(error), "prompt", "invalid_prompt")
    if isinstance(error, ConflictError):
        return ApiError(400, str(error), "edits", "conflicting_edits")
    if isinstance(error, UnknownIdError):
        return ApiError(404, str(error), "id", "not_found")
    if isinstance(error, NotPossibleError):
        return ApiError(409, str(error), "id", "conflict")
    if isinstance(error, RefusedError):
        return ApiError(422, str(error), "edits", "edit_refused")
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full", retry_after=error.retry_after)
    if isinstance(error, CrowdedError):
        return ApiError(429, str(error), code="too_many_requests")  # `Admission` adds when to try again
    if isinstance(error, TimeoutError):
        return ApiError(504, "the answer took too long; ask for fewer tokens", code="timeout")
    if isinstance(error, UnknownTargetError):
        return ApiError(404, str(error), "model", "model_not_found")
    if isinstance(error, EngineError):
        return _of_a_server(error)
    if isinstance(error, OnceEditError):
        LOG.error("a request failed: %s", error)
        return ApiError(503, "the model cannot answer now; try again", code="model_unavailable", retry_after=5)
    LOG.error("a request failed", exc_info=error)
    return ApiError(500, "something went wrong here; it is in the server's log", code="internal_error")


def _of_a_server(error: EngineError) -> ApiError:
    """The server's own words where it refuses the request; else that it cannot answer, without its address."""
    if error.status >= 429:
        LOG.error("a request failed: %s", error)
        code = "too_many_requests" if error.status == 429 else "model_unavailable"
        return ApiError(error.status, error.public, code=code, retry_after=error.retry_after)
    told = (error.body or {}).get("error")
    fields = told if isinstance(told, dict) else {}
    param, kind = (str(fields[key]) if fields.get(key) else None for key in ("param", "code"))
    return ApiError(error.status, error.public, param, kind)


def invalid(details: Sequence[Mapping[str, Any]], body: Any = None) -> ApiError:
    """The error for a request that does not match the schema; it names places of `body` and repeats no text."""
    if details and details[0]["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON", code="invalid_json")
    if not details:
        return ApiError(400, "the request is not valid", code="invalid_value")
    inner = [{**detail, "loc": detail["loc"][1:]} for detail in details]  # after "body", "query" or "path"
    given = (
        body if details[0]["loc"][:1] == ("body",) else {detail["loc"][-1]: None for detail in inner if detail["loc"]}
    )
    where, message, kind = first_problem(inner, given)
    param = where[:100] or None
    if kind == "extra_forbidden":
        return ApiError(400, f"unrecognized request argument: '{param}'", param, "unknown_parameter")
    return ApiError(400, f"'{param}': {message}" if param else message, param, "invalid_value")
