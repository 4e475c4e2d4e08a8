"""Sessions compared with fresh forward passes: after any extensions and cuts the rows are the same."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_ray.errors import ContextLengthError, ModelError, SessionLostError
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.pass_threads import WIDE, PassThreads
from onceedit_ray.models.weight_token import weight_token_id
from tests.families import FAMILIES, build_family
from tests.small_system import build_plugin, full_logits
from tests.watched_model import Watched, assert_top, check_decoded

T = TypeVar("T")
WINDOW = 16  # of Gemma's sliding layer
TOKENS = st.lists(st.integers(5, 500), min_size=1, max_size=6)
# A cut (how much of the session to keep, as a share), what is fed then, rows asked for, tokens to decode.
MOVES = st.lists(st.tuples(st.floats(0, 1), TOKENS, st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=6)


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(first=st.lists(st.integers(5, 500), min_size=1, max_size=24), moves=MOVES)
def test_any_sequence_of_calls_equals_fresh_passes(
    watched: dict[str, Watched], family: str, first: list[int], moves: list[tuple[float, list[int], int, int]]
) -> None:
    w = watched[family]

    async def play() -> None:
        step = await w.model.open(first, rows=len(first))
        held = list(first)
        assert_top(step.top, w.expected(held, len(first)))
        for share, fed, rows, decode in moves:
            keep = round(share * len(held))
            made = await w.model.extend(step.session, keep, fed, rows=rows, decode=decode)
            held = [*held[:keep], *fed]
            check_decoded(w, held, made, min(rows, len(fed)), decode)
            held += made.new_ids[:-1]
        await w.model.close(step.session)

    asyncio.run(play())
    assert w.model.open_sessions == 0


@pytest.mark.parametrize("family", FAMILIES)
async def test_no_token_is_read_twice(watched: dict[str, Watched], family: str) -> None:
    w = watched[family]

    w.passes.clear()
    before = w.model.passes
    step = await w.model.open(list(range(10, 20)), rows=3, decode=4)
    assert w.passes == [10, 1, 1, 1]  # the fourth token is not fed yet
    await w.model.extend(step.session, 13, [*step.new_ids[-1:], 40, 41], rows=2)
    await w.model.extend(step.session, 14, [50, 51, 52], decode=2)
    await w.model.extend(step.session, 17, [60])
    assert w.passes == [10, 1, 1, 1, 3, 3, 1, 1]
    assert w.model.passes - before == len(w.passes)
    await w.model.close(step.session)


class TestSlidingWindow:
    """Gemma's sliding layer attends to its window, wherever the session was cut."""

    @pytest.mark.parametrize("length", range(WINDOW - 2, WINDOW + 3))
    async def test_around_the_windows_length(self, watched: dict[str, Watched], length: int) -> None:
        w = watched["gemma3"]
        ids = [30 + n for n in range(length)]

        step = await w.model.open(ids)
        for cut in range(4):
            keep = length - cut
            made = await w.model.extend(step.session, keep, [3 + cut, 9], rows=2, decode=3)
            check_decoded(w, [*ids[:keep], 3 + cut, 9], made, 2, 3)
        await w.model.close(step.session)

    async def test_no_cut_makes_a_family_read_twice(self, watched: dict[str, Watched]) -> None:
        for w in watched.values():

            async def play(w: Watched = w) -> None:
                step = await w.model.open(list(range(10, 50)))
                w.passes.clear()
                for keep in (30, 20, 5, 0):
                    await w.model.extend(step.session, keep, [9])
                assert w.passes == [1, 1, 1, 1]
                await w.model.close(step.session)

            await play()


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalModel, Any, int]:
    """A plug-in that keeps every entry, its network, and the id of its `[WEIGHT]` token."""
    edited = build_plugin(tmp_path_factory.mktemp("plugin"), "qwen2")[1]
    network: Any = load_model(edited, dtype="float32", device="cpu")
    weight_id = weight_token_id(load_tokenizer(edited))
    assert weight_id is not None
    return LocalModel(network, (), weight_id, top_k=2000), network, weight_id


class TestGate:
    def test_weight_is_read_at_the_last_position_of_the_prompt(self, plugin: tuple[LocalModel, Any, int]) -> None:
        model, network, weight_id = plugin
        ids = list(range(40, 60))
        expected = torch.sigmoid(full_logits(network, ids)[-1, weight_id]).item()
        for rows, decode in ((0, 0), (1, 0), (5, 3)):
            assert now(model.open(ids, rows, decode)).weight == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize(("margin", "decoded"), [(-1e-4, 3), (1e-4, 0)])
    def test_decodes_only_from_the_threshold_on(
        self, plugin: tuple[LocalModel, Any, int], margin: float, decoded: int
    ) -> None:
        weight = now(plugin[0].open([40, 41])).weight
        assert weight is not None
        step = now(plugin[0].open([40, 41], rows=1, decode=3, threshold=weight + margin))
        assert (len(step.new_ids), len(step.top)) == (decoded, max(decoded, 1))

    def test_probabilities_are_those_without_the_weight_token(self, plugin: tuple[LocalModel, Any, int]) -> None:
        model, network, weight_id = plugin
        top = now(model.open([50, 51, 52])).top
        logits_V = full_logits(network, [50, 51, 52])[-1].double()
        logits_V[weight_id] = -torch.inf
        p_V = torch.softmax(logits_V, -1).numpy()
        np.testing.assert_allclose(top.p_NK[0], p_V[top.ids_NK[0]], atol=1e-6)
        assert top.p_NK.sum() == pytest.approx(1.0, abs=1e-5)

    def test_the_weight_token_is_not_an_entry_however_many_are_kept(self, plugin: tuple[LocalModel, Any, int]) -> None:
        """Alignments are those of the base plug-in: they have no row for it."""
        model, network, weight_id = plugin
        top = now(model.open([50, 51, 52])).top
        assert weight_id not in top.ids_NK
        assert top.ids_NK.shape == (1, full_logits(network, [50]).shape[1] - 1)

    def test_a_model_without_a_gate_has_no_weight_and_always_decodes(self, watched: dict[str, Watched]) -> None:
        step = now(watched["llama"].model.open([40, 41], decode=2, threshold=2.0))
        assert (step.weight, len(step.new_ids)) == (None, 2)
        now(watched["llama"].model.close(step.session))


