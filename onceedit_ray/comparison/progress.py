"""The progress of many tasks in one view: a line for each, with its rate and the time that is left.

Tasks say in words how far they are; "12 of 50" in a line is what the rate is made of. Knows nothing about what runs.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Progress = Callable[[str], None]

SECONDS_BETWEEN_VIEWS = 30.0
_COUNTED = re.compile(r"(\d+) of (\d+)")


@dataclass
class _Task:
    name: str
    line: str = ""
    state: str = "waiting"
    started: float | None = None
    stage: str = ""
    stage_started: float = 0.0
    stage_first: int = 0
    rate: str = ""
    seconds: float = field(default=0.0)


class ProgressView:
    """Shows tasks through `say`, all that run in one block, at most every half minute; what ends is said at once."""

    def __init__(self, say: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._tasks: dict[str, _Task] = {}
        self._shown = -SECONDS_BETWEEN_VIEWS
        self._last: list[str] = []

    def add(self, task: str, name: str) -> None:
        """Take in a task that is to be run."""
        self._tasks[task] = _Task(name)

    def show(self, lines: Mapping[str, str]) -> None:
        """Take in what tasks say now, and show them if it is time."""
        for task, line in lines.items():
            if task in self._tasks:
                self._take(self._tasks[task], line)
        now = self._clock()
        block = self._block()
        if now - self._shown >= SECONDS_BETWEEN_VIEWS and block != self._last:
            self._shown, self._last = now, block
            self._say("\n".join(block))

    def finished(self, task: str) -> None:
        """Say that a task is done."""
        self._end(task, "done")

    def failed(self, task: str, reason: str) -> None:
        """Say that a task failed, and why; the others go on."""
        self._end(task, f"FAILED: {reason}")

    def _end(self, task: str, how: str) -> None:
        ended = self._tasks.pop(task)
        took = f" in {_span(self._clock() - ended.started)}" if ended.started is not None else ""
        self._say(f"{ended.name}: {how}{took}; {len(self._tasks)} left")

    def _take(self, task: _Task, line: str) -> None:
        now = self._clock()
        if task.started is None:
            task.started, task.state = now, "running"
        if line == task.line:
            return
        task.line = line
        counted = _COUNTED.search(line)
        if counted is None:
            task.stage, task.rate = "", ""
            return
        done, total = int(counted[1]), int(counted[2])
        stage = line[: counted.start()]
        if stage != task.stage:
            task.stage, task.stage_started, task.stage_first, task.rate = stage, now, done, ""
        elif done > task.stage_first and now > task.stage_started:
            each = (now - task.stage_started) / (done - task.stage_first)
            task.rate = f"{each:.1f} s each, {_span(each * (total - done))} left"

    def _block(self) -> list[str]:
        running = [task for task in self._tasks.values() if task.state == "running"]
        lines = [f"  {task.name}: {task.line}{f' ({task.rate})' if task.rate else ''}" for task in running]
        return [f"{len(running)} running, {len(self._tasks) - len(running)} waiting", *lines] if lines else []


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
