"""Progress as data: a terminal shows bars, other outputs show a line every few seconds."""

from __future__ import annotations

import io

import pytest

from onceedit_ray.progress import Count, ProgressDisplay, without_counts


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def display(stream: io.StringIO) -> tuple[ProgressDisplay, Clock]:
    clock = Clock()
    return ProgressDisplay(stream, 5.0, clock), clock


def test_a_log_gets_a_line_every_few_seconds_with_the_time_that_is_left() -> None:
    log = io.StringIO()
    show, clock = display(log)
    for done in range(101):
        show(Count("scoring", done, 100))
        clock.now += 2.0
    lines = log.getvalue().splitlines()
    assert lines[0] == "scoring: 3/100 [00:06<03:14]"
    assert lines[-1] == "scoring: 100/100 [03:20]"
    assert len(lines) == 34, "every third count, and the last"
    assert "\r" not in log.getvalue()


def test_a_quick_piece_of_work_is_one_line_and_a_later_one_starts_anew() -> None:
    log = io.StringIO()
    show, clock = display(log)
    for _ in range(2):
        for done in (1, 2, 3):
            show(Count("editing", done, 3, f"loss 0.{done}"))
        clock.now += 60
    assert log.getvalue().splitlines() == ["editing: 3/3 [00:00, loss 0.3]"] * 2


def test_each_piece_of_work_has_its_own_time() -> None:
    log = io.StringIO()
    show, clock = display(log)
    show(Count("a", 0, 4))
    clock.now += 6
    show(Count("b", 0, 4))
    show(Count("a", 1, 4))
    assert log.getvalue().splitlines() == ["a: 1/4 [00:06<00:18]"]


def test_a_line_is_shown_as_it_is_and_at_once() -> None:
    log = io.StringIO()
    show, _ = display(log)
    show("loading gemma")
    assert log.getvalue() == "loading gemma\n"


def test_a_terminal_gets_a_bar_and_lines_above_it() -> None:
    screen = Terminal()
    show, _ = display(screen)
    show(Count("scoring", 1, 4))
    show("loading gemma")
    show(Count("scoring", 4, 4, "loss 0.1"))
    shown = screen.getvalue()
    assert "\rscoring:  25%|" in shown and "loading gemma\n" in shown
    assert "4/4" in shown and "loss 0.1" in shown and shown.endswith("\n")


def test_closing_ends_the_bars_that_are_drawn() -> None:
    screen = Terminal()
    show, _ = display(screen)
    show(Count("scoring", 1, 4))
    show.close()
    assert screen.getvalue().endswith("\n")
    show("error: no space")
    assert screen.getvalue().endswith("\nerror: no space\n")


def test_standard_error_is_looked_up_when_it_is_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    show = ProgressDisplay()
    show("one line")
    assert capsys.readouterr().err == "one line\n"


def test_a_count_reads_as_a_line() -> None:
    assert str(Count("scoring", 3, 9)) == "scoring: 3/9"
    assert str(Count("editing", 3, 9, "loss 0.1")) == "editing: 3/9, loss 0.1"


def test_without_counts_only_lines_are_shown() -> None:
    log = io.StringIO()
    show = without_counts(display(log)[0])
    show("downloading m (3 MB)")
    show(Count("downloading m, parts", 1, 1))
    assert log.getvalue() == "downloading m (3 MB)\n"
