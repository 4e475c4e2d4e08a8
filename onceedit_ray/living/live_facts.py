"""Living knowledge of a plug-in that reads facts: an edit is live when the call that made it returns.

    select → judge the new facts → one transaction of the fact store → new requests use the facts

The fact store is the only record: an edit is live from its transaction on, and a process that starts reads it from
there. If another process writes to the same store, its changes are taken up too. Everything here costs what the edits
of the call cost, however many are live.

This file uses neither Ray nor models: a `FactReader` judges facts and lets requests use them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from onceedit_ray.config import LivingConfig
from onceedit_ray.errors import NotPossibleError, OnceEditError, RefusedError, StoreError, UnknownIdError
from onceedit_ray.evaluation.acceptance import Judgement
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_store import FactStore
from onceedit_ray.knowledge.revision import Change, EditHistory, Revision, StoredEdit
from onceedit_ray.knowledge.selection import question_key, select
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.edit_book import Status
from onceedit_ray.living.edit_views import BatchView, EditList, EditView, VersionView, version_view
from onceedit_ray.living.fact_views import batch_number, batch_of, edit_of
from onceedit_ray.living.stored_versions import StoredVersions

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
"""Seconds between two checks whether another process has changed the store; a check is one small read."""

T = TypeVar("T")


class FactReader(Protocol):
    """The plug-in that answers, as it reads facts."""

    async def judge(self, new: Sequence[Edit], bounds: LivingConfig) -> Judgement:
        """As `judge_facts.judge_facts`."""

    async def take(self, change: Change, version: str) -> None:
        """Let new requests use the facts after a change, as `version`; running requests keep their facts."""


class LiveFacts(StoredVersions):
    """The live facts of a served plug-in.

    Args:
        store: the versions. facts: its fact store. active: the version that answers now, the newest of `facts`. config:
            `living` of the run file. reader: the plug-in that answers with it.
    """

    def __init__(
        self, store: KnowledgeStore, facts: FactStore, active: Version, config: LivingConfig, reader: FactReader
    ) -> None:
        super().__init__(store, active)
        self._facts = facts
        self._config = config
        self._reader = reader
        self._changing = asyncio.Lock()
        self._running: set[asyncio.Future[Any]] = set()

    # --- called by the routes ----------------------------------------------------------------------------------------

    async def submit(self, edits: Sequence[Edit]) -> BatchView:
        """Judge edits and make them live, all or none.

        Raises `ConflictError` if they contradict each other, `RefusedError` if the judgement refuses them.
        """
        selected = select(edits, same=question_key)
        return await self._in_turn(lambda: self._add(selected))

    async def edits(self, after: str | None = None, limit: int = 100, status: Status | None = None) -> EditList:
        """As `EditQueue.edits`: those of the store, live and deleted ones."""
        if status not in (None, "live", "deleted"):
            return EditList(data=[], has_more=False)
        live = None if status is None else status == "live"
        page = await asyncio.to_thread(self._facts.page, after, limit + 1, live)
        return EditList(data=[edit_of(each) for each in page[:limit]], has_more=len(page) > limit)

    async def found(self, id: str) -> EditView | BatchView:
        """An edit or a batch; raises `UnknownIdError` if there is none."""
        chosen = await asyncio.to_thread(self._chosen, id)
        number = batch_number(id)
        return edit_of(chosen[0]) if number is None else batch_of(self._revision(number), chosen)

    async def remove(self, id: str) -> EditView | BatchView:
        """Delete an edit, or all live edits of a batch; what is deleted already stays so.

        Raises `UnknownIdError` if there is no such id.
        """
        return await self._in_turn(lambda: self._remove(id))

    async def activate(self, id: str) -> VersionView:
        """Make exactly the edits of a version live.

        Raises `UnknownIdError` if there is none, `NotPossibleError` if another plug-in or reader belongs to it.
        """
        return await self._in_turn(lambda: self._activate(id))

    # --- one after another -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take up what other processes write to the store, without end."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._in_turn(self._catch_up)
            except OnceEditError as error:
                LOG.error("%s", error)

    async def _in_turn(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do `work` when it is its turn. If the caller is cancelled it is done all the same, so that the store and the
        requests do not use different facts."""

        async def done() -> T:
            async with self._changing:
                return await work()

        running = asyncio.ensure_future(done())
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return await asyncio.shield(running)

    async def _add(self, edits: Sequence[Edit]) -> BatchView:
        held = await asyncio.to_thread(self._facts.held, edits)
        new = [edit for edit, known in zip(edits, held, strict=True) if known is None or known.edit != edit]
        kept = [known for edit, known in zip(edits, held, strict=True) if known is not None and known.edit == edit]
        if not new:
            return await asyncio.to_thread(self._made, None, kept)
        judged = await self._reader.judge(new, self._config)
        if judged.reason is not None:
            raise RefusedError(f"not made live: {judged.reason}")
        change = await asyncio.to_thread(self._facts.add, new, "", judged.figures)
        await self._committed()
        return await asyncio.to_thread(self._made, change.revision, kept)

    def _made(self, revision: int | None, kept: Sequence[StoredEdit]) -> BatchView:
        """The edits that a revision added, and those of its call that were live before."""
        added = [] if revision is None else self._facts.first_added(revision)
        histories = [*added, *(self._facts.get(each.id) for each in kept)]
        return batch_of(self._revision(revision or histories[0].stored.revision), histories)

    def _chosen(self, id: str) -> list[EditHistory]:
        """The edit with an id, or the edits of a batch."""
        number = batch_number(id)
        chosen = [self._facts.get(id)] if number is None else self._facts.first_added(number)
        if not chosen:
            raise UnknownIdError(f"there is no batch '{id[:100]}'; GET /v1/edits lists the edits")
        return chosen

    async def _remove(self, id: str) -> EditView | BatchView:
        chosen = await asyncio.to_thread(self._chosen, id)
        live = [each.stored.id for each in chosen if each.stored.dropped is None]
        if live:
            await asyncio.to_thread(self._facts.remove, live)
            await self._committed()
        return await self.found(id)

    async def _activate(self, id: str) -> VersionView:
        version = await asyncio.to_thread(self._store.find, id)
        if version is None:
            raise UnknownIdError(f"there is no version '{id[:100]}'; GET /v1/versions lists them")
        self._refuse_other(version)
        await asyncio.to_thread(self._store.take_up, version, self._facts)
        await self._catch_up()
        return version_view(self.active, True)

    def _refuse_other(self, version: Version) -> None:
        own, other = self.active.manifest, version.manifest
        if own.base_digest != other.base_digest:
            raise NotPossibleError(
                f"version {version.id} was made from another plug-in ({other.base_model}) than the one served"
            )
        if own.settings.get("reader") != other.settings.get("reader"):
            kind = "was trained on its edits" if other.holds_weights else "belongs to another reader"
            raise NotPossibleError(
                f"version {version.id} {kind}, and this server's plug-in reads its edits; "
                f"serve it with `--version {version.id}`"
            )

    async def _committed(self) -> None:
        """Make what was just committed the active version, of the store and of the requests."""
        await asyncio.to_thread(self._store.follow_facts)
        await self._catch_up()

    async def _catch_up(self) -> None:
        """Let requests use the facts of the store's newest revision."""
        if await asyncio.to_thread(lambda: self._facts.revision) == self.active.revision:
            return
        change = await asyncio.to_thread(self._facts.changes_since, self.active.revision)
        version = await asyncio.to_thread(self._store.revision, self._revision(change.revision))
        try:
            self._refuse_other(version)
        except NotPossibleError as error:
            raise StoreError(f"another process wrote to the fact store: {error}") from None
        await self._reader.take(change, version.id)
        self.active = version
        LOG.info("version %s is live with %d edits", version.id, version.manifest.edits)

    def _revision(self, number: int) -> Revision:
        return self._facts.revisions(1, before=number + 1)[0]
