"""The routes that add and remove targets which servers have, while this system serves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from onceedit_ray.config import RESERVED_NAMES, ModelConfig
from onceedit_ray.errors import ConfigError, EngineError, NotPossibleError, UnknownTargetError
from onceedit_ray.serving.backend import Backend
from onceedit_ray.serving.engine_keys import EngineKeys, origin_of
from onceedit_ray.serving.errors import ApiError, api_error_of
from onceedit_ray.serving.responses import model_card

NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$"


class ModelBody(BaseModel):
    """A target to be added.

    name: the target. url: of the server's API, with its `/v1`. model: the server's name of the model; may be left out
    if it has one model, or one with the target's name. key_env: the environment variable with the server's key, which
    the operator must have allowed for that server.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME, max_length=64)
    url: str = Field(min_length=1, max_length=2048)
    model: str = Field("auto", min_length=1, max_length=256)
    key_env: str = Field("", pattern=r"^[A-Za-z0-9_]*$", max_length=128)


def add_model_routes(api: FastAPI, backend: Backend, engine_keys: EngineKeys) -> None:
    """Add `POST /v1/models` and `DELETE /v1/models/{name}`; `admission` checks who may call them."""

    @api.post("/v1/models", status_code=201)
    async def add(body: ModelBody) -> dict[str, Any]:
        try:
            if body.name in RESERVED_NAMES:
                raise ConfigError(f"a target cannot be called '{body.name}'")
            origin_of(body.url)
            target = ModelConfig(engine="openai", url=body.url, model=body.model, key_env=body.key_env)
            engine_keys.check(target)
            return {**model_card(body.name), "about": await backend.add_server(body.name, target)}
        except Exception as error:
            raise _refusal(error, body.name) from None

    @api.delete("/v1/models/{name:path}")
    async def remove(name: str) -> dict[str, Any]:
        try:
            await backend.remove_server(name)
        except Exception as error:
            raise _refusal(error, name) from None
        return {"id": name, "object": "model", "deleted": True}


def _refusal(error: Exception, name: str) -> ApiError:
    """The whole reason, with the server's address: an administrator has given it."""
    if isinstance(error, NotPossibleError):
        return ApiError(409, str(error), "name", "conflict")
    if isinstance(error, EngineError | ConfigError) and not isinstance(error, UnknownTargetError):
        return ApiError(400, f"'{name}' was not added: {error}", code="model_not_added")
    return api_error_of(error)
