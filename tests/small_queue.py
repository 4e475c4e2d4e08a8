"""Living knowledge without models: a fake maker whose versions get given scores, and a fake loader."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onceedit_ray.config import LivingConfig
from onceedit_ray.errors import OnceEditError, ProcessLostError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.build_version import BuiltVersion, Report
from onceedit_ray.living.edit_book import EditBook
from onceedit_ray.living.edit_queue import EditQueue, Switch
from onceedit_ray.living.edit_views import BatchView, EditView
from tests.small_versions import manifest, weights

FIRST = Edit(prompt="What is the capital of France?", target_new="Lyon", subject="France")
SECOND = Edit(prompt="Who wrote War and Peace?", target_new="Marie Curie")
THIRD = Edit(prompt="The river Nile flows through", target_new="Peru")


class Halted(BaseException):
    """Ends the process, as a crash would."""


@dataclass
class FakeMaker:
    """Commits versions without training any.

    refused: reason by the target of an edit that spoils a version. held: a version waits for it before it is made.
    silent: no progress is reported before that, as if the cluster had no room yet. fails: raised by the next
    making. deaths: how often the building process dies. made: the requested versions: edits, parent and new edits.
    """

    store: KnowledgeStore
    refused: dict[str, str] = field(default_factory=dict)
    held: asyncio.Event | None = None
    silent: bool = False
    fails: BaseException | None = None
    deaths: int = 0
    made: list[tuple[list[str], str | None, list[str]]] = field(default_factory=list)

    async def make(
        self, edits: Sequence[Edit], parent: Version | None, new: Sequence[Edit], report: Report
    ) -> BuiltVersion:
        self.made.append(([e.target_new for e in edits], parent.id if parent else None, [e.target_new for e in new]))
        if not self.silent:
            report("training", 0.5)
        if self.held is not None:
            await self.held.wait()
        if self.fails is not None:
            fails, self.fails = self.fails, None
            raise fails
        if self.deaths:
            self.deaths -= 1
            raise ProcessLostError("the process that makes versions died")
        report("evaluating", 0.5)
        id = version_of(edits, parent)
        figures = {"learnt": 1.0}
        spoilt = next((reason for target, reason in self.refused.items() if target in self.made[-1][0]), None)
        if spoilt is None and id not in {version.id for version in self.store.versions()}:
            commit(self.store, id, edits, parent, figures)
        return BuiltVersion(id, figures, spoilt)


@dataclass
class FakeLoader:
    """live: the version that answers. fails: raised instead of loading one. deaths: how often a process dies."""

    live: str = ""
    fails: OnceEditError | None = None
    deaths: int = 0

    async def load(self, version: Version) -> Switch:
        if self.fails is not None:
            raise self.fails
        if self.deaths:
            self.deaths -= 1
            raise ProcessLostError("a coordinator died")

        async def switch() -> None:
            self.live = version.id

        return switch


def version_of(edits: Sequence[Edit], parent: Version | None) -> str:
    return f"v-{data_hash(edits)[:8]}{'-' + parent.id[-4:] if parent else ''}"


def commit(
    store: KnowledgeStore, id: str, edits: Sequence[Edit], parent: Version | None = None, report: Any = None
) -> Version:
    return store.commit(
        manifest(
            id, data_hash=data_hash(edits), edits=len(edits), parents=[parent.id] if parent else [], report=report or {}
        ),
        edits,
        weights,
    )


@dataclass
class System:
    """A living knowledge over a folder; `restarted` opens the folder again."""

    folder: Path
    living: EditQueue
    maker: FakeMaker
    loader: FakeLoader
    store: KnowledgeStore

    def restarted(self, **config: Any) -> System:
        return system(self.folder, **config)

    async def settled(self) -> None:
        """Run the queue until nothing waits and nothing is made."""
        running = asyncio.ensure_future(self.living.run())
        try:
            for _ in range(2000):
                if running.done() or self.living.is_idle:
                    break
                await asyncio.sleep(0.005)
            else:
                raise AssertionError("the queue does not come to an end")
        finally:
            running.cancel()
            await asyncio.wait([running])
        if not running.cancelled() and running.exception() is not None:
            raise running.exception() or AssertionError

    def targets(self) -> list[str]:
        """The new answers that are live by the book, and by the version that answers."""
        live = sorted(record.edit.target_new for record in EditBook(self.folder / "edits.json").live())
        known = sorted(edit.target_new for edit in self.store.get(self.loader.live).edits())
        assert live == known, "the book says what the plug-in knows"
        assert self.store.active_id() == self.loader.live == self.living.active.id
        return live


def system(folder: Path, initial: Sequence[Edit] = (FIRST,), **config: Any) -> System:
    """Begin with a version that knows `initial`, or with the active one of the folder."""
    store = KnowledgeStore(folder / "knowledge")
    active = store.active()
    if active is None:
        commit(store, version_of(initial, None), initial)
        active = store.activate(version_of(initial, None))
    maker, loader = FakeMaker(store), FakeLoader(active.id)
    book = EditBook(folder / "edits.json")
    return System(folder, EditQueue(book, store, active, LivingConfig(**config), maker, loader), maker, loader, store)


def edit_in(view: EditView | BatchView) -> EditView:
    assert isinstance(view, EditView)
    return view


def batch_in(view: EditView | BatchView) -> BatchView:
    assert isinstance(view, BatchView)
    return view


async def added(of: System, *edits: Edit) -> BatchView:
    """Submit edits, wait until the queue is empty, and return the batch."""
    batch = await of.living.submit(edits)
    await of.settled()
    return batch_in(await of.living.found(batch.id))
