"""The published vocabularies of `data/vocabularies.parquet`."""

from __future__ import annotations

import pyarrow.parquet as pq

from onceedit_ray.models.weight_token import WEIGHT_TOKEN
from tests.paths import DATA


def published(name: str) -> dict[str, int]:
    """Token -> id of a model's tokenizer; `tinyllama-weight` is TinyLlama's with the gate's token at its end."""
    model = name.removesuffix("-weight")
    table = pq.read_table(DATA / "vocabularies.parquet", filters=[("model", "=", model)])
    vocabulary = dict(zip(table["token"].to_pylist(), table["id"].to_pylist(), strict=True))
    return {**vocabulary, WEIGHT_TOKEN: len(vocabulary)} if name.endswith("-weight") else vocabulary
