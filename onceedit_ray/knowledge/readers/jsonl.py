"""The project's own plain format: the fields of `Edit`, one JSON object a line (or one JSON list)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers import READERS, Reader

REQUIRED_FIELDS = frozenset(name for name, field in Edit.model_fields.items() if field.is_required())


def plain_edit(fields: Mapping[str, Any]) -> Edit:
    """An edit from fields named like `Edit`'s own, null meaning absent at any depth; outer whitespace is dropped.

    Blank rephrasings and probes with a blank prompt are left out, as the other readers do. A leading space in
    `target_new` would reach the model twice: every prompt view adds its own.
    """
    given = {name: _stripped(value) for name, value in fields.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, list):
            given[name] = [item for item in value if not _is_blank(item)]
    return Edit.model_validate(given)


def _stripped(value: Any) -> Any:
    """Texts without outer whitespace and objects without null fields, down to any depth."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    if isinstance(value, dict):
        return {name: _stripped(inner) for name, inner in value.items() if inner is not None}
    return value


def _is_blank(item: Any) -> bool:
    return item in ("", None, {}) or (isinstance(item, dict) and item.get("prompt") == "")


READERS.register("jsonl")(
    Reader(
        models=(Edit,),
        required=(REQUIRED_FIELDS,),
        edit=plain_edit,
        containers=frozenset({"json"}),
    )
)
