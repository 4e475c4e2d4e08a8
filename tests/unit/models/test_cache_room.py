"""The memory of keys and values has a limit: sessions wait for room, and none of them gets another text for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from onceedit_ray.errors import ContextLengthError, CrowdedError, ModelError
from onceedit_ray.models import cache_room, local_model
from onceedit_ray.models.loading import load_model
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.passes import SinglePasses, passes_for
from tests.families import build_family

TOKEN_BYTES = 2 * 1 * 16 * 2 * 4
"""The tiny Mistral: layers, heads of keys and values, width of a head, keys and values, float32."""
KINDS = pytest.mark.parametrize("kind", [passes_for, SinglePasses])


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = build_family("mistral", tmp_path_factory.mktemp("room") / "mistral", seed=4)
    return load_model(folder, dtype="float32", device="cpu")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_room, "REST_SECONDS", 0.02)


Make = Callable[..., LocalModel]


@pytest.fixture
def make(network: Any, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A model whose sessions together hold `tokens` tokens; the most memory that any pass found is `most`."""

    def made(tokens: int | None, kind: Any = passes_for) -> LocalModel:
        monkeypatch.setattr(local_model, "passes_for", kind)
        model = LocalModel(network, (), top_k=4, name="small", cache_limit=tokens and tokens * TOKEN_BYTES)
        model.most = 0  # type: ignore[attr-defined]
        logits = model._cached.logits

        def watched(rows: Any) -> Any:
            found = logits(rows)
            model.most = max(model.most, model.cache_bytes)  # type: ignore[attr-defined]
            return found

        monkeypatch.setattr(model._cached, "logits", watched)
        return model

    return made


def prompt(number: int) -> list[int]:
    """Prompts of 8 to 31 tokens, no two alike."""
    return [20 + (7 * number + n) % 400 for n in range(8 + 5 * number % 24)]


async def answer(model: LocalModel, ids: list[int]) -> list[int]:
    """Twelve tokens in several calls, with a cut: as an answer is drafted, checked and continued."""
    step = await model.open(ids, rows=1, decode=4)
    given = list(step.new_ids)
    for decode in (1, 3, 4):
        held = len(ids) + len(given) - 1
        step = await model.extend(step.session, held, [given[-1], 9, 9], rows=3)
        step = await model.extend(step.session, held, given[-1:], decode=decode)
        given += step.new_ids
    await model.close(step.session)
    return given


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def emptied(model: LocalModel) -> None:
    await until(lambda: not model.open_sessions and not model._room._seated)


@KINDS
async def test_many_sessions_in_little_memory_all_end_with_the_right_tokens(make: Make, kind: Any) -> None:
    """Forty sessions where the longest two fill the memory: it is never exceeded, and empty in the end."""
    numbers = range(40)
    free = make(None, kind)
    expected = [await answer(free, prompt(number)) for number in numbers]
    model = make(90, kind)
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(answer(model, prompt(number)) for number in numbers))
    assert list(answers) == expected
    assert 0 < model.most <= model.cache_limit == 90 * TOKEN_BYTES  # type: ignore[attr-defined]
    assert model.token_bytes == TOKEN_BYTES
    await emptied(model)
    assert model.waiting_sessions == 0


@KINDS
async def test_sessions_that_grow_beyond_the_memory_take_turns(make: Make, kind: Any) -> None:
    """Each fits alone and the two do not; each holds what the other one needs. Neither waits for ever."""
    prompts = [list(range(20, 40)), list(range(60, 85))]

    async def grown(model: LocalModel, ids: list[int], both: asyncio.Barrier | None) -> list[int]:
        step = await model.open(ids, decode=2)
        given = list(step.new_ids)
        if both is not None:
            await both.wait()
        while len(given) < 30:
            step = await model.extend(step.session, len(ids) + len(given) - 1, given[-1:], decode=2)
            given += step.new_ids
        await model.close(step.session)
        return given

    free, model = make(None, kind), make(60, kind)
    expected = [await grown(free, ids, None) for ids in prompts]
    both = asyncio.Barrier(2)
    async with asyncio.timeout(60):
        assert await asyncio.gather(*(grown(model, ids, both) for ids in prompts)) == expected
    assert model.preempted_sessions > 0
    assert model.most <= 60 * TOKEN_BYTES  # type: ignore[attr-defined]


