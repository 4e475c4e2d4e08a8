"""Log probabilities in OpenAI's formats: the target's own if it answers alone, otherwise the fused ones."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest
import torch

from onceedit_ray.fusion.outputs import TokenProbability, Trace
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.sampling import Sampling
from onceedit_ray.serving.generation import answer, speak
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import UNLIKELIEST, Piece, of_chat, of_completion, scored
from tests.small_decoding import BEGUN, decoder_of, generations, open_sessions
from tests.small_ingress import client_of, events, ingress_of, post, small_backend
from tests.small_system import TaughtModels, full_logits

PROMPT = BEGUN[0]
DRAWN = {"temperature": 1.9, "seed": 11}


def complete(models: TaughtModels, weight: float = 0.6, **changes: Any) -> Any:
    api = ingress_of(small_backend(models, weight))
    response = post(api, "/v1/completions", {"model": "mistral", "prompt": PROMPT, "max_tokens": 8} | changes)
    assert response.status_code == 200, response.text
    assert open_sessions(models) == 0
    return events(response) if changes.get("stream") else response.json()["choices"][0]


def own_logprobs(models: TaughtModels, prompt_ids: list[int], ids: tuple[int, ...]) -> torch.Tensor:
    """The target's log probabilities before each of `ids`, from one pass without a cache."""
    model = models.members["mistral"].model
    assert isinstance(model, LocalModel)
    logits_NV = full_logits(model.network, prompt_ids + list(ids))
    return logits_NV[len(prompt_ids) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.9, seed=11)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("stride", [0, 2])
async def test_a_target_alone_tells_its_own(models: TaughtModels, sampling: Sampling, stride: int) -> None:
    """Also for a sampled token that is not among the most likely ones that the model returns."""
    decoder = decoder_of(models, 0.2, threshold=0.5)
    codec = models.members["mistral"].codec

    async def ask(trace: Trace) -> tuple[int, ...]:
        stream = decoder.stream("mistral", PROMPT, None, 24, sampling, stride, trace)
        pieces = [piece async for piece in stream]
        return tuple(pieces[-1].token_ids)  # type: ignore[union-attr]

    trace = Trace(likely=3)
    ids = await ask(trace)
    assert ids == await ask(Trace()), "what is told changes nothing"
    assert [chance.token for chance in trace.chances] == list(ids)
    expected_NV = own_logprobs(models, codec.encode_prompt(PROMPT), ids)
    for chance, row_V in zip(trace.chances, expected_NV, strict=True):
        assert math.log(chance.p) == pytest.approx(float(row_V[chance.token]), abs=1e-3)
        top = row_V.topk(3).values.tolist()
        assert [math.log(p) for _, p in chance.likely] == pytest.approx(top, abs=1e-3)
    if not sampling.greedy:
        assert any(int((row_V > row_V[token]).sum()) >= 64 for token, row_V in zip(ids, expected_NV, strict=True))


def test_a_fused_answer_tells_what_was_fused(models: TaughtModels) -> None:
    """The most likely fused token is the one that is written, although the target's own would be another."""
    found = complete(models, logprobs=5)["logprobs"]
    plain = complete(models)
    assert "".join(found["tokens"]) == plain["text"]
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert top[token] == logprob == max(top.values()) and len(top) == 5
        assert sum(map(math.exp, top.values())) <= 1 + 1e-5
    decoder = decoder_of(models, 0.6, threshold=0.5)
    ids = generations(decoder, "mistral", [PROMPT])[0].token_ids
    own_NV = own_logprobs(models, models.members["mistral"].codec.encode_prompt(PROMPT), ids)
    assert any(int(row_V.argmax()) != token for token, row_V in zip(ids, own_NV, strict=True))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("weight", [0.2, 0.6])
