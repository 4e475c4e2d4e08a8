"""schemathesis against our own OpenAPI schema, in this process over a small random system: whatever comes, no 5xx.

`make fuzz` runs a few thousand cases, the tests a few hundred (`ONCEEDIT_FUZZ_CASES` for each route).
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.schemas import BaseSchema

from onceedit_ray.config import FusionConfig
from onceedit_ray.serving.admission import EDITING
from onceedit_ray.serving.in_process import InProcess
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.requests import EVERY
from onceedit_ray.serving.schema import NEUTRAL
from tests.small_ingress import Scripted
from tests.small_queue import system
from tests.small_system import small_decoder

CASES = int(os.environ.get("ONCEEDIT_FUZZ_CASES", "10"))
KEY, EDIT_KEY = "a-key-of-the-fuzzer", "a-key-for-editing"
LIMITS = Limits(max_tokens=4, chat_tokens=4, answers=4, seconds=20)
MODES = SO, NOT_SO, TO_THE_MODELS = "as the schema says", "not as it says", "to the models"
TARGETS = ["mistral", "qwen2"]
ROUTES = [
    f"{method} {path}"
    for path, methods in build_ingress(Scripted(), LIMITS, Keys()).openapi()["paths"].items()
    for method in methods
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> BaseSchema:
    """The schema as the application describes itself; new routes are found in it."""
    folder = tmp_path_factory.mktemp("fuzz")
    decoder = small_decoder(folder, TARGETS, FusionConfig(top_k=16))
    backend = InProcess(decoder, system(folder / "living").living)
    return schemathesis.openapi.from_asgi(
        "/openapi.json", build_ingress(backend, LIMITS, Keys([KEY]), Keys([EDIT_KEY]))
    )


@pytest.mark.parametrize(
    ("route", "mode"),
    [(route, mode) for route in ROUTES for mode in MODES if mode != TO_THE_MODELS or "completions" in route],
)
def test_no_request_breaks_the_server(schema: BaseSchema, route: str, mode: str) -> None:
    """An answer, or an error in OpenAI's shape that is the client's."""
    method, path = route.split()
    kind = GenerationMode.NEGATIVE if mode == NOT_SO else GenerationMode.POSITIVE
    cases = schema[path][method].as_strategy(generation_mode=kind)
    seen: Counter[int] = Counter()

    @settings(max_examples=CASES, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        case = data.draw(cases)
        if mode == TO_THE_MODELS and isinstance(case.body, dict):
            case.body = servable(case.body, data)
        response = case.call(headers={"Authorization": f"Bearer {EDIT_KEY if path.startswith(EDITING) else KEY}"})
        seen[response.status_code] += 1
        assert response.status_code < 500, (case.as_curl_command(), response.text)
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"} and error["message"], case.as_curl_command()

    # A route without a parameter has one case, and none that is not as the schema says.
    with contextlib.suppress(Unsatisfiable):
        fuzz()
    print(f"{seen.total()} cases, by status {dict(sorted(seen.items()))}")
    if "completions" in path:
        assert seen.total() >= CASES, seen
        assert mode != TO_THE_MODELS or seen[200] > CASES / 8, seen


def servable(body: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """`body` for a served model and within the limits, so that its other fields reach the models."""
    kept = {name: value for name, value in body.items() if name not in NEUTRAL or name in ("logprobs", "top_logprobs")}
    bounded = {"max_tokens", "max_completion_tokens", "n"} & kept.keys()
    return kept | {"model": data.draw(st.sampled_from([*TARGETS, EVERY]))} | dict.fromkeys(bounded, 2)
