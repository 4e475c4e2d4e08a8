"""Facts of a served plug-in: live when the call returns, exactly gone when deleted, the same after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.config import LivingConfig
from onceedit_ray.errors import (
    ConflictError,
    ModelError,
    NotPossibleError,
    RefusedError,
    StoreError,
    UnknownIdError,
)
from onceedit_ray.evaluation.acceptance import Judgement
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.manifest import Manifest
from onceedit_ray.knowledge.revision import Change
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.edit_views import BatchView, EditView
from onceedit_ray.living.live_facts import LiveFacts
from tests.small_queue import FIRST, SECOND, THIRD, batch_in, edit_in
from tests.small_versions import manifest as trained
from tests.small_versions import weights

READER, BASE = "r" * 64, "b" * 64


def commit(store: KnowledgeStore, id: str, edits: Sequence[Edit], reader: str = READER, base: str = BASE) -> Version:
    """A version in a folder, as `onceedit edit` makes it."""
    manifest = Manifest(
        id=id, base_model="small", base_digest=base, editor="reader", settings={"editor": "reader", "reader": reader},
        seed=0, data_hash=data_hash(edits), edits=len(edits), seconds=0.0,
    )  # fmt: skip
    return store.commit(manifest, edits, lambda folder: None)


@dataclass
class FakeReader:
    """Reads facts without a model. refused: reason by the new answer of an edit. fails: raised by the next change."""

    facts: FactsAt
    version: str
    refused: dict[str, str] = field(default_factory=dict)
    judged: list[list[str]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    fails: Exception | None = None

    async def judge(self, new: Sequence[Edit], bounds: LivingConfig) -> Judgement:
        self.judged.append([edit.target_new for edit in new])
        reason = next((self.refused[edit.target_new] for edit in new if edit.target_new in self.refused), None)
        await asyncio.sleep(0)
        return Judgement({"learnt": 1.0}, reason)

    async def take(self, change: Change, version: str) -> None:
        if self.fails is not None:
            raise self.fails
        before, self.facts, self.version = self.facts, self.facts.after(change), version
        before.leave()
        self.changes.append(change)

    def answers(self, edit: Edit) -> list[str]:
        return [found.edit.target_new for found in self.facts.find(edit.prompt)]


@dataclass
class Served:
    store: KnowledgeStore
    living: LiveFacts
    reader: FakeReader

    def restarted(self) -> Served:
        return served(Path(self.store.root))


def served(root: Path, initial: Sequence[Edit] = (FIRST,)) -> Served:
    """What a server does at its start, over what lies in `root`."""
    store = KnowledgeStore(root)
    active = store.active()
    if active is None:
        commit(store, "run-0", initial)
        active = store.activate("run-0")
    facts = store.facts()
    active = store.take_up(active, facts).load()
    reader = FakeReader(FactsAt.of(active.stored()), active.id)
    return Served(store, LiveFacts(store, facts, active, LivingConfig(), reader), reader)


@pytest.fixture
def here(tmp_path: Path) -> Served:
    return served(tmp_path / "knowledge")


async def added(of: Served, *edits: Edit) -> tuple[BatchView, list[EditView]]:
    batch = await of.living.submit(edits)
    return batch, list(batch.data)


def live(of: Served) -> list[str]:
    """The new answers that are live: by the store, and by the plug-in that answers."""
    version = of.store.active()
    assert version is not None and version.id == of.living.active.id == of.reader.version
    answers = sorted(edit.target_new for edit in version.edits())
    assert len(of.reader.facts) == len(answers) == version.manifest.edits
    return answers


# --- adding ----------------------------------------------------------------------------------------------------------


def test_an_edit_is_live_when_the_call_returns(here: Served) -> None:
    async def check() -> None:
        batch, (edit,) = await added(here, SECOND)
        assert (batch.status, batch.progress, batch.version, batch.report) == ("live", 1.0, "run-0.r2", {"learnt": 1.0})
        assert (edit.status, edit.batch, edit.version, edit.replaces) == ("live", batch.id, "run-0.r2", ())
        assert here.reader.answers(SECOND) == ["Marie Curie"] and live(here) == ["Lyon", "Marie Curie"]
        assert await here.living.found(edit.id) == edit and await here.living.found(batch.id) == batch
        (change,) = here.reader.changes
        assert [each.id for each in change.added] == [edit.id] and not change.dropped, "only what changed is sent"

    asyncio.run(check())


def test_an_edit_that_contradicts_a_live_one_replaces_it_and_says_so(here: Served) -> None:
    async def check() -> None:
        (old,) = (await here.living.edits()).data
        _, (new,) = await added(
            here, Edit(prompt="what is  the capital of FRANCE?", target_new="Nice", subject="France")
        )
        assert new.replaces == (old.id,) and live(here) == ["Nice"]
        gone = edit_in(await here.living.found(old.id))
        assert (
            gone.status == "deleted" and gone.reason == f"replaced by {new.id}, which gives its prompt another answer"
        )

    asyncio.run(check())


def test_what_is_live_already_is_kept_and_not_judged(here: Served) -> None:
    async def check() -> None:
        batch, (edit,) = await added(here, FIRST)
        assert (batch.status, edit.version, here.reader.judged) == ("live", "run-0", [])
        batch, edits = await added(here, SECOND, FIRST)
        assert [each.target_new for each in edits] == ["Marie Curie", "Lyon"] and here.reader.judged == [
            ["Marie Curie"]
        ]
        assert live(here) == ["Lyon", "Marie Curie"] and batch.version == "run-0.r2"

    asyncio.run(check())


def test_a_refused_call_changes_nothing(here: Served) -> None:
    async def check() -> None:
        here.reader.refused["Peru"] = "the gate opens for 1.00 of other requests"
        with pytest.raises(RefusedError, match=r"not made live: the gate opens for 1\.00"):
            await here.living.submit([SECOND, THIRD])
        with pytest.raises(ConflictError):
            await here.living.submit([SECOND, SECOND.model_copy(update={"target_new": "another"})])
        assert live(here) == ["Lyon"] and here.reader.changes == []

    asyncio.run(check())


def test_calls_at_once_are_all_live(here: Served) -> None:
    async def check() -> None:
        edits = [Edit(prompt=f"Who is number {number}?", target_new=f"N{number}") for number in range(20)]
        batches = await asyncio.gather(*(here.living.submit([edit]) for edit in edits))
        assert len({batch.id for batch in batches}) == 20
        assert live(here) == sorted(["Lyon", *(edit.target_new for edit in edits)])

    asyncio.run(check())


def test_a_thousand_edits_in_one_call_are_one_version(here: Served) -> None:
    async def check() -> None:
        edits = [Edit(prompt=f"Who is number {number}?", target_new=f"N{number}") for number in range(1000)]
        batch, views = await added(here, *edits)
        assert [view.target_new for view in views] == [edit.target_new for edit in edits]
        assert batch.version == "run-0.r2" and len(live(here)) == 1001 and len(here.reader.changes) == 1

    asyncio.run(check())


def test_a_caller_that_leaves_leaves_store_and_requests_alike(here: Served) -> None:
    async def check() -> None:
        running = asyncio.ensure_future(here.living.submit([SECOND]))
        while not here.reader.judged:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await here.living.submit([THIRD])  # waits for its turn
        assert live(here) == ["Lyon", "Marie Curie", "Peru"]

    asyncio.run(check())


# --- deleting and going back -----------------------------------------------------------------------------------------


def test_deleting_is_exact(here: Served) -> None:
    async def check() -> None:
        before = here.reader.facts.find(SECOND.prompt)
        batch, (edit,) = await added(here, SECOND)
        removed = edit_in(await here.living.remove(edit.id))
        assert (removed.status, removed.reason) == ("deleted", None) and live(here) == ["Lyon"]
        assert here.reader.facts.find(SECOND.prompt) == before
        assert edit.id not in here.reader.facts.index, "nothing of it is left in the index"
        assert edit_in(await here.living.remove(edit.id)).status == "deleted", "deleting twice does no more"
        assert batch_in(await here.living.found(batch.id)).status == "deleted"
        for id in ("edit_0", "batch_99", "batch_x", "batch_"):
            with pytest.raises(UnknownIdError):
                await here.living.remove(id)

    asyncio.run(check())


def test_a_batch_is_deleted_as_a_whole(here: Served) -> None:
    async def check() -> None:
        batch, _ = await added(here, SECOND, THIRD)
        assert batch_in(await here.living.remove(batch.id)).status == "deleted"
        assert live(here) == ["Lyon"]

    asyncio.run(check())


def test_going_back_and_forth(here: Served) -> None:
    async def check() -> None:
        _, (second,) = await added(here, SECOND)
        await added(here, FIRST.model_copy(update={"target_new": "Nice"}))
        back = await here.living.activate("run-0.r2")
        assert (back.id, back.active, back.edits) == ("run-0.r2", True, 2) and live(here) == ["Lyon", "Marie Curie"]
        assert (await here.living.activate("run-0")).id == "run-0" and live(here) == ["Lyon"]
        gone = edit_in(await here.living.found(second.id))
        assert gone.status == "deleted" and gone.reason == "not known to version run-0, which was activated"
        await here.living.activate("run-0.r3")
        assert live(here) == ["Marie Curie", "Nice"]
        assert edit_in(await here.living.found(second.id)).status == "live", "under its id"
        versions = await here.living.versions()
        assert [(each.id, each.active) for each in versions] == [
            ("run-0.r3", True), ("run-0.r2", False), ("run-0", False)
        ]  # fmt: skip
        assert [each.id for each in await here.living.versions(1)] == ["run-0.r3"]
        assert [edit.prompt for edit in (await here.living.version("run-0.r2")).data] == [FIRST.prompt, SECOND.prompt]
        for id in ("run-0", "run-0.r2", "run-0.r3"):  # the line's first, a step of the fact store, the one that answers
            with pytest.raises(NotPossibleError, match=id):
                await here.living.remove_version(id)
        with pytest.raises(UnknownIdError):
            await here.living.activate("run-0.r9")

    asyncio.run(check())


def test_a_version_of_a_run_file_takes_the_place_of_all_edits(here: Served) -> None:
    async def check() -> None:
        await added(here, SECOND)
        commit(here.store, "run-1", [FIRST, THIRD])
        assert (await here.living.activate("run-1")).id == "run-1" and live(here) == ["Lyon", "Peru"]
        assert (await added(here, SECOND))[0].version == "run-1.r4"
        await here.living.activate("run-0")
        assert live(here) == ["Lyon"]

    asyncio.run(check())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda store: commit(store, "other", [FIRST], base="c" * 64), "made from another plug-in"),
        (lambda store: commit(store, "other", [FIRST], reader="s" * 64), "belongs to another reader"),
        (
            lambda store: store.commit(
                trained("other", base_digest=BASE, data_hash=data_hash([FIRST]), edits=1), [FIRST], weights
            ),
            "was trained on its edits",
        ),
    ],
)
def test_a_version_that_this_plug_in_cannot_read_is_refused(
    here: Served, make: Callable[[KnowledgeStore], Any], said: str
) -> None:
    make(here.store)
    with pytest.raises(NotPossibleError, match=said):
        asyncio.run(here.living.activate("other"))
    assert live(here) == ["Lyon"]


# --- lists -----------------------------------------------------------------------------------------------------------


def test_edits_are_listed_by_page_and_by_state(here: Served) -> None:
    async def check() -> None:
        _, (second, third) = await added(here, SECOND, THIRD)
        await here.living.remove(second.id)
        (first,) = [edit for edit in (await here.living.edits()).data if edit.target_new == "Lyon"]
        page = await here.living.edits(limit=2)
        assert [edit.id for edit in page.data] == [third.id, second.id] and page.has_more
        page = await here.living.edits(after=second.id, limit=2)
        assert [edit.id for edit in page.data] == [first.id] and not page.has_more
        assert [edit.id for edit in (await here.living.edits(status="live")).data] == [third.id, first.id]
        assert [edit.id for edit in (await here.living.edits(status="deleted")).data] == [second.id]
        assert (await here.living.edits(status="training")).data == []
        with pytest.raises(UnknownIdError):
            await here.living.edits(after="edit_0")

    asyncio.run(check())


# --- restarts and other writers --------------------------------------------------------------------------------------


def test_everything_is_there_after_a_restart(here: Served) -> None:
    async def check() -> None:
        await added(here, SECOND)
        await here.living.remove((await here.living.edits()).data[-1].id)
        listed = (await here.living.edits()).data
        again = here.restarted()
        assert live(again) == ["Marie Curie"] and again.living.active.id == "run-0.r3"
        assert (await again.living.edits()).data == listed
        assert (await added(again, THIRD))[0].version == "run-0.r4" and live(again) == ["Marie Curie", "Peru"]

    asyncio.run(check())


def test_a_plug_in_that_died_after_the_commit_answers_with_the_edit_after_its_restart(here: Served) -> None:
    async def check() -> None:
        here.reader.fails = ModelError("the coordinator is gone")
        with pytest.raises(ModelError):
            await here.living.submit([SECOND])
        assert live(here.restarted()) == ["Lyon", "Marie Curie"]

    asyncio.run(check())


def test_what_another_process_writes_is_taken_up(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onceedit_ray.living.live_facts.LOOK_SECONDS", 0.01)

    async def check() -> None:
        other = here.restarted()
        await added(other, SECOND)
        await added(here, THIRD)
        assert live(here) == ["Lyon", "Marie Curie", "Peru"]
        running = asyncio.ensure_future(other.living.run())
        while other.living.active.id != here.living.active.id:
            await asyncio.sleep(0.01)
        running.cancel()
        assert live(other) == live(here)

    asyncio.run(check())


def test_what_another_plug_in_wrote_is_not_read(here: Served) -> None:
    async def check() -> None:
        commit(here.store, "other", [SECOND], reader="s" * 64)
        with here.store.facts() as facts:
            facts.put([SECOND], "other")
        with pytest.raises(StoreError, match=r"another process wrote to the fact store: version other\.r3"):
            await here.living.submit([THIRD])

    asyncio.run(check())


def test_a_version_activated_outside_gives_way_to_the_next_edit(here: Served) -> None:
    """As `onceedit edit` does while a server runs."""

    async def check() -> None:
        commit(here.store, "run-1", [THIRD])
        here.store.activate("run-1")
        await added(here, SECOND)
        assert live(here) == ["Lyon", "Marie Curie"]

    asyncio.run(check())
