"""Two ways to keep sessions behave the same: slots of one cache, and a cache for each session."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from onceedit_ray.models import local_model
from onceedit_ray.models.kv_cache import SlotCache
from onceedit_ray.models.loading import load_model
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.passes import PassRow, SinglePasses, SlotPasses, passes_for
from onceedit_ray.models.stated_window import uses_stated_window
from tests.families import FAMILIES, build_family
from tests.model_types import build_type
from tests.small_system import full_logits, sharpen


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("passes")
    made = {}
    for family in FAMILIES:
        made[family] = load_model(build_family(family, folder / family, seed=4), dtype="float32", device="cpu")
        sharpen(made[family], 2.0)
    return made


def p(logits_NV: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits_NV.double(), -1)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_rows_of_a_pass_do_not_see_each_other(networks: dict[str, Any], family: str) -> None:
    """Different lengths, different numbers fed, beyond Gemma's window of 16: each row as a pass of its own."""
    network = networks[family]
    passes = passes_for(network)
    assert isinstance(passes, SlotPasses)
    held = [[20 + n for n in range(length)] for length in (40, 3, 17)]
    places = [passes.take() for _ in held]
    for place, ids in zip(places, held, strict=True):
        passes.logits([PassRow(place, 0, ids, 1)])
    fed = [[7, 8], [9], [10, 11, 12, 13]]
    rows = [PassRow(place, len(ids), more, len(more)) for place, ids, more in zip(places, held, fed, strict=True)]
    for logits_NV, ids, more in zip(passes.logits(rows), held, fed, strict=True):
        torch.testing.assert_close(p(logits_NV), p(full_logits(network, ids + more)[-len(more) :]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_what_lies_beyond_a_cut_is_never_seen(networks: dict[str, Any], family: str) -> None:
    passes = passes_for(networks[family])
    place = passes.take()
    passes.logits([PassRow(place, 0, list(range(30, 60)), 1)])
    assert passes.cut(place, 30, 5) == 5
    (logits_NV,) = passes.logits([PassRow(place, 5, [77, 78], 2)])
    expected = full_logits(networks[family], [*range(30, 35), 77, 78])[-2:]
    torch.testing.assert_close(p(logits_NV), p(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [SlotPasses, SinglePasses])
@pytest.mark.parametrize("family", ["mistral", "gemma3"])
async def test_a_fork_goes_its_own_way(
    networks: dict[str, Any], family: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ways, with cuts: what each session gives afterwards is what a fresh pass gives."""
    network = networks[family]
    if kind is SinglePasses:
        monkeypatch.setattr(local_model, "passes_for", SinglePasses)
    model = LocalModel(network, end_ids=(), top_k=8)
    ids = [25 + n for n in range(33)]

    step = await model.open(ids)
    fork = await model.fork(step.session)
    branches = {step.session: [*ids[:20], 5, 6], fork: [*ids, 9]}
    await model.extend(step.session, 20, [5, 6])
    await model.extend(fork, 33, [9])
    for session, held in branches.items():
        made = await model.extend(session, len(held), [40, 41], rows=2)
        p_NV = p(full_logits(network, [*held, 40, 41])[-2:])
        for row in range(2):
            assert made.top.p_NK[row, 0] == pytest.approx(float(p_NV[row].max()), abs=1e-5)
    await asyncio.gather(*(model.close(session) for session in branches))
    assert model.open_sessions == 0


async def test_forks_of_one_session_are_made_together_and_read_in_one_pass(networks: dict[str, Any]) -> None:
    """What is asked of the session before the forks is in them, what is asked after them is not."""
    network = networks["mistral"]
    model = LocalModel(network, end_ids=(), top_k=8)
    step = await model.open([25, 26, 27])
    calls = (
        model.extend(step.session, 3, [30]),
        *(model.fork(step.session) for _ in range(4)),
        model.extend(step.session, 4, [31]),
    )
    _, *forks, _ = await asyncio.gather(*calls)
    passes = model.passes
    read = await asyncio.gather(*(model.extend(fork, 4, [40 + number]) for number, fork in enumerate(forks)))
    assert model.passes == passes + 1
    for number, each in enumerate(read):
        p_V = p(full_logits(network, [25, 26, 27, 30, 40 + number])[-1:])[0]
        assert each.top.p_NK[0, 0] == pytest.approx(float(p_V.max()), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_for_each_session_decodes_the_same(
    networks: dict[str, Any], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers() -> list[Any]:
        model = LocalModel(networks[family], end_ids=(), top_k=8)

        async def play() -> list[Any]:
            first = await model.open(list(range(20, 60)), decode=5)
            cut = await model.extend(first.session, 41, [5], decode=3)
            deep = await model.extend(first.session, 12, [6, 7], rows=2, decode=3)
            return [first.new_ids, cut.new_ids, deep.new_ids, len(deep.top)]

        return asyncio.run(play())

    slots = answers()
    monkeypatch.setattr(local_model, "passes_for", SinglePasses)
    assert answers() == slots


def test_a_network_that_takes_no_mask_of_ours_runs_alone(networks: dict[str, Any], tmp_path: Path) -> None:
    """A trial decides about batches: a network that ignores the mask is not served in batches."""

    class Unmasked(type(networks["llama"])):  # type: ignore[misc]
        def forward(self, *args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
            return super().forward(*args, attention_mask=None, **kwargs)

    network = load_model(build_family("llama", tmp_path / "llama", seed=4), dtype="float32", device="cpu")
    network.__class__ = Unmasked
    passes = passes_for(network)
    assert not passes.batches
    assert isinstance(passes, SlotPasses)


class TestSlots:
    def test_the_lowest_free_slot_is_taken(self) -> None:
        cache = SlotCache(1)
        assert [cache.take() for _ in range(3)] == [0, 1, 2]
        cache.give_back(2)
        cache.give_back(0)
        assert [cache.take(), cache.take(), cache.take()] == [0, 2, 3]

    def test_buffers_grow_and_keep_what_they_hold(self) -> None:
        cache = SlotCache(1)
        device = torch.device("cpu")
        keys = torch.arange(2 * 3 * 4, dtype=torch.float32).reshape(1, 2, 3, 4)
        slot = cache.take()
        cache.select([slot], [0], 3, device)
        cache.update(keys, keys + 1, 0)
        for _ in range(5):
            other = cache.take()
            cache.select([other], [0], 100, device)
            cache.update(torch.ones(1, 2, 100, 4), torch.ones(1, 2, 100, 4), 0)
        cache.select([slot], [3], 1, device)
        found, values = cache.update(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4), 0)
        torch.testing.assert_close(found[:, :, :3], keys)
        torch.testing.assert_close(values[:, :, :3], keys + 1)
        assert cache.nbytes() >= 2 * 6 * 2 * 100 * 4 * 4


@pytest.mark.parametrize(("model_type", "windowed"), [("llama", False), ("gpt_neox", False), ("mistral", True)])
@torch.inference_mode()
def test_a_stated_window_is_in_our_masks_only_if_the_network_uses_it(
    tmp_path: Path, model_type: str, windowed: bool
) -> None:
    folder = build_type(model_type, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": 16}))
    network = load_model(folder, dtype="float32", device="cpu")
    assert uses_stated_window(network) is windowed
    passes = passes_for(network)
    assert passes.batches and network.config.sliding_window == 16
    held = [[5 + (n * 37) % 500 for n in range(length)] for length in (40, 7)]
    places = [passes.take() for _ in held]
    for place, ids in zip(places, held, strict=True):
        passes.logits([PassRow(place, 0, ids, 1)])
    rows = [PassRow(place, len(ids), [9, 8], 2) for place, ids in zip(places, held, strict=True)]
    for logits_NV, ids in zip(passes.logits(rows), held, strict=True):
        torch.testing.assert_close(logits_NV, full_logits(network, [*ids, 9, 8])[-2:], atol=1e-5, rtol=0)


def test_a_window_that_layers_hold_themselves_is_left_to_them(networks: dict[str, Any]) -> None:
    network = copy.deepcopy(networks["llama"])
    network.config.sliding_window = 16
    network.model.layers[0].self_attn.sliding_window = 16
    assert uses_stated_window(network) is None
    assert not passes_for(network).batches
