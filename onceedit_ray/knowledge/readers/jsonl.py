"""The project's own plain format: the fields of `Edit`, one JSON object a line (or one JSON list)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers import READERS, Reader

REQUIRED_FIELDS = frozenset(name for name, field in Edit.model_fields.items() if field.is_required())


def plain_edit(fields: Mapping[str, Any]) -> Edit:
    """An edit from fields named like `Edit`'s own, null meaning absent; outer whitespace is dropped.

    A leading space in `target_new` would reach the model twice: every prompt view adds its own.
    """
    return Edit.model_validate({name: _stripped(value) for name, value in fields.items() if value is not None})


def _stripped(value: Any) -> Any:
    """Remove outer whitespace from all texts of an edit's fields."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return [
            {name: _text_stripped(inner) for name, inner in item.items()}
            if isinstance(item, dict)
            else _text_stripped(item)
            for item in value
        ]
    return value


def _text_stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


READERS.register("jsonl")(
    Reader(
        models=(Edit,),
        required=(REQUIRED_FIELDS,),
        edit=plain_edit,
        containers=frozenset({"json"}),
    )
)
