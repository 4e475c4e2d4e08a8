"""Rollback to older versions, and a restart at every step of an edit."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.errors import NotPossibleError, StoreError
from onceedit_ray.living.edit_book import EditBook
from tests.small_queue import (
    FIRST,
    SECOND,
    THIRD,
    Halted,
    added,
    batch_in,
    commit,
    edit_in,
    system,
    version_of,
)
from tests.small_versions import EDITS, manifest, weights

# --- versions --------------------------------------------------------------------------------------------------------


async def test_going_back_takes_back_what_was_learnt_since_and_forward_brings_it_again(tmp_path: Path) -> None:
    here = system(tmp_path)
    first = here.loader.live
    batch = await added(here, SECOND)
    second = here.loader.live
    assert (await here.living.activate(first)).active and here.targets() == ["Lyon"]
    gone = edit_in(await here.living.found(batch.data[0].id))
    assert gone.status == "deleted" and first in (gone.reason or "")
    assert [version.active for version in await here.living.versions()] == [False, True]
    await here.living.activate(second)
    assert here.targets() == ["Lyon", "Marie Curie"]
    assert edit_in(await here.living.found(batch.data[0].id)).status == "live"


async def test_a_version_made_while_another_was_activated_is_made_again_from_that_one(tmp_path: Path) -> None:
    here = system(tmp_path)
    first = here.loader.live
    await added(here, SECOND)
    here.maker.held = asyncio.Event()
    await here.living.submit([THIRD])
    running = asyncio.ensure_future(here.living.run())
    while len(here.maker.made) < 2:
        await asyncio.sleep(0.001)
    await here.living.activate(first)
    here.maker.held.set()
    while "Peru" not in [edit.target_new for edit in here.store.get(here.loader.live).edits()]:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    assert here.maker.made[-1] == (["Lyon", "Peru"], first, ["Peru"])
    assert here.targets() == ["Lyon", "Peru"], "the rollback holds"


async def test_a_version_of_another_plug_in_is_not_activated(tmp_path: Path) -> None:
    here = system(tmp_path)
    here.store.commit(manifest("foreign", base_digest="f" * 64, base_model="other"), EDITS, weights)
    with pytest.raises(NotPossibleError, match="other"):
        await here.living.activate("foreign")
    assert "foreign" not in [version.id for version in await here.living.versions()]


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "training", "evaluating"])
async def test_what_was_under_way_is_made_after_a_restart(tmp_path: Path, status: Any) -> None:
    here = system(tmp_path)
    batch = await here.living.submit([SECOND])
    book = EditBook(tmp_path / "edits.json")
    book.set(book.batches[batch.id], status)
    book.save()
    here = here.restarted()
    assert batch_in(await here.living.found(batch.id)).status == "queued"
    await here.settled()
    assert batch_in(await here.living.found(batch.id)).status == "live"
    assert here.targets() == ["Lyon", "Marie Curie"]


@pytest.mark.parametrize("activated", [False, True])
async def test_a_version_committed_before_a_crash_goes_live_after_it(tmp_path: Path, activated: bool) -> None:
    """A crash between the commit and the book: the edits are live, or the version is found and not made again."""

    here = system(tmp_path)
    batch = await here.living.submit([SECOND])
    made = commit(
        here.store, version_of([FIRST, SECOND], here.living.active), [FIRST, SECOND], here.living.active, {"x": 1}
    )
    if activated:
        here.store.activate(made.id)
    here = here.restarted()
    assert batch_in(await here.living.found(batch.id)).status == ("live" if activated else "queued")
    await here.settled()
    assert here.loader.live == made.id and here.targets() == ["Lyon", "Marie Curie"]


async def test_a_crash_while_a_version_is_made_loses_nothing(tmp_path: Path) -> None:
    here = system(tmp_path)
    here.maker.fails = Halted()
    batch = await here.living.submit([SECOND])
    with pytest.raises(Halted):
        await here.settled()
    on_disk = json.loads((tmp_path / "edits.json").read_text())
    assert [kept["status"] for kept in on_disk["batches"]] == ["live", "training"]
    here = here.restarted()
    await here.settled()
    assert batch_in(await here.living.found(batch.id)).status == "live"


async def test_deletions_and_refusals_outlast_a_restart(tmp_path: Path) -> None:
    here = system(tmp_path, [FIRST, SECOND])
    here.maker.refused["Peru"] = "not learnt"
    refused = await added(here, THIRD)
    (edit, _) = (edit for edit in (await here.living.edits()).data if edit.status == "live")
    await here.living.remove(edit.id)
    here = here.restarted()
    assert edit_in(await here.living.found(edit.id)).status == "deleting"
    await here.settled()
    assert edit_in(await here.living.found(edit.id)).status == "deleted"
    found = batch_in(await here.living.found(refused.id))
    assert (found.status, found.reason, found.report) == ("refused", "not learnt", {"learnt": 1.0})


def test_a_book_that_is_none_is_one_line(tmp_path: Path) -> None:
    for content in ("{", '{"edits": [{"id": 1}]}', '{"batches": [], "more": 1}'):
        (tmp_path / "edits.json").write_text(content)
        with pytest.raises(StoreError, match="restore it from a copy") as caught:
            EditBook(tmp_path / "edits.json")
        assert "\n" not in str(caught.value)
