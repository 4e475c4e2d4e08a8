"""`onceedit` with a target whose server gives token ids and log probabilities, beside the same weights loaded here."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from onceedit_ray.models.assembly import open_codec, open_model
from tests.command_line import QUESTION, Command, Place
from tests.small_system import CPU
from tests.stand_in_server import serving
from tests.token_server import TokenServer

TIMES = ("seconds", "target_passes")
"""A server's prefill runs beside the plug-in's, as a pass of its own."""


@pytest.fixture
def run_file(place: Place) -> Iterator[str]:
    """Two targets: the same weights, loaded here and at a server."""
    folder = place.models / "mistral"
    codec = open_codec(folder)
    with serving(TokenServer(open_model(folder, CPU, codec, 20, "server"), codec).app()) as url:
        there = {"engine": "openai_tokens", "url": url, "tokenizer": str(folder)}
        yield place.run_file(
            targets={"one": place.model("mistral"), "two": there}, fusion={"max_new_tokens": 4, "top_k": 20}
        )


def test_it_is_scored_as_the_loaded_weights_are(run_file: str, place: Place, command: Command) -> None:
    code, _, err = command("evaluate", "--config", run_file, "--results", str(place.folder / "results"))
    assert code == 0, err
    rows = pq.read_table(place.folder / "results" / "small" / "records.parquet").to_pylist()
    scored: dict[str, list[dict[str, object]]] = {"one": [], "two": []}
    for row in rows:
        scored[row.pop("target")].append({key: value for key, value in row.items() if key not in TIMES})
    assert len(scored["one"]) == len(scored["two"]) > 0
    for one, two in zip(scored["one"], scored["two"], strict=True):
        assert one == two
    summary = json.loads((place.folder / "results" / "small" / "summary.json").read_text())
    assert set(summary["targets"]) == {"one", "two"}


def test_it_is_asked_and_validated(run_file: str, command: Command) -> None:
    answers = [command("generate", "--model", name, QUESTION, "--config", run_file) for name in ("one", "two")]
    assert [code for code, _, _ in answers] == [0, 0]
    one, two = (out.partition(" ")[2] for _, out, _ in answers)
    assert one == two
    code, out, err = command("validate", run_file)
    assert code == 0, err
    assert "is valid" in out