class TestDecoding:
    @pytest.mark.parametrize("at", [1, 2, 3])
    def test_stops_at_an_end_token_and_keeps_it(self, watched: dict[str, Watched], at: int) -> None:
        w = watched["gptj"]
        free = now(w.model.open([60, 61, 62], decode=6)).new_ids
        model = LocalModel(w.network, end_ids={free[at]}, top_k=4)
        first = free.index(free[at])
        assert now(model.open([60, 61, 62], decode=6)).new_ids == free[: first + 1]

    def test_stops_where_the_context_ends(self, watched: dict[str, Watched]) -> None:
        w = watched["gpt2"]
        step = now(w.model.open([9] * 254, decode=10))
        assert len(step.new_ids) == 3  # two of them are fed; the last is only read off
        assert len(step.top) == 3


class TestRefused:
    def test_more_tokens_than_the_context_holds(self, watched: dict[str, Watched]) -> None:
        for family, w in watched.items():
            before = w.model.open_sessions
            with pytest.raises(ContextLengthError, match=r"257 tokens.*256.*shorten"):
                now(w.model.open([9] * 257))
            assert w.model.open_sessions == before, family

    @pytest.mark.parametrize("keep", [250, 20])
    @pytest.mark.parametrize("family", FAMILIES)
    async def test_a_refused_extension_leaves_the_session_as_it_was(
        self, watched: dict[str, Watched], family: str, keep: int
    ) -> None:
        w = watched[family]
        ids = [5 + n % 300 for n in range(250)]

        step = await w.model.open(ids)
        await w.model.extend(step.session, 249, ids[249:])  # Gemma's sliding layer now holds its window only
        with pytest.raises(ContextLengthError):
            await w.model.extend(step.session, keep, [9] * (257 - keep))
        try:
            made = await w.model.extend(step.session, keep, [9], rows=1)
            assert_top(made.top, w.expected([*ids[:keep], 9], 1))
        finally:
            await w.model.close(step.session)

    def test_an_empty_prompt(self, watched: dict[str, Watched]) -> None:
        with pytest.raises(ModelError, match="empty prompt"):
            now(watched["llama"].model.open([]))

    def test_a_session_that_is_not_there(self, watched: dict[str, Watched]) -> None:
        model = watched["llama"].model
        session = now(model.open([9])).session
        now(model.close(session))
        now(model.close(session))  # closing twice is no error
        with pytest.raises(SessionLostError, match=f"no session {session}"):
            now(model.extend(session, 1, [9]))

    @pytest.mark.parametrize(("keep", "ids"), [(1, []), (3, [9]), (-1, [9])])
    async def test_an_impossible_cut(self, watched: dict[str, Watched], keep: int, ids: list[int]) -> None:
        model = watched["llama"].model

        with pytest.raises(ValueError, match="impossible"):
            session = (await model.open([9, 10])).session
            try:
                await model.extend(session, keep, ids)
            finally:
                await model.close(session)


async def test_sessions_are_independent(watched: dict[str, Watched]) -> None:
    w = watched["gemma3"]

    prompts = [[40 + n, 41, 42 + n] * 7 for n in range(5)]
    steps = await asyncio.gather(*(w.model.open(prompt) for prompt in prompts))
    assert len({step.session for step in steps}) == 5
    made = await asyncio.gather(
        *(w.model.extend(step.session, 20 - n, [70 + n], decode=2) for n, step in enumerate(steps))
    )
    for n, (prompt, step) in enumerate(zip(prompts, made, strict=True)):
        check_decoded(w, [*prompt[: 20 - n], 70 + n], step, 1, 2)
    await asyncio.gather(*(w.model.close(step.session) for step in steps))


async def test_a_pass_has_the_threads_of_its_length_and_leaves_the_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number of threads that one thread of torch sets is also the default of threads that start later."""
    before = torch.get_num_threads()
    network = load_model(build_family("llama", tmp_path / "llama"), dtype="float32", device="cpu")
    models = [LocalModel(network, [], threads=threads) for threads in (PassThreads(1, 3), None)]
    seen: list[int] = []
    for model in models:
        run = model._cached.logits
        monkeypatch.setattr(
            model._cached, "logits", lambda rows, run=run: seen.append(torch.get_num_threads()) or run(rows)
        )
    for model in models:
        for length in (4, WIDE - 1, WIDE):
            await model.close((await model.open([7] * length)).session)
    assert seen == [1, 1, 3, before, before, before]
    assert torch.get_num_threads() == before
