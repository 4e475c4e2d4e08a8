"""Formats pydantic errors as one line: the place, what was found, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def problems(error: ValidationError, model: type[BaseModel] | None = None, most: int = 3) -> str:
    """The first `most` problems, joined by semicolons; `model` gives the known keys for an unknown key."""
    return "; ".join(_problem(detail, model) for detail in error.errors()[:most])


def place(location: Sequence[int | str]) -> str:
    """The place of a problem: `targets.gemma.threads`, `locality[0].prompt`; "" for the whole object."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def reason(message: str) -> str:
    """Pydantic's own message, for use within a line."""
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _problem(detail: Any, model: type[BaseModel] | None) -> str:
    key = place(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}': {_advice(detail['loc'], model)}"
    if detail["type"] == "missing":
        return f"missing key '{key}'"
    if isinstance(detail["input"], dict):  # two keys contradict each other, and the message names them
        where = f"'{key}': " if key else ""
        return where + str(detail["msg"]).removeprefix("Value error, ")
    return f"'{key}': {reason(detail['msg'])}, found {detail['input']!r}"


def _advice(location: Sequence[int | str], model: type[BaseModel] | None) -> str:
    if model is None:
        return "remove it"
    known = list(_model_at(model, location[:-1]).model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def _model_at(model: type[BaseModel], location: Sequence[int | str]) -> type[BaseModel]:
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # a key of a mapping, such as a target's name
        candidates = [field.annotation, *get_args(field.annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return model
