"""Archives of cells: written and read back; the committed tables equal those made from the committed archives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from onceedit_ray.cli import main
from onceedit_ray.comparison import grid_figure
from onceedit_ray.comparison.cell_archive import ARCHIVE, placed_cells, read_archive, unpack, write_archive
from onceedit_ray.comparison.cell_store import CellStore
from onceedit_ray.comparison.grid_config import load_grid
from onceedit_ray.errors import DataError
from tests.paths import ROOT

ARCHIVES = sorted((ROOT / "docs" / "results").glob(f"*/{ARCHIVE}"))


def test_a_cell_is_unpacked_whole_and_packed_again(tmp_path: Path) -> None:
    """Scores, settings and records of every cell of two data sets; a cell that is there already is left alone."""
    source = ROOT / "docs/results/paper_table8" / ARCHIVE
    archived, store = read_archive(source), CellStore(tmp_path)
    assert len(archived) == 24 and all(each.records for each in archived)
    own = replace(archived[0].result, machine="another")
    store.commit(own, [])
    unpack(archived, store)
    assert store.get(own.id) == own
    assert [store.get(each.result.id) for each in archived[1:]] == [each.result for each in archived[1:]]
    assert store.records(archived[1].result.id) == list(archived[1].records)
    cells, results = placed_cells(load_grid(ROOT / "configs/paper_table8.yaml", "small"), archived[1:])
    write_archive(tmp_path / ARCHIVE, cells, results, store)
    assert read_archive(tmp_path / ARCHIVE) == archived[1:]
    write_archive(tmp_path / "none.parquet", cells, {}, store)
    assert not (tmp_path / "none.parquet").exists()


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.parent.name)
def test_a_committed_table_is_what_the_command_makes_of_its_cells(archive: Path, tmp_path: Path) -> None:
    grid, committed = archive.parent.name, archive.parent
    config = Path("configs", f"{grid}.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(grid_figure, "draw_panels", lambda *panels: None)  # it takes most of the time and is not compared
        chosen = ["--config", str(config), "--scale", "small", "--at-once", "0", "--results", str(tmp_path)]
        assert main(["compare", *chosen, "--cells", str(archive)]) == 0
    made = tmp_path / grid
    assert (made / "report.md").read_text(encoding="utf-8") == (committed / "report.md").read_text(encoding="utf-8")
    assert pq.read_table(made / "table.parquet").equals(pq.read_table(committed / "table.parquet"))


def test_every_comparison_has_its_cells() -> None:
    tables = {path.parent.name for path in (ROOT / "docs" / "results").glob("*/table.parquet")}
    assert tables == {path.parent.name for path in ARCHIVES} and len(tables) >= 6


def test_what_is_no_archive_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=r"no such file; name a cells\.parquet"):
        read_archive(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="not the cells of a comparison"):
        read_archive(ROOT / "configs/paper_table1.yaml")
    with pytest.raises(DataError, match="not the cells of a comparison"):
        read_archive(ROOT / "docs/results/paper_table1/table.parquet")
    arguments = ["--config", str(ROOT / "configs/paper_table1.yaml"), "--at-once", "0", "--results", str(tmp_path)]
    assert main(["compare", *arguments, "--cells", str(ROOT / "docs/results/paper_table8" / ARCHIVE)]) == 2
    assert "has no cell of paper_table1" in capsys.readouterr().err
