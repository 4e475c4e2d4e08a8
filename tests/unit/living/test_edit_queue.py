"""The queue of edits: states, refusals, deletion, replacement."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from onceedit_ray.errors import ConfigError, ConflictError, ModelError, NotPossibleError, QueueFullError, UnknownIdError
from tests.small_queue import FIRST, SECOND, THIRD, added, batch_in, edit_in, system, version_of

# --- from queued to live ---------------------------------------------------------------------------------------------


async def test_an_edit_is_queued_at_once_and_goes_live_with_its_report(tmp_path: Path) -> None:
    here = system(tmp_path)
    batch = await here.living.submit([SECOND])
    assert (batch.status, batch.progress, batch.version, batch.report) == ("queued", 0.0, None, None)
    assert [edit.status for edit in batch.data] == ["queued"] and here.targets() == ["Lyon"]
    await here.settled()
    found = batch_in(await here.living.found(batch.id))
    assert (found.status, found.progress, found.reason) == ("live", 1.0, None)
    assert found.report == {"learnt": 1.0} and found.version == here.loader.live
    edit = edit_in(await here.living.found(found.data[0].id))
    assert (edit.status, edit.version, edit.prompt) == ("live", here.loader.live, SECOND.prompt)
    assert here.targets() == ["Lyon", "Marie Curie"]


async def test_progress_is_seen_while_a_version_is_made(tmp_path: Path) -> None:
    here = system(tmp_path)
    here.maker.held = asyncio.Event()
    batch = await here.living.submit([SECOND])
    running = asyncio.ensure_future(here.living.run())
    while not here.maker.made:
        await asyncio.sleep(0.001)
    found = batch_in(await here.living.found(batch.id))
    assert (found.status, found.data[0].status) == ("training", "training")
    assert 0 < found.progress < 0.8 and found.data[0].progress == found.progress
    here.maker.held.set()
    running.cancel()


async def test_the_edits_of_a_version_made_elsewhere_are_listed(tmp_path: Path) -> None:
    here = system(tmp_path, [FIRST, SECOND])
    edits = (await here.living.edits()).data
    assert [(edit.target_new, edit.status, edit.version) for edit in edits] == [
        ("Marie Curie", "live", here.loader.live),
        ("Lyon", "live", here.loader.live),
    ]
    assert [edit.id for edit in (await here.restarted().living.edits()).data] == [edit.id for edit in edits]


@pytest.mark.parametrize(("adding", "parents"), [("continue", True), ("base", False)])
async def test_adding_goes_on_from_the_live_version_or_begins_at_the_base(
    tmp_path: Path, adding: str, parents: bool
) -> None:
    here = system(tmp_path, adding=adding)
    first = here.loader.live
    await added(here, SECOND)
    assert here.maker.made == [(["Lyon", "Marie Curie"], first if parents else None, ["Marie Curie"])]
    assert [version.parent for version in await here.living.versions()] == [first if parents else None, None]


async def test_batches_that_wait_together_are_made_together(tmp_path: Path) -> None:
    here = system(tmp_path)
    first, second = await here.living.submit([SECOND]), await here.living.submit([THIRD])
    await here.settled()
    assert [made[2] for made in here.maker.made] == [["Marie Curie", "Peru"]]
    for batch in (first, second):
        assert batch_in(await here.living.found(batch.id)).status == "live"


async def test_no_more_are_made_together_than_the_settings_say(tmp_path: Path) -> None:
    here = system(tmp_path, join=1)
    await here.living.submit([SECOND])
    await here.living.submit([THIRD])
    await here.settled()
    assert [made[2] for made in here.maker.made] == [["Marie Curie"], ["Peru"]]


async def test_what_is_known_already_is_not_made_again(tmp_path: Path) -> None:
    here = system(tmp_path)
    before = here.loader.live
    batch = await added(here, FIRST)
    assert (batch.status, here.maker.made, here.loader.live) == ("live", [], before)


async def test_an_edit_asked_for_twice_is_deleted_with_its_double(tmp_path: Path) -> None:
    here = system(tmp_path)
    first, second = await added(here, SECOND), await added(here, SECOND)
    assert [made[2] for made in here.maker.made] == [["Marie Curie"]] and second.status == "live"
    await here.living.remove(first.id)
    await here.settled()
    double = edit_in(await here.living.found(second.data[0].id))
    assert double.status == "deleted" and "another id" in (double.reason or "") and here.targets() == ["Lyon"]


# --- refused ---------------------------------------------------------------------------------------------------------


async def test_a_refused_batch_keeps_its_report_and_the_live_version_stays(tmp_path: Path) -> None:
    here = system(tmp_path)
    before = here.loader.live
    here.maker.refused["Peru"] = "locality 0.100, below 0.95"
    batch = await added(here, THIRD)
    assert (batch.status, batch.reason, batch.report) == ("refused", "locality 0.100, below 0.95", {"learnt": 1.0})
    assert batch.data[0].status == "refused" and here.loader.live == before and here.targets() == ["Lyon"]
    assert (await added(here, SECOND)).status == "live", "the next batch is not held up"
    assert here.targets() == ["Lyon", "Marie Curie"]


async def test_one_bad_batch_does_not_take_another_down(tmp_path: Path) -> None:
    here = system(tmp_path)
    here.maker.refused["Peru"] = "not learnt"
    good, bad = await here.living.submit([SECOND]), await here.living.submit([THIRD])
    await here.settled()
    states = [batch_in(await here.living.found(batch.id)).status for batch in (good, bad)]
    assert states == ["live", "refused"] and here.targets() == ["Lyon", "Marie Curie"]


@pytest.mark.parametrize(
    ("error", "said"),
    [(ModelError("no memory; take a smaller one"), "no memory"), (KeyError("x"), "in the server's log")],
)
async def test_an_error_refuses_the_batch_and_the_queue_goes_on(tmp_path: Path, error: Exception, said: str) -> None:
    here = system(tmp_path)
    here.maker.fails = error
    batch = await added(here, SECOND)
    assert batch.status == "refused" and said in (batch.reason or "")
    assert (await added(here, THIRD)).status == "live"


async def test_a_version_that_cannot_be_loaded_does_not_become_active(tmp_path: Path) -> None:
    here = system(tmp_path)
    before = here.loader.live
    here.loader.fails = ConfigError("no node has room")
    batch = await added(here, SECOND)
    assert (batch.status, batch.reason) == ("refused", "no node has room")
    assert here.store.active_id() == here.loader.live == before and here.targets() == ["Lyon"]


async def test_contradictory_edits_in_one_call_are_refused(tmp_path: Path) -> None:
    here = system(tmp_path)
    other = SECOND.model_copy(update={"target_new": "Homer"})
    with pytest.raises(ConflictError):
        await here.living.submit([SECOND, other])
    assert [edit.target_new for edit in (await here.living.edits()).data] == ["Lyon"]


# --- replaced and deleted --------------------------------------------------------------------------------------------


async def test_another_answer_to_a_live_prompt_replaces_it(tmp_path: Path) -> None:
    here = system(tmp_path)
    (old,) = (await here.living.edits()).data
    other = FIRST.model_copy(update={"prompt": f"  {FIRST.prompt} ", "target_new": "Nice"})
    batch = await added(here, other)
    (new,) = batch.data
    assert (new.status, new.replaces) == ("live", (old.id,)) and here.targets() == ["Nice"]
    gone = edit_in(await here.living.found(old.id))
    assert gone.status == "deleted" and new.id in (gone.reason or "")


async def test_a_deleted_edit_is_forgotten_by_a_version_made_from_the_base(tmp_path: Path) -> None:
    here = system(tmp_path)
    first = here.loader.live
    batch = await added(here, SECOND)
    removed = edit_in(await here.living.remove(batch.data[0].id))
    assert removed.status == "deleting" and here.loader.live != first
    await here.settled()
    found = edit_in(await here.living.found(removed.id))
    assert (found.status, found.reason) == ("deleted", None) and here.targets() == ["Lyon"]
    assert here.maker.made[-1] == (["Lyon"], None, []), "from the base, and nothing counts as new"
    assert here.loader.live == first == version_of([FIRST], None), "the version that never knew it"
    assert batch_in(await here.living.found(batch.id)).status == "deleted"


async def test_a_batch_is_deleted_whole_and_the_last_edit_too(tmp_path: Path) -> None:
    here = system(tmp_path)
    batch = await added(here, SECOND, THIRD)
    assert batch_in(await here.living.remove(batch.id)).status == "deleting"
    await here.settled()
    assert here.targets() == ["Lyon"]
    for edit in (await here.living.edits()).data:
        if edit.status == "live":
            await here.living.remove(edit.id)
    await here.settled()
    assert here.targets() == []


async def test_an_edit_that_waits_is_deleted_without_being_made(tmp_path: Path) -> None:
    here = system(tmp_path)
    batch = await here.living.submit([SECOND])
    assert edit_in(await here.living.remove(batch.data[0].id)).status == "deleted"
    await here.settled()
    assert here.maker.made == [] and here.targets() == ["Lyon"]
    assert batch_in(await here.living.found(batch.id)).status == "deleted"


@pytest.mark.parametrize("silent", [False, True])
async def test_an_edit_deleted_while_it_is_made_is_gone_in_the_end(tmp_path: Path, silent: bool) -> None:
    here = system(tmp_path)
    here.maker.held, here.maker.silent = asyncio.Event(), silent
    batch = await here.living.submit([SECOND, THIRD])
    running = asyncio.ensure_future(here.living.run())
    while not here.maker.made:
        await asyncio.sleep(0.001)
    assert edit_in(await here.living.remove(batch.data[0].id)).status == "deleting"
    here.maker.held.set()
    if silent:  # once across a restart
        running.cancel()
        await asyncio.wait([running])
        here = here.restarted()
    else:
        while len(here.maker.made) < 2:
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.wait([running])
    await here.settled()
    assert here.targets() == ["Lyon", "Peru"]
    assert edit_in(await here.living.found(batch.data[0].id)).status == "deleted"


async def test_a_deletion_that_is_refused_leaves_the_edit_live_and_says_so(tmp_path: Path) -> None:
    here = system(tmp_path, [FIRST, SECOND])
    here.maker.refused["Lyon"] = "reliability of the old edits 0.500, below 0.97"
    (edit, _) = (await here.living.edits()).data
    await here.living.remove(edit.id)
    await here.settled()
    found = edit_in(await here.living.found(edit.id))
    assert found.status == "live" and "could not be deleted: reliability of the old" in (found.reason or "")
    assert here.targets() == ["Lyon", "Marie Curie"]


async def test_what_is_not_there_or_never_was_live_cannot_be_deleted(tmp_path: Path) -> None:
    here = system(tmp_path)
    here.maker.refused["Peru"] = "not learnt"
    batch = await added(here, THIRD)
    with pytest.raises(NotPossibleError, match="never went live"):
        await here.living.remove(batch.id)
    for method in (here.living.remove, here.living.found, here.living.activate):
        with pytest.raises(UnknownIdError):
            await method("edit_0")


async def test_no_more_edits_wait_than_may(tmp_path: Path) -> None:
    here = system(tmp_path, queued=2)
    await here.living.submit([SECOND])
    with pytest.raises(QueueFullError, match="1 edits are queued and 2 may be"):
        await here.living.submit([THIRD, FIRST])
    assert len((await here.living.edits(status="queued")).data) == 1, "a refused call leaves nothing behind"
    await here.living.submit([THIRD, THIRD])  # a repeat is one edit
    await here.settled()
    await here.living.submit([SECOND, THIRD])


async def test_a_full_queue_has_room_when_the_next_version_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = system(tmp_path, queued=1)

    async def wait_of_a_full_queue() -> int:
        with pytest.raises(QueueFullError) as full:
            await here.living.submit([THIRD, FIRST])
        return full.value.retry_after

    assert await wait_of_a_full_queue() == 60, "nothing was made yet"
    await added(here, SECOND)
    assert await wait_of_a_full_queue() == 1, "a version of the stand-in takes no time"
    now = time.monotonic()
    monkeypatch.setattr(here.living, "_seconds", 40.0)
    monkeypatch.setattr(here.living, "_building", True)
    monkeypatch.setattr(here.living, "_begun", now - 10.0)
    assert await wait_of_a_full_queue() in (29, 30), "what the version under way still takes"


async def test_edits_are_listed_in_pages(tmp_path: Path) -> None:
    here = system(tmp_path)
    await here.living.submit([SECOND, THIRD])
    everything = await here.living.edits()
    assert ([edit.prompt for edit in everything.data], everything.has_more) == (
        [THIRD.prompt, SECOND.prompt, FIRST.prompt],
        False,
    )
    seen: list[str] = []
    while True:
        page = await here.living.edits(after=seen[-1] if seen else None, limit=1)
        seen += [edit.id for edit in page.data]
        if not page.has_more:
            break
    assert seen == [edit.id for edit in everything.data]
    queued = await here.living.edits(limit=2, status="queued")
    assert (queued.data, queued.has_more) == (everything.data[:2], False)
    assert (await here.living.edits(after=seen[-1])).data == []
    with pytest.raises(UnknownIdError, match="no edit 'edit_0'"):
        await here.living.edits(after="edit_0")