def test_offsets_and_pieces_belong_to_the_text(models: TaughtModels, stream: bool, weight: float) -> None:
    whole = complete(models, weight, logprobs=0, **DRAWN)
    if stream:
        chunks = [chunk["choices"][0] for chunk in complete(models, weight, logprobs=0, stream=True, **DRAWN)]
        told = [choice["logprobs"] for choice in chunks if choice["logprobs"]]
        assert len(told) > 1 and chunks[-1]["logprobs"] is None
        found = {name: [item for each in told for item in each[name]] for name in ("tokens", "text_offset")}
        assert found["tokens"] == whole["logprobs"]["tokens"]
    found = whole["logprobs"]
    assert found["top_logprobs"] is None
    assert found["text_offset"][0] == 0 and found["text_offset"] == sorted(found["text_offset"])
    for token, at in zip(found["tokens"], found["text_offset"], strict=True):
        assert token.startswith("bytes:") or whole["text"][at:].startswith(token)


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_told_of_a_stop_string(models: TaughtModels, stream: bool) -> None:
    text = complete(models)["text"]
    stop = text.strip()[3:5]
    found = complete(models, logprobs=1, stop=stop, stream=stream)
    told = [chunk["choices"][0] for chunk in found] if stream else [found]
    said = "".join(choice["text"] for choice in told)
    tokens = "".join(token for choice in told if choice["logprobs"] for token in choice["logprobs"]["tokens"])
    assert said == text[: text.index(stop)]
    assert tokens.startswith(said) and (tokens == said or stop[0] in tokens[len(said) :])
    assert told[-1]["onceedit"]["weight"] == 0.6


async def test_a_stop_string_costs_no_second_answer(models: TaughtModels, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = small_backend(models)._decoder
    monkeypatch.setattr(decoder, "generate", None)

    *_, ending = [
        piece async for piece in speak(decoder, GenerationRequest("mistral", 8, Sampling(), PROMPT, stop=("e",)))
    ]
    assert isinstance(ending, GenerationEnd) and (ending.reason, ending.weight, ending.alone) == ("stop", 0.6, False)
    assert ending.drafted >= ending.accepted


async def test_the_official_client_parses_both_shapes(models: TaughtModels) -> None:
    async with client_of(ingress_of(small_backend(models))) as http:
        client = openai.AsyncOpenAI(api_key="none", base_url="http://127.0.0.1/v1", http_client=http)
        done = await client.completions.create(model="mistral", prompt=PROMPT, max_tokens=4, logprobs=2)
        assert done.choices[0].logprobs.top_logprobs[0] and len(done.choices[0].logprobs.tokens) <= 4
        chat: dict[str, Any] = {
            "model": "qwen2", "messages": [{"role": "user", "content": PROMPT}], "logprobs": True,
            "top_logprobs": 20, "max_tokens": 6,
        }  # fmt: skip
        answer = (await client.chat.completions.create(**chat)).choices[0]
        told = answer.logprobs.content
        data = b"".join(bytes(each.bytes) for each in told if each.bytes)
        assert data.decode(errors="replace") == answer.message.content
        assert all(len(each.top_logprobs) == 20 and each.logprob <= 0 for each in told)
        stream = await client.chat.completions.create(stream=True, **chat)
        pieces = [chunk.choices[0].logprobs async for chunk in stream]
        assert [each for piece in pieces if piece for each in piece.content] == told


def test_half_characters_and_names(models: TaughtModels) -> None:
    """Bytes that form no whole character are written as escapes; a token without text has its name and no bytes."""
    codec = models.members["qwen2"].codec
    half = next(token for token, data in codec.surfaces.items() if data == b"\xc3")
    letter = next(token for token, data in codec.surfaces.items() if data == b"a")
    tokens = [scored(TokenProbability(half, 0.5, ((half, 0.5), (codec.end_id, 0.25))), codec, 0)]
    tokens.append(scored(TokenProbability(letter, 0.0, ()), codec, 1))
    (first, second) = of_chat(tokens)["content"]
    name = codec.tokenizer.convert_ids_to_tokens(codec.end_id)
    assert (first["token"], first["bytes"]) == ("\\xc3", [0xC3])
    assert first["top_logprobs"][1] == {"token": name, "bytes": None, "logprob": math.log(0.25)}
    assert (second["token"], second["bytes"], second["logprob"]) == ("a", [97], UNLIKELIEST)
    legacy = of_completion(tokens, 2)
    assert legacy["tokens"] == ["bytes:\\xc3", "a"]
    assert legacy["top_logprobs"][0] == {"bytes:\\xc3": math.log(0.5), name: math.log(0.25)}


async def test_a_whole_answer_is_the_stream_put_together(models: TaughtModels) -> None:
    decoder = small_backend(models)._decoder
    asked = GenerationRequest("mistral", 12, Sampling(1.9, 1.0, 3), PROMPT, logprobs=2)

    async def both() -> tuple[list[Any], tuple[Piece, GenerationEnd]]:
        return [piece async for piece in speak(decoder, asked)], await answer(decoder, asked)

    (*pieces, ending), (whole, same) = await both()
    assert (ending, "".join(piece.text for piece in pieces)) == (same, whole.text)
    assert whole.tokens and whole.tokens == tuple(token for piece in pieces for token in piece.tokens)
