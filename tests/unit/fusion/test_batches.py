"""Requests in one batch get exactly the tokens that each gets alone, and share what they can."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_ray.config import FusionConfig
from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.models.loading import load_model
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.passes import passes_for
from onceedit_ray.models.sampling import GREEDY, Sampling
from tests.families import FAMILIES
from tests.small_decoding import BEGUN, decoder_of, open_sessions
from tests.small_system import TWIN, ForcedGate, Recorder, TaughtModels, full_logits

TARGETS = [*FAMILIES, TWIN]
TIE = 1e-4
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(TARGETS),
        st.sampled_from(BEGUN),
        st.sampled_from(["draft", "calibrated", UNEDITED]),
        st.integers(1, 9),
        st.sampled_from([GREEDY, Sampling(0.8, 0.9, seed=3)]),
    ),
    min_size=2,
    max_size=10,
)


@settings(max_examples=10)
@given(requests=REQUESTS)
def test_a_batch_of_any_requests_is_each_alone(models: TaughtModels, requests: list[Any]) -> None:
    decoder = decoder_of(models, weight=0.6)

    async def alone() -> list[Generation]:
        return [await decoder.generate(*request) for request in requests]

    async def together() -> list[Generation]:
        return list(await asyncio.gather(*(decoder.generate(*request) for request in requests)))

    for one, other in zip(asyncio.run(alone()), asyncio.run(together()), strict=True):
        if one.token_ids != other.token_ids:
            assert is_tie(models, one, other), (one, other)
    assert open_sessions(models) == 0


def is_tie(models: TaughtModels, one: Generation, other: Generation) -> bool:
    """Whether two answers first differ where the target's two most likely tokens have the same probability."""
    at = next(i for i, (a, b) in enumerate(zip(one.token_ids, other.token_ids, strict=False)) if a != b)
    network = load_model(models.folders[one.target], device="cpu")
    p_V = torch.softmax(full_logits(network, [*one.token_ids[:at]] or [1])[-1], -1)
    return bool((p_V.topk(2).values.diff().abs() < TIE).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_served_in_batches(models: TaughtModels, family: str) -> None:
    assert passes_for(load_model(models.folders[family], device="cpu")).batches


@pytest.mark.parametrize("family", FAMILIES)
async def test_calls_of_different_lengths_share_passes(models: TaughtModels, family: str) -> None:
    """Five prompts decode together: no more passes than the longest needs, and rows as from a fresh pass."""
    network: Any = load_model(models.folders[family], device="cpu")
    model = LocalModel(network, end_ids=(), top_k=12)
    prompts = [list(range(20, 20 + length)) for length in (3, 9, 5, 12, 7)]

    async def together() -> list[Any]:
        return await asyncio.gather(*(model.open(ids, rows=2, decode=4) for ids in prompts))

    steps = await together()
    assert model.passes <= 2 + 3
    for ids, step in zip(prompts, steps, strict=True):
        p_NV = torch.softmax(full_logits(network, [*ids, *step.new_ids[:-1]])[-5:], -1)
        for row, p_V in enumerate(p_NV):
            assert step.top.p_NK[row, 0] == pytest.approx(float(p_V.max()), abs=1e-4)
            assert float(p_V[step.top.ids_NK[row, 0]]) >= float(p_V.max()) - 1e-4


async def test_a_call_joins_between_two_passes(models: TaughtModels) -> None:
    """A short request that comes later is answered while a long one still decodes."""
    model = LocalModel(load_model(models.folders["llama"], device="cpu"), end_ids=())
    order: list[str] = []

    async def ask(name: str, decode: int) -> None:
        await model.open([5, 6, 7], decode=decode)
        order.append(name)

    long = asyncio.create_task(ask("long", 200))
    await asyncio.sleep(0.01)
    await ask("short", 2)
    await long
    assert order == ["short", "long"]


class TestSharedDrafts:
    async def test_several_targets_draft_once(self, models: TaughtModels) -> None:
        """Targets that agree with the draft cost the plug-in nothing more."""
        recorder = Recorder(models.plugin)
        decoder = models.decoder(FusionConfig(threshold=0.0, max_new_tokens=8), ForcedGate(recorder, 1.0))
        member = decoder.members[TWIN]
        decoder.members = {name: replace(member, name=name) for name in ("a", "b", "c", "d")}

        async def ask(names: str) -> dict[str, Generation]:
            return await decoder.generate_all({name: BEGUN[0] for name in names})

        one = await ask("a")
        cost = (len(recorder.opened), len(recorder.extensions))
        four = await ask("abcd")
        assert {answer.token_ids for answer in four.values()} == {one["a"].token_ids}
        assert (len(recorder.opened), len(recorder.extensions)) == (2 * cost[0], 2 * cost[1])
        assert recorder.forks == 0

    @pytest.mark.parametrize("weight", [0.4, 0.55, 0.8])
    async def test_targets_that_part_go_on_by_forks(self, models: TaughtModels, weight: float) -> None:
        recorder = Recorder(models.plugin)
        decoder = models.decoder(FusionConfig(threshold=0.0, max_new_tokens=8), ForcedGate(recorder, weight))

        for begun in BEGUN[:2]:
            alone = {name: await decoder.generate(name, begun) for name in TARGETS}
            opened = len(recorder.opened)
            together = await decoder.generate_all(dict.fromkeys(TARGETS, begun))
            assert len(recorder.opened) == opened + 1
            for name in TARGETS:
                assert together[name].token_ids == alone[name].token_ids, name
        assert recorder.forks > 0 or weight > 0.5  # a strong plug-in is followed by all
        assert open_sessions(models) == 0


class TestStreams:
    @pytest.mark.parametrize("strategy", ["draft", "calibrated", UNEDITED])
    async def test_pieces_join_to_the_answer(self, models: TaughtModels, strategy: str) -> None:
        decoder = decoder_of(models, weight=0.6)

        for target in TARGETS:
            whole = await decoder.generate(target, BEGUN[1], strategy)
            pieces = [piece async for piece in decoder.stream(target, BEGUN[1], strategy)]
            assert isinstance(pieces[-1], Generation)
            assert pieces[-1].token_ids == whole.token_ids
            ids = [token for piece in pieces[:-1] if isinstance(piece, list) for token in piece]
            assert tuple(ids) == whole.token_ids

    async def test_a_reader_that_stops_early_frees_its_sessions(self, models: TaughtModels) -> None:
        decoder = decoder_of(models, weight=0.6)

        for strategy in ("draft", UNEDITED):
            stream = decoder.stream("gpt2", BEGUN[0], strategy)
            await anext(stream)
            await stream.aclose()
        assert open_sessions(models) == 0


async def test_sampled_answers_do_not_depend_on_the_draft(models: TaughtModels) -> None:
    """The token drawn at a position depends only on the seed, the position and the fused distribution."""
    found = {}
    for draft_tokens in (0, 1, 3, 8):
        decoder = decoder_of(models, weight=0.5, draft_tokens=draft_tokens)
        found[draft_tokens] = [
            (await decoder.generate(target, begun, None, 8, Sampling(1.2, 0.95, seed))).token_ids
            for target in ("gpt2", "gemma3")
            for begun in BEGUN[:2]
            for seed in range(2)
        ]
    assert all(answers == found[0] for answers in found.values()), found
    assert len(set(found[0])) > 4  # chance has a say