async def test_a_session_that_rests_gives_its_memory_and_goes_on_as_before(make: Make) -> None:
    free, model = make(None), make(40)
    ids = list(range(30, 55))
    steps = []
    for each in (free, model):
        opened = await each.open(ids, decode=3)
        other = await each.open(list(range(80, 110)), decode=4)  # waits until the first one rests
        forks = [await each.fork(opened.session), await each.fork(other.session)]
        last = [
            await each.extend(session, keep, [41, 42], rows=2, decode=2)
            for session, keep in ((opened.session, 20), (other.session, 31), (forks[0], 25), (forks[1], 3))
        ]
        steps.append([opened.new_ids, other.new_ids, *(step.new_ids for step in last)])
    assert steps[0] == steps[1]
    assert model.preempted_sessions > 0 and free.preempted_sessions == 0


async def test_the_probabilities_of_a_text_need_no_more_than_the_memory(make: Make) -> None:
    ids = [20 + n % 300 for n in range(150)]
    free, model = make(None), make(200)
    one, two = await free.score(ids), await asyncio.gather(*(model.score(ids) for _ in range(3)))
    assert all(reading.p_N == pytest.approx(one.p_N, abs=1e-5) for reading in two)
    assert model.most <= 200 * TOKEN_BYTES  # type: ignore[attr-defined]


@KINDS
async def test_one_that_could_never_fit_is_refused_by_one_line(make: Make, kind: Any) -> None:
    model = make(50, kind)
    with pytest.raises(ContextLengthError) as caught:
        await model.open(list(range(20, 71)))
    assert str(caught.value) == (
        f"51 tokens do not fit the memory of small: its {50 * TOKEN_BYTES} bytes for keys and values hold 50; "
        "shorten the prompt, or raise kv_cache_bytes"
    )
    assert model.open_sessions == 0
    assert len((await model.open(list(range(20, 60)), decode=100)).new_ids) == 11, "an answer ends where it is full"


def test_a_limit_too_small_for_any_session_is_refused_at_load(make: Make) -> None:
    with pytest.raises(ModelError, match=f"a session of 16 tokens takes {16 * TOKEN_BYTES}; raise kv_cache_bytes"):
        make(15)


async def test_who_leaves_while_waiting_gives_the_place_in_the_queue_back(make: Make) -> None:
    """The memory is taken by a long answer; two wait, the first one leaves, and the second one is next."""
    model = make(100)
    long = asyncio.ensure_future(model.open(list(range(20, 40)), decode=80))
    leaving, staying = (asyncio.ensure_future(model.open(prompt(number), decode=2)) for number in (1, 2))
    await until(lambda: model.waiting_sessions == 2)
    leaving.cancel()
    step = await staying
    assert long.done() and leaving.cancelled()
    for session in (step.session, (await long).session):
        await model.close(session)
    await emptied(model)


async def test_the_queue_is_in_order_and_has_an_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one does not overtake a long one that came before it; with three waiting, a fourth one is refused."""
    monkeypatch.setattr(local_model, "MOST_WAITING", 3)
    model = make(100)
    ended: list[str] = []

    async def open_and_close(name: str, tokens: int) -> None:
        step = await model.open([20 + n for n in range(tokens)], decode=1)
        ended.append(name)
        await model.close(step.session)

    long = asyncio.ensure_future(model.open(list(range(20, 40)), decode=60))  # 80 of 100
    await until(lambda: model.open_sessions and not model.waiting_sessions)
    waiting = [asyncio.ensure_future(open_and_close(*each)) for each in (("long", 90), ("short", 10), ("short", 10))]
    await until(lambda: model.waiting_sessions == 3)
    with pytest.raises(CrowdedError, match="3 sessions wait for memory of small already; ask again later"):
        await model.open([20])
    await asyncio.gather(*waiting)
    assert ended[0] == "long", "although the others would have fitted"
    await model.close((await long).session)
