"""Prompts as tokens, echoed prompts and their log probabilities, which evaluation harnesses need."""

from __future__ import annotations

import asyncio
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from onceedit_ray.errors import PromptError
from onceedit_ray.models.local_model import SCORED_AT_ONCE, LocalModel
from tests.small_decoding import BEGUN, open_sessions
from tests.small_ingress import TARGETS, events, ingress_of, post, small_backend
from tests.small_system import TaughtModels, full_logits

PROMPT = BEGUN[0]


def complete(models: TaughtModels, status: int = 200, **changes: Any) -> Any:
    body = {"model": "mistral", "prompt": PROMPT, "max_tokens": 4, "temperature": 0} | changes
    response = post(ingress_of(small_backend(models)), "/v1/completions", body)
    assert response.status_code == status, response.text
    assert open_sessions(models) == 0
    if status != 200:
        return response.json()["error"]
    return events(response) if changes.get("stream") else response.json()["choices"]


def network_of(models: TaughtModels, name: str) -> Any:
    model = models.members[name].model
    assert isinstance(model, LocalModel)
    return model.network


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("length", [1, 2, SCORED_AT_ONCE, SCORED_AT_ONCE + 1, 2 * SCORED_AT_ONCE + 5])
async def test_scores_are_those_of_one_pass(models: TaughtModels, name: str, length: int) -> None:
    model = models.members[name].model
    ids = [7 + 31 * n % 300 for n in range(length)]
    reading = await model.score(ids)
    p_NV = torch.softmax(full_logits(network_of(models, name), ids)[:-1].double(), -1).numpy()
    assert reading.p_N.shape == (length - 1,)
    np.testing.assert_allclose(reading.p_N, p_NV[np.arange(length - 1), ids[1:]], atol=1e-5)
    for row in range(length - 1):
        ids_K, p_K = reading.top.row(row)
        np.testing.assert_allclose(p_K, p_NV[row, ids_K], atol=1e-5)
    assert open_sessions(models) == 0


async def test_a_token_that_there_is_not_fails_alone(models: TaughtModels) -> None:
    model = models.members["qwen2"].model

    asked = (model.open([5, 10**6]), model.open([5, 6]), model.score([10**6, 1]), model.score([5, -1]))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in found[::2]] == [PromptError] * 2 and isinstance(found[3], PromptError)
    await model.close(found[1].session)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_given_back_with_its_log_probabilities(models: TaughtModels, stream: bool) -> None:
    codec = models.members["mistral"].codec
    ids = list(codec.text_prompt(PROMPT).ids)
    plain = complete(models, logprobs=2)[0]
    found = complete(models, echo=True, logprobs=2, stream=stream)
    told = [chunk["choices"][0] for chunk in found] if stream else found
    assert "".join(choice["text"] for choice in told) == PROMPT + plain["text"]
    kinds = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    lists = {
        kind: [each for choice in told if choice["logprobs"] for each in choice["logprobs"][kind]] for kind in kinds
    }
    assert len({len(each) for each in lists.values()}) == 1
    before = lists["token_logprobs"][: len(ids)]
    logprobs_NV = torch.log_softmax(full_logits(network_of(models, "mistral"), ids).double(), -1)
    assert before[0] is None and lists["top_logprobs"][0] is None
    assert before[1:] == pytest.approx([float(logprobs_NV[n, token]) for n, token in enumerate(ids[1:])], abs=1e-4)
    for row, top in zip(logprobs_NV, lists["top_logprobs"][1 : len(ids)], strict=False):
        assert max(top.values()) == pytest.approx(float(row.max()), abs=1e-4)
    assert lists["text_offset"] == sorted(lists["text_offset"])
    answered = lists["tokens"][len(ids) :]
    assert answered[: len(plain["logprobs"]["tokens"])] == plain["logprobs"]["tokens"]
    assert lists["text_offset"][len(ids)] == len(PROMPT)


def test_tokens_and_their_text_are_one_prompt(models: TaughtModels) -> None:
    ids = list(models.members["mistral"].codec.text_prompt(PROMPT).ids)
    (text,), (tokens,) = complete(models), complete(models, prompt=ids)
    assert tokens == text
    several = complete(models, prompt=[ids, list(models.members["mistral"].codec.text_prompt(BEGUN[1]).ids)])
    assert [choice["text"] for choice in several] == [choice["text"] for choice in complete(models, prompt=BEGUN[:2])]


def test_a_token_that_the_tokenizer_has_not_is_the_prompts_error(models: TaughtModels) -> None:
    for stream in (False, True):
        error = complete(models, status=400, prompt=[5, 2**31 - 1], stream=stream)
        assert error["code"] == "invalid_prompt" and "2147483647" in error["message"]


@pytest.mark.parametrize("logprobs", [None, 0, 1])
def test_nothing_but_the_prompt(models: TaughtModels, logprobs: int | None) -> None:
    (found,) = complete(models, echo=True, max_tokens=0, logprobs=logprobs)
    assert (found["text"], found["finish_reason"]) == (PROMPT, "length")
    assert (found["logprobs"] is None) == (logprobs is None)
    assert complete(models, status=400, max_tokens=0)["param"] == "max_tokens"


@pytest.mark.parametrize("end", [False, True])
def test_every_token_counts_where_a_harness_counts_them(models: TaughtModels, end: bool) -> None:
    """lm-evaluation-harness drops the tokens of the context by their number, and the last one, which it did not ask."""
    codec = models.members["mistral"].codec
    context = list(codec.text_prompt(PROMPT).ids)
    answer = complete(models, max_tokens=32)[0]["text"]
    going_on = list(codec.encode_bytes(answer.encode()))[: None if end else 2]
    (found,) = complete(models, prompt=context + going_on, max_tokens=1, logprobs=1, echo=True, seed=1234)
    told = found["logprobs"]
    assert len(told["tokens"]) == len(context) + len(going_on) + 1, "the end of the text is one too"
    scored, top = (told[kind][len(context) : -1] for kind in ("token_logprobs", "top_logprobs"))
    own = torch.log_softmax(full_logits(network_of(models, "mistral"), context + going_on).double(), -1)
    expected = [float(own[len(context) - 1 + n, token]) for n, token in enumerate(going_on)]
    assert math.fsum(scored) == pytest.approx(math.fsum(expected), abs=1e-3)
    likeliest = [int(row.argmax()) for row in own[len(context) - 1 : -1]]
    greedy = [value == max(each.values()) for value, each in zip(scored, top, strict=True)]
    assert greedy == [one == other for one, other in zip(going_on, likeliest, strict=True)]
    assert list(itertools.accumulate(greedy, lambda a, b: a and b))
