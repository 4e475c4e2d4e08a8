"""Living knowledge: the queue accepts edits while the plug-in answers.

Queued edits are recorded in a book that survives this process. One version is built at a time, in another process. It
goes live only if it passes; running requests finish on the version with which they began. The live edits are those that
the active version knows, so activating an older version undoes the edits made since.

This file uses neither Ray nor models: a `VersionBuilder` builds versions, a `Loader` loads them for new requests.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from onceedit_ray.config import LivingConfig
from onceedit_ray.errors import (
    NotPossibleError,
    OnceEditError,
    ProcessLostError,
    QueueFullError,
    StoreError,
    UnknownIdError,
)
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import changed, question_key, select
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.build_version import BuiltVersion, Phase, Report, parent_of
from onceedit_ray.living.edit_book import UNDER_WAY, BatchRecord, EditBook, EditRecord, Status
from onceedit_ray.living.edit_views import (
    BatchView,
    EditList,
    EditView,
    VersionView,
    batch_view,
    edit_view,
)
from onceedit_ray.living.stored_versions import StoredVersions

LOG = logging.getLogger(__name__)
TRAINING_SHARE = 0.8
"""The share of training in a version's progress; the rest is its evaluation."""
MOST_ATTEMPTS = 3
"""How often a version is built if its building process dies each time; then its edits are refused, since they may be
the cause. The death of another process while the version goes live is no reason to refuse it.
"""
GATHERING_SECONDS = 0.25
"""How long a deletion waits for further ones, so that one version, built from the base plug-in, covers them all."""

FIRST_SECONDS = 60.0
"""About the time to build a version on a small machine; of later versions the time of the one before is taken."""

Switch = Callable[[], Awaitable[None]]


class VersionBuilder(Protocol):
    """Builds versions without blocking requests."""

    async def make(
        self, edits: Sequence[Edit], parent: Version | None, new: Sequence[Edit], report: Report
    ) -> BuiltVersion:
        """As `build_version.build_version`; `report` is called in this event loop."""


class Loader(Protocol):
    """Loads a version and lets requests use it."""

    async def load(self, version: Version) -> Switch:
        """Load a version beside the active one; calling the returned function lets new requests use it."""


@dataclass(frozen=True)
class Job:
    """A version to build: it knows the live edits without `removed`, and those of `batches`."""

    batches: tuple[BatchRecord, ...] = ()
    removed: tuple[EditRecord, ...] = ()


