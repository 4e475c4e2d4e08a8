"""Living knowledge on a fleet: loads a new plug-in beside the old one and switches to it while requests run.

load: starts an actor, reads the weights and runs one forward pass; the alignments do not change
switch: new requests use the new plug-in; running requests finish on the old one, whose actor is then removed
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from ray.exceptions import RayActorError, RayError

from onceedit_ray.cluster.coordinators import MOST_TRIES
from onceedit_ray.cluster.fleet import Fleet, Seated
from onceedit_ray.cluster.fleet_reader import FleetReader
from onceedit_ray.cluster.on_this_node import sent
from onceedit_ray.cluster.trainer import RemoteBuilder
from onceedit_ray.config import RunConfig
from onceedit_ray.errors import OnceEditError, ProcessLostError, StoreError
from onceedit_ray.files import remove_leftovers
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.store import KnowledgeStore, open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.build_version import DRAFTS
from onceedit_ray.living.edit_book import EditBook
from onceedit_ray.living.edit_queue import EditQueue, Switch
from onceedit_ray.living.live_facts import LiveFacts
from onceedit_ray.reader.plugin import is_read, plugin_folder, reads_facts

LOG = logging.getLogger(__name__)
BOOK = "edits.json"
"""The file name of the book of edits, which lies in `ONCEEDIT_HOME` beside the knowledge store."""


class FleetLoader:
    """Implements `edit_queue.Loader` for a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._leaving: set[asyncio.Future[None]] = set()
        self._standby: Seated | None = None

    async def load(self, version: Version) -> Switch:
        """Load `version`; raises `ConfigError` if there is no room for a second plug-in, `ModelError` if it fails,
        `ProcessLostError` if an actor dies meanwhile.

        If the plug-in that answers reads facts, only the facts of the version are loaded.
        """
        await self._stand_by(version)

        async def switch() -> None:
            fleet, standby = self._fleet, self._standby
            self._standby = None
            if standby is None:
                fleet.edited, before = version, None
            else:  # first: a coordinator that is started meanwhile begins with it
                before = fleet.promote(standby)
            numbers = await asyncio.gather(
                *(self._taken_over(at, version, standby) for at in range(len(fleet.coordinators.seats)))
            )
            self._see_off(numbers, before)

        return switch

    async def _taken_over(self, at: int, version: Version, standby: Seated | None) -> int | None:
        """Let one coordinator answer with a version that stands by. Returns the number of the version before; None if
        it did so already.

        Another coordinator may have been started in its place, before or after the fleet had the version.
        """
        coordinators = self._fleet.coordinators
        for left in reversed(range(MOST_TRIES)):
            try:
                number: int = await coordinators.ask("take_over", at=at)
                return number
            except ProcessLostError:
                if await coordinators.ask_again("live_version", at=at) == version.id:
                    return None
                if not left:
                    raise
                if standby is None:
                    await coordinators.ask_again("stand_by_facts", sent(version.load()), at=at)
                else:
                    await coordinators.ask_again("stand_by", standby.actor, sent(version.load()), at=at)
        raise AssertionError("the last try returns or raises")

    async def _stand_by(self, version: Version) -> None:
        fleet = self._fleet
        if self._standby is not None:  # it was loaded earlier but never activated
            await asyncio.to_thread(fleet.discard, self._standby)
            self._standby = None
        assert fleet.base is not None, "the fleet is started first"
        if is_read(version.path) and plugin_folder(version.path, fleet.base) == fleet.weights:
            await fleet.coordinators.tell("stand_by_facts", sent(version.load()))
            return
        asked = fleet.coordinators.handles
        try:
            self._standby = await asyncio.to_thread(fleet.load_plugin, version)
        except RayActorError as error:  # of a coordinator or of the new plug-in
            for each in asked:
                with contextlib.suppress(RayActorError):  # the next call tries again
                    await asyncio.to_thread(fleet.coordinators.revive, each)
            reason = " ".join(str(error).split())[:200]
            raise ProcessLostError(f"an actor died while version {version.id} was loaded ({reason})") from None

    def _see_off(self, numbers: Sequence[int | None], old: Seated | None) -> None:
        leaving = asyncio.ensure_future(self._let_go(numbers, old))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _let_go(self, numbers: Sequence[int | None], old: Seated | None) -> None:
        """Remove the previous plug-in when its requests have ended; those of a dead coordinator have."""
        asked = (
            self._fleet.coordinators.ask("left", number, at=at)
            for at, number in enumerate(numbers)
            if number is not None
        )
        for error in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(error, OnceEditError | RayError) and not isinstance(error, ProcessLostError):
                LOG.error("the previous plug-in is removed although requests may still use it: %s", error)
        if old is not None:
            await asyncio.to_thread(self._fleet.discard, old)


def served_version(config: RunConfig, version: Version) -> Version:
    """The version that a fleet serves: one that is read is taken up by the fact store, where its edits have ids."""
    if not reads_facts(config, version.path):
        return version
    store = open_store()
    with store.facts() as facts:
        return store.take_up(version, facts).load()


def open_living(config: RunConfig, fleet: Fleet, active: Version) -> EditQueue | LiveFacts:
    """The editing of a fleet whose active version is `active`; its `run` must be running.

    Raises `StoreError` if the book of edits, or the fact store, cannot be read.
    """
    store = open_store()
    _clear_leftovers(store)
    if reads_facts(config, active.path):
        return LiveFacts(store, store.facts(), active, config.living, FleetReader(fleet))
    book = EditBook(onceedit_home() / BOOK)
    return EditQueue(book, store, active, config.living, RemoteBuilder(config), FleetLoader(fleet))


def _clear_leftovers(store: KnowledgeStore) -> None:
    """Remove what killed processes left half written; nothing that runs is using it."""
    with contextlib.suppress(StoreError):  # a folder that cannot be written fails with a reason at the first edit
        store.sweep()
    for folder in (onceedit_home(), onceedit_home() / DRAFTS):
        remove_leftovers(folder)
