"""Files and folders are written completely or not at all, and no temporary files remain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onceedit_ray.errors import StoreError
from onceedit_ray.files import new_folder, remove_leftovers, replacing, staging_name


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["file"]


def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_two_writers_of_one_process_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_what_the_disk_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = r"cannot write .*inside: .*; free space or choose another folder"
    with pytest.raises(StoreError, match=refused), replacing(tmp_path / "file" / "inside") as temporary:
        temporary.write_text("")


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    killed = """
import os, signal, sys
from pathlib import Path
from onceedit_ray.files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for name in ("file", "other"):
        ended = subprocess.run([sys.executable, "-c", killed, str(tmp_path / name)])
        assert ended.returncode == -signal.SIGKILL
    elsewhere = ".staging-file-1@some-other-host"
    (tmp_path / elsewhere).write_text("")
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("whole")
    left = [name for name in names(tmp_path) if name not in ("file", elsewhere)]
    assert [name.startswith(".staging-other-") for name in left] == [True]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [elsewhere, "file"]


def test_another_hosts_leftovers_go_after_a_day(tmp_path: Path) -> None:
    old = tmp_path / ".staging-file-1@some-other-host"
    old.write_text("")
    os.utime(old, (0, 0))
    (tmp_path / staging_name("file")).mkdir()  # of this process, which is not writing it
    (tmp_path / ".staging-odd").write_text("")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".staging-odd"]


@pytest.mark.parametrize(("whole", "kept"), [(True, "quicker"), (False, "new")])
def test_a_folder_that_was_made_meanwhile_stays_if_it_is_whole(tmp_path: Path, whole: bool, kept: str) -> None:
    target = tmp_path / "folder"
    with new_folder(target, lambda path: whole) as folder:
        (folder / "file").write_text("new")
        target.mkdir()
        (target / "file").write_text("quicker")
    assert (target / "file").read_text() == kept
    assert names(tmp_path) == ["folder"]
