"""Progress of a task as data, and its display: bars on a terminal, a line every few seconds elsewhere.

A task calls a `Progress` with a line of text, or with a `Count` as often as it wants. This module decides how much of
that is shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0
_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
_LAST_LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


@dataclass(frozen=True)
class Count:
    """Progress of one task.

    what: name of the task; the same in all counts of one task. done, total: numbers of units.
    note: figures of the last unit, for example its loss.
    """

    what: str
    done: int
    total: int
    note: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.done}/{self.total}{f', {self.note}' if self.note else ''}"


Progress = Callable[[str | Count], None]


def silent(update: str | Count) -> None:
    """Shows nothing."""


def without_counts(progress: Progress) -> Progress:
    """`progress` with its lines of text alone, so that no bar is shown."""

    def tell(update: str | Count) -> None:
        if isinstance(update, str):
            progress(update)

    return tell


def counting(what: str, total: int, progress: Progress) -> Callable[[int], None]:
    """A function that takes the number of units done since its last call, and reports the number done in all."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(Count(what, done, total))

    return count


@dataclass
class _Shown:
    """Time and state of a task at its first report, and the time of the last line about it."""

    first: float
    first_done: int
    last: float


class ProgressDisplay:
    """A `Progress` that writes to a stream.

    Args:
        stream: output; None is standard error. every: seconds between two lines about one task, if the stream is not a
            terminal. clock: in seconds.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        every: float = SECONDS_BETWEEN_LINES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own, self._every, self._clock = stream, every, clock
        self._bars: dict[str, tqdm] = {}
        self._shown: dict[str, _Shown] = {}

    @property
    def _stream(self) -> TextIO:
        return self._own or sys.stderr

    def __call__(self, update: str | Count) -> None:
        """Show a line of text at once, and a count if the last one is `every` seconds old."""
        if isinstance(update, str):
            self._write(update)
        elif self._stream.isatty():
            self._draw(update)
        else:
            self._tell(update)

    def close(self) -> None:
        """Leave the bars on the screen and move the cursor below them."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def _write(self, line: str) -> None:
        if self._bars:
            tqdm.write(line, file=self._stream)
        else:
            print(line, file=self._stream, flush=True)

    def _draw(self, count: Count) -> None:
        bar = self._bars.get(count.what)
        if bar is None:
            bar = self._bars[count.what] = tqdm(
                desc=count.what, total=count.total, file=self._stream, dynamic_ncols=True
            )
        bar.total = count.total
        bar.set_postfix_str(count.note, refresh=False)
        bar.update(count.done - bar.n)
        if count.done >= count.total:
            self._bars.pop(count.what).close()

    def _tell(self, count: Count) -> None:
        now = self._clock()
        shown = self._shown.setdefault(count.what, _Shown(now, count.done, now))
        finished = count.done >= count.total
        if finished:
            del self._shown[count.what]
        elif now - shown.last < self._every:
            return
        shown.last = now
        self._write(
            tqdm.format_meter(
                count.done,
                count.total,
                now - shown.first,
                initial=shown.first_done,
                prefix=count.what,
                postfix=count.note,
                bar_format=_LAST_LINE if finished else _LINE,
            )
        )
