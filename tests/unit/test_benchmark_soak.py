"""The soak's reading of memory: thirds, kinds of processes, and kinds that come and go."""

from __future__ import annotations

import os

import psutil

from benchmarks.soak import Memory, kind_of


def test_the_last_third_is_compared_with_the_middle_third() -> None:
    memory = Memory()
    memory.samples["steady"] = [9.0, 9.0, 9.0, 5.0, 6.0, 7.0, 6.0, 6.0, 80.0]
    assert memory.thirds("steady") == (6.0, 6.0), "medians: one high moment counts for nothing"
    memory.samples["growing"] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert memory.thirds("growing") == (3.5, 5.5)
    memory.samples["one"] = [3.0]
    assert memory.thirds("one") == (3.0, 3.0)


def test_every_process_is_read_and_one_that_ran_before_counts_nothing() -> None:
    memory = Memory()
    memory.samples["gone"], memory.taken = [4.0, 4.0], 2
    memory.take()
    own = kind_of(psutil.Process(os.getpid()))
    assert memory.samples["gone"] == [4.0, 4.0, 0.0]
    assert memory.samples[own][:2] == [0.0, 0.0] and memory.samples[own][2] > 1.0
    assert len({len(samples) for samples in memory.samples.values()}) == 1
