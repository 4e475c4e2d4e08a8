"""Edits as a Parquet table with one column per field of `Edit`; the store writes this format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.jsonl import REQUIRED_FIELDS, plain_edit

_PROBES = pa.list_(pa.struct([("prompt", pa.string()), ("answer", pa.string())]))

# Given explicitly: a schema inferred from the rows would turn a column of empty lists into a column of nulls.
EDITS_SCHEMA = pa.schema(
    [
        ("prompt", pa.string()),
        ("target_new", pa.string()),
        ("subject", pa.string()),
        ("ground_truth", pa.string()),
        ("rephrasings", pa.list_(pa.string())),
        ("locality", _PROBES),
        ("portability", _PROBES),
        ("aliases", pa.list_(pa.string())),
        ("sentences", pa.list_(pa.string())),
    ]
)
_LATER_FIELDS = ("aliases", "sentences")
"""Columns that are written only if an edit fills them; other files keep the same bytes."""


def write_edits(edits: Sequence[Edit], sink: Any) -> None:
    """Write edits to a path or an open binary file; reading them back gives equal edits.

    Raises what pyarrow raises when the sink cannot be written (`OSError`).
    """
    rows = [edit.model_dump() for edit in edits]
    unused = [name for name in _LATER_FIELDS if not any(row[name] for row in rows)]
    pq.write_table(pa.Table.from_pylist(rows, schema=EDITS_SCHEMA).drop_columns(unused), sink)


READERS.register("parquet")(
    Reader(
        models=(Edit,),
        required=(REQUIRED_FIELDS,),
        edit=plain_edit,
        containers=frozenset({"parquet"}),
    )
)
