"""`benchmarks.chaos` with a few faults: every answer right, every edit kept, every version whole, nothing hung."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

from benchmarks.chaos import KINDS, run, schedule, tables
from benchmarks.small_system import TARGETS, small_run
from tests.ray.served import Shared

ALL = ["coordinator", "trainer", "target or plug-in", "gateway", "coordinator"]
SOME = ["trainer", "gateway", "coordinator"]
"""Models are killed under load in `test_served_faults.py` too."""


@pytest.mark.parametrize(("faults", "clients"), [(SOME, 1), pytest.param(ALL, 3, marks=pytest.mark.exhaustive)])
def test_nothing_is_lost_or_wrong_when_processes_are_killed(
    shared: Shared, tmp_path: Path, faults: list[str], clients: int
) -> None:
    _, pool = small_run(tmp_path)
    found = asyncio.run(run(shared.address, shared.config, pool[:6], faults, clients, seed=1))
    said = tables(found, clients, 1)
    assert [fault.kind for fault in found.faults] == faults, said
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
