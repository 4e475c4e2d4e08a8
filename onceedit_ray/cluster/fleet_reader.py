"""The reader of a fleet: judges facts and takes up changes, in the coordinators that answer the requests.

Only what changed is sent, however many edits are live. A coordinator that is started in place of a dead one reads all
of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ray.exceptions import RayError

from onceedit_ray.cluster.fleet import Fleet
from onceedit_ray.config import LivingConfig
from onceedit_ray.errors import OnceEditError, ProcessLostError
from onceedit_ray.evaluation.acceptance import Judgement
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.revision import Change
from onceedit_ray.knowledge.store import open_store

LOG = logging.getLogger(__name__)


class FleetReader:
    """Implements `live_facts.FactReader` for a fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._leaving: set[asyncio.Future[None]] = set()

    async def judge(self, new: Sequence[Edit], bounds: LivingConfig) -> Judgement:
        judged: Judgement = await self._fleet.coordinators.ask_again("judge", list(new), bounds)
        return judged

    async def take(self, change: Change, version: str) -> None:
        # Before the call: a coordinator that is started meanwhile begins with these facts.
        self._fleet.edited = await asyncio.to_thread(open_store().get, version, False)
        for at, number in enumerate(await self._fleet.coordinators.tell("take_facts", change, version)):
            leaving = asyncio.ensure_future(self._let_go(at, number))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _let_go(self, at: int, number: int) -> None:
        try:
            await self._fleet.coordinators.ask("left", number, at=at)
        except ProcessLostError:  # its requests ended with it
            pass
        except (OnceEditError, RayError) as error:
            LOG.error("the facts of an earlier version stay in memory: %s", error)
