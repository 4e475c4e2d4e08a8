"""`benchmarks.chaos` with a few faults: every answer right, every edit kept, every version whole, nothing hung."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

from benchmarks.chaos import KINDS, TARGETS, run, schedule, small_run, tables
from benchmarks.chaos_load import SECONDS
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.serving.limits import Limits
from tests.ray.served import served

FAULTS = ["coordinator", "trainer", "target or plug-in", "gateway", "coordinator"]


def test_nothing_is_lost_or_wrong_when_processes_are_killed(
    ray_session: None, onceedit_home: Path, tmp_path: Path
) -> None:
    config, pool = small_run(tmp_path)
    edit_plugin(config, open_store())
    with served(config, tmp_path, limits=Limits(seconds=SECONDS)) as address:
        found = asyncio.run(run(address, config, pool[:6], FAULTS, clients=3, seed=1))
    said = tables(found, 3, 1)
    assert [fault.kind for fault in found.faults] == FAULTS, said
    assert all(math.isfinite(fault.recovery) for fault in found.faults), said
    assert not found.wrong, found.wrong
    assert not (found.ends["hung"] or found.ends["unreadable"] or found.ends["broken off"]), said
    assert {each.question.target for each in found.outcomes if each.end == "answered"} == set(TARGETS)
    assert any(each.question.seed is not None for each in found.outcomes if each.end == "answered")
    assert found.edits["live"] and not found.edits["lost"] and not found.stuck, said
    assert found.versions > 1 and not found.broken, said


def test_the_schedule_is_that_of_its_seed_and_hits_every_kind() -> None:
    assert schedule(45, 7) == schedule(45, 7) != schedule(45, 8)
    for twenty in (schedule(20, 3), schedule(40, 3)[20:]):
        assert {kind: twenty.count(kind) for kind in KINDS} == {kind: share for kind, (_, share) in KINDS.items()}
