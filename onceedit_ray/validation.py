"""Formats pydantic errors as one line: the place, what was found, and what to do.

The line is for the person who wrote the input: it names the keys of the input, never pydantic's names of types.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

_OBJECT = "input should be an object"
_PLAINER = {"a valid tuple": "a valid list", "a valid dictionary": "an object", " after validation": ""}
"""Python's words for what JSON and YAML call otherwise."""


class Strict(BaseModel):
    """Base class of what is read from files: an unknown key is an error, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def problems(error: ValidationError, model: type[BaseModel] | None = None, most: int = 3) -> str:
    """The first `most` problems, joined by semicolons; `model` gives the known keys for an unknown key."""
    return "; ".join(_problem(detail, model) for detail in error.errors()[:most])


def place(location: Sequence[int | str]) -> str:
    """The place of a problem: `targets.gemma.threads`, `locality[0].prompt`; "" for the whole object."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def written_place(detail: Mapping[str, Any], given: Any) -> str:
    """The place of a problem in `given`, the input. The tags that pydantic adds to a location for the branches of a
    union, such as "constrained-str", are left out.
    """
    *parts, last = detail["loc"] or ("",)
    kept: list[int | str] = []
    for part in (*parts, last):
        if (isinstance(given, Mapping) and part in given) or (
            isinstance(given, list) and isinstance(part, int) and part < len(given)
        ):
            given = given[part]
        elif part is not last or detail["type"] != "missing":
            continue
        kept.append(part)
    return place(kept)


def first_problem(details: Sequence[Mapping[str, Any]], given: Any) -> tuple[str, str, str]:
    """The place, the message and the type of the first problem of an input `given`; the message repeats no part of the
    input.

    Where every branch of a union has refused the input, the problem is that of the branch that came furthest into it;
    branches that came equally far are reported together.
    """
    places = [written_place(detail, given) for detail in details]
    top = re.split(r"[.\[]", places[0])[0]
    rivals = [at for at, place in enumerate(places) if re.split(r"[.\[]", place)[0] == top]
    first = max(rivals, key=lambda at: len(re.findall(r"[.\[]", places[at])))  # the first of the deepest
    messages = [_plain(details[at]) for at in rivals if places[at] == places[first]]
    return places[first], ", or ".join(dict.fromkeys(messages)), str(details[first]["type"])


def _plain(detail: Mapping[str, Any]) -> str:
    if detail["type"] == "union_tag_not_found":
        return f"missing key {detail['ctx']['discriminator']}"
    if detail["type"] == "union_tag_invalid":
        return f"{detail['ctx']['discriminator']} should be one of {detail['ctx']['expected_tags']}"
    return _OBJECT if detail["type"] in ("model_attributes_type", "model_type") else reason(str(detail["msg"]))


def reason(message: str) -> str:
    """Pydantic's own message, for use within a line."""
    message = message.removeprefix("Value error, ")
    for words, plainer in _PLAINER.items():
        message = message.replace(words, plainer)
    return message[:1].lower() + message[1:]


def _problem(detail: Any, model: type[BaseModel] | None) -> str:
    key = place(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}': {_advice(detail['loc'], model)}"
    if detail["type"] == "missing":
        return f"missing key '{key}'"
    if isinstance(detail["input"], dict):  # two keys contradict each other: the message names them
        where = f"'{key}': " if key else ""
        return where + str(detail["msg"]).removeprefix("Value error, ")
    return f"'{key}': {_plain(detail)}, found {detail['input']!r}"


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
