"""One view of many tasks: a line for each, its rate and what is left; ends and failures at once."""

from __future__ import annotations

from onceedit_ray.comparison.progress import SECONDS_BETWEEN_VIEWS, ProgressView


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def view() -> tuple[ProgressView, list[str], Clock]:
    said: list[str] = []
    clock = Clock()
    shown = ProgressView(said.append, clock)
    shown.add("a", "FT-L · gemma")
    shown.add("b", "ROME · gemma")
    return shown, said, clock


def test_a_line_for_each_task_that_runs_with_rate_and_remaining_time() -> None:
    shown, said, clock = view()
    shown.show({"a": "edit 10 of 50"})
    clock.now += 60
    shown.show({"a": "edit 30 of 50", "other": "not ours"})
    assert said[0] == "1 running, 1 waiting\n  FT-L · gemma: edit 10 of 50"
    assert said[1] == "1 running, 1 waiting\n  FT-L · gemma: edit 30 of 50 (3.0 s each, 1 min 00 s left)"


def test_the_rate_is_of_the_stage_that_runs() -> None:
    shown, said, clock = view()
    shown.show({"a": "edit 1 of 2"})
    clock.now += 3600
    shown.show({"a": "scoring 1 of 9"})
    clock.now += 60
    shown.show({"a": "scoring 3 of 9"})
    assert said[1].endswith("scoring 1 of 9") and said[2].endswith("scoring 3 of 9 (30.0 s each, 3 min 00 s left)")
    clock.now += 60
    shown.show({"a": "putting things away"})
    assert said[3].endswith("putting things away")


def test_views_are_neither_too_many_nor_repeated() -> None:
    shown, said, clock = view()
    for step in range(10):
        shown.show({"a": f"edit {step} of 50"})
    assert len(said) == 1
    clock.now += SECONDS_BETWEEN_VIEWS
    shown.show({"a": "edit 9 of 50"})
    clock.now += SECONDS_BETWEEN_VIEWS
    shown.show({"a": "edit 9 of 50"})
    assert len(said) == 2, "nothing new is not said twice"


def test_an_end_and_a_failure_are_said_at_once() -> None:
    shown, said, clock = view()
    shown.show({"a": "edit 1 of 2"})
    clock.now += 7300
    shown.finished("a")
    shown.failed("b", "the corpus is too short")
    assert said[1:] == [
        "FT-L · gemma: done in 2 h 01 min; 1 left",
        "ROME · gemma: FAILED: the corpus is too short; 0 left",
    ]