class EditQueue(StoredVersions):
    """The queue of edits, and the live edits.

    Args:
        book: records the edits. store: holds the versions. active: the version that answers now. config: `living` of
            the run file. maker: builds versions. loader: loads them.
    """

    def __init__(
        self,
        book: EditBook,
        store: KnowledgeStore,
        active: Version,
        config: LivingConfig,
        maker: VersionBuilder,
        loader: Loader,
    ) -> None:
        super().__init__(store, active)
        self._book = book
        self._config = config
        self._maker = maker
        self._loader = loader
        self._changing = asyncio.Lock()
        self._going_live: set[asyncio.Task[None]] = set()
        self._work = asyncio.Event()
        self._deleting = 0.0
        self._lost = 0
        self._building = False
        self._begun, self._seconds = 0.0, FIRST_SECONDS
        self._line = store.line_of(active.id)
        self._take_up(active, f"version {active.id}, which was active at the start, does not know it")
        for batch in book.batches.values():
            if batch.status in UNDER_WAY:
                book.set(batch, "queued", "the server was started again" if batch.status != "queued" else batch.reason)
                batch.progress = 0.0
        book.save()
        self._work.set()

    # --- called by the routes ----------------------------------------------------------------------------------------

    async def submit(self, edits: Sequence[Edit]) -> BatchView:
        """Queue edits.

        Raises `ConflictError` if they contradict each other, `QueueFullError` if too many would wait.
        """
        selected = select(edits, same=question_key)
        waiting = sum(record.status == "queued" for record in self._book.edits.values())
        if waiting + len(selected) > self._config.queued:
            said = f"{waiting} edits are queued and {self._config.queued} may be; try again when they are made"
            raise QueueFullError(said, self._next_room())
        batch = self._book.add(selected)
        self._book.save()
        self._work.set()
        return self._batch(batch)

    async def edits(self, after: str | None = None, limit: int = 100, status: Status | None = None) -> EditList:
        """A page of all edits that were ever submitted, the newest first.

        Args:
            after: id of the edit after which the page begins; None begins with the newest. limit: edits on the page.
            status: list only edits with this status.

        Raises `UnknownIdError` if there is no edit `after`.
        """
        if after is not None and after not in self._book.edits:
            raise UnknownIdError(f"there is no edit '{after[:100]}' to list from; GET /v1/edits lists them")
        records = iter(reversed(self._book.edits.values()))
        if after is not None:
            next(record for record in records if record.id == after)
        wanted = (record for record in records if status is None or record.status == status)
        page = list(itertools.islice(wanted, limit))
        return EditList(data=[self._edit(record) for record in page], has_more=next(wanted, None) is not None)

    async def found(self, id: str) -> EditView | BatchView:
        """An edit or a batch; raises `UnknownIdError` if there is none."""
        records = self._records(id)
        return self._edit(records[0]) if id in self._book.edits else self._batch(self._book.batches[id])

    async def remove(self, id: str) -> EditView | BatchView:
        """Delete an edit, or all edits of a batch.

        Raises `UnknownIdError` if there is no such id, `NotPossibleError` if nothing of it ever went live.
        """
        records = self._records(id)
        if all(record.status == "refused" for record in records):
            raise NotPossibleError(f"{id} was refused and never went live; there is nothing to delete")
        for record in records:
            if record.status == "queued":
                record.status, record.reason = "deleted", "deleted before it was made"
            elif record.status not in ("refused", "deleted"):
                record.status, record.reason = "deleting", None
        for batch in {record.batch: self._book.batches[record.batch] for record in records}.values():
            if not any(record.status in UNDER_WAY for record in self._book.of(batch)):
                self._book.settle(batch)
        self._deleting = 0.0
        self._book.save()
        self._work.set()
        return await self.found(id)

    async def activate(self, id: str) -> VersionView:
        """Make a version of the store the active one.

        Raises `UnknownIdError` if there is none, `NotPossibleError` if it was made from another plug-in.
        """
        found = await asyncio.to_thread(self._store.find, id)
        if found is None:
            raise UnknownIdError(f"there is no version '{id[:100]}'; GET /v1/versions lists them")
        if found.manifest.base_digest != self.active.manifest.base_digest:
            made_from = found.manifest.base_model
            raise NotPossibleError(f"version {id} was made from another plug-in ({made_from}) than the one served")
        # Shielded: if the caller is cancelled half-way, the store and the requests must not use different versions.
        going = asyncio.ensure_future(self._go_live(found, f"not known to version {id}, which was activated"))
        self._going_live.add(going)  # the event loop itself keeps no task
        going.add_done_callback(self._going_live.discard)
        await asyncio.shield(going)
        return self._version(found)

    def _next_room(self) -> int:
        """Seconds until the next version is begun, which takes edits from the queue."""
        left = self._seconds - (time.monotonic() - self._begun if self._building else 0.0)
        return max(math.ceil(left), 1)

    def _edit(self, record: EditRecord) -> EditView:
        progress = 1.0
        if record.status in UNDER_WAY:
            progress = self._book.batches[record.batch].progress
        elif record.status == "deleting":
            progress = self._deleting
        return edit_view(record, progress)

    def _batch(self, batch: BatchRecord) -> BatchView:
        edits = [self._edit(record) for record in self._book.of(batch)]
        return batch_view(batch, edits)

    def _records(self, id: str) -> list[EditRecord]:
        if id in self._book.edits:
            return [self._book.edits[id]]
        if id in self._book.batches:
            return self._book.of(self._book.batches[id])
        raise UnknownIdError(f"there is no edit or batch '{id[:100]}'; GET /v1/edits lists them")

    # --- the queue ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Build versions one after another, without end."""
        while True:
            await self._work.wait()
            job = self.next_job()
            if job is None:
                self._work.clear()
                continue
            if job.removed:
                await asyncio.sleep(GATHERING_SECONDS)
                job = self.next_job() or job
            try:
                await self._attempt(job)
            except StoreError as error:  # the book cannot be written; the state in memory is used until it can
                LOG.error("%s", error)

    async def _attempt(self, job: Job) -> None:
        self._building = False
        try:
            await self._do(job)
        except ProcessLostError as error:
            self._lost += self._building
            if self._lost >= MOST_ATTEMPTS:
                self._refuse(job, f"{error} (tried {self._lost} times)")
                self._lost = 0
                return
            LOG.error("a version is made again: %s", error)
            self._again(job, "a process died while its version was made, so it is made again")
            await asyncio.sleep(max(self._lost, 1))  # what killed the process may be over by then
        except OnceEditError as error:
            self._refuse(job, str(error))
        except Exception:
            LOG.exception("a version could not be made")
            self._refuse(job, "the version could not be made; the reason is in the server's log")

    @property
    def is_idle(self) -> bool:
        """Whether no version is being built and no edit waits."""
        return not self._work.is_set()

    def next_job(self) -> Job | None:
        """The next job: all deletions together; else the first waiting batches that may be trained together."""
        removed = tuple(record for record in self._book.live() if record.status == "deleting")
        if removed:
            return Job(removed=removed)
        waiting = [batch for batch in self._book.batches.values() if batch.status == "queued"]
        taken: list[BatchRecord] = []
        prompts: set[str] = set()
        for batch in waiting:
            asked = {question_key(record.edit.prompt) for record in self._book.of(batch)}
            too_many = len(prompts) + len(asked) > self._config.join
            if taken and (batch.alone or taken[0].alone or too_many or asked & prompts):
                break
            taken.append(batch)
            prompts |= asked
        return Job(batches=tuple(taken)) if taken else None

    async def _do(self, job: Job) -> None:
        began_at = self.active
        gone = {record.edit for record in job.removed}
        added = self._added(job)
        self._progress(job, "training", 0.0)  # before the first await: a deletion from now on comes after it
        known = await asyncio.to_thread(began_at.edits)
        kept, new = changed(known, added, gone)
        if kept == known and not new:
            async with self._changing:
                self._take_up(self.active, "")
                self._book.save()
            return
        parent = parent_of(began_at, gone, self._config)
        self._building, self._begun = True, time.monotonic()
        made = await self._maker.make([*kept, *new], parent, new, lambda step, share: self._progress(job, step, share))
        self._building, self._lost = False, 0
        self._seconds = time.monotonic() - self._begun
        for batch in job.batches:
            batch.version, batch.report = made.version, made.report
        if made.reason is not None:
            self._refuse(job, made.reason)
            return
        if self.active.id != began_at.id:
            self._again(job, f"version {self.active.id} was activated meanwhile, so a version is made from that one")
            return
        self._book.save()
        version = await asyncio.to_thread(self._store.get, made.version, False)  # it is verified when it goes live
        await self._go_live(version, "the same edit was deleted under another id", began_at, job)

    def _added(self, job: Job) -> list[Edit]:
        """The edits that the job's batches add; sets the ids that they replace."""
        live = {question_key(record.edit.prompt): record for record in self._book.live()}
        added = []
        for batch in job.batches:
            for record in self._book.of(batch):
                if record.status not in UNDER_WAY:
                    continue
                added.append(record.edit)
                before = live.get(question_key(record.edit.prompt))
                if before is not None and before.edit != record.edit:
                    record.replaces = [before.id]
        return list(dict.fromkeys(added))

    def _progress(self, job: Job, step: Phase, share: float) -> None:
        done = share * TRAINING_SHARE
        if step == "evaluating":
            done = TRAINING_SHARE + share * (1.0 - TRAINING_SHARE)
        self._deleting = done
        for batch in job.batches:
            batch.progress = done
            if batch.status != step:
                self._book.set(batch, step)
                self._book.save()

    def _refuse(self, job: Job, reason: str) -> None:
        for record in job.removed:
            record.status, record.reason = "live", f"could not be deleted: {reason}"
            self._book.settle(self._book.batches[record.batch])
        if len(job.batches) > 1:  # a single batch may be the cause
            for batch in job.batches:
                batch.alone = True
            self._again(job, "refused together with other batches, so it is tried alone")
            return
        for batch in job.batches:
            self._book.set(batch, "refused", reason)
            for record in self._book.of(batch):
                if record.status == "deleting" and record.version is None:
                    record.status, record.reason = "deleted", "deleted before it went live"
        self._book.save()

    def _again(self, job: Job, reason: str) -> None:
        for batch in job.batches:
            self._book.set(batch, "queued", reason)
            batch.progress, batch.version, batch.report = 0.0, None, None
        self._book.save()

    # --- going live --------------------------------------------------------------------------------------------------

    async def _go_live(
        self, version: Version, reason: str, instead_of: Version | None = None, job: Job | None = None
    ) -> None:
        """Load a version, make it active in the store, let new requests use it, and only then record it as live.

        instead_of: the version that must still be active; otherwise `job` is queued again.
        """
        async with self._changing:
            if instead_of is not None and job is not None and self.active.id != instead_of.id:
                self._again(
                    job, f"version {self.active.id} was activated meanwhile, so a version is made from that one"
                )
                return
            if version.id != self.active.id:
                switch = await self._loader.load(version)
                await asyncio.to_thread(self._store.activate, version.id, self._line)
                await switch()
                self.active = version
            self._take_up(version, reason)
            self._book.save()
            LOG.info("version %s is live with %d edits", version.id, version.manifest.edits)

    def _take_up(self, version: Version, reason: str) -> None:
        created = int(version.manifest.created.timestamp())
        self._book.reconcile(version.edits(), version.id, created, reason)
        for batch in self._book.batches.values():
            if batch.status in ("live", "deleting", "deleted"):
                batch.progress = 1.0
