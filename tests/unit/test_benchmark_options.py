"""The benchmarks' shared options: where results are written; a short run must not replace the kept ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.options import parse, parser_for
from tests.paths import ROOT

RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ([], RESULTS),
        (["--quick"], RESULTS / "quick"),
        (["--results", "here"], Path("here")),
        (["--quick", "--results", "here"], Path("here")),
        (["--results", str(RESULTS), "--quick"], RESULTS),
    ],
)
def test_where_results_go(arguments: list[str], folder: Path) -> None:
    assert parse(parser_for("name", None, "shorter"), arguments).results == folder


def test_a_benchmark_has_options_of_its_own_beside_the_shared_ones(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_for("name", "What it measures.\n\nMore.", "shorter")
    parser.add_argument("--only")
    options = parse(parser, ["--only", "x", "--config", "run.yaml"])
    assert (options.only, options.quick, options.config) == ("x", False, Path("run.yaml"))
    with pytest.raises(SystemExit):
        parse(parser, ["--help"])
    said = capsys.readouterr().out
    assert "usage: python -m benchmarks.name" in said and "What it measures." in said and "shorter" in said
    assert "More." not in said


def test_what_a_short_run_leaves_is_not_committed() -> None:
    assert "/benchmarks/results/quick/" in (ROOT / ".gitignore").read_text().splitlines()
