"""The edits of a run file's version in the knowledge store, changed in this process, without a server.

They are judged as on a server, by the same bounds, and the version of the run file then has them: commands, and servers
that start, answer with them. A server that runs on the same store takes up facts that are read within a second;
versions that are trained it does not see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from onceedit_ray.config import LivingConfig, RunConfig
from onceedit_ray.editing.run import answering_version, own_version
from onceedit_ray.errors import RefusedError, UnknownIdError
from onceedit_ray.evaluation.acceptance import Judgement
from onceedit_ray.fusion.system import load_plugin
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.revision import Change, StoredEdit
from onceedit_ray.knowledge.selection import changed, question_key, select
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.build_version import build_version, parent_of
from onceedit_ray.living.judge_facts import judge_facts
from onceedit_ray.living.live_facts import LiveFacts
from onceedit_ray.progress import Progress, silent
from onceedit_ray.reader.plugin import reads_facts


class StoredEdits:
    """The edits of the version that answers for a run file.

    Raises `StoreError` if there is none yet and it must be trained.
    """

    def __init__(self, config: RunConfig, progress: Progress = silent) -> None:
        self._config = config
        self._store = open_store()
        self._own = own_version(config, self._store, progress).id

    @property
    def version(self) -> Version:
        """The version that answers for the run file now."""
        return answering_version(self._config, None, self._own)

    def live(self) -> list[StoredEdit]:
        """Its edits; the id of an edit that was trained, or that no server has had yet, is its prompt."""
        return self.version.stored()

    def add(self, edits: Sequence[Edit]) -> Version:
        """Judge edits and make them live, all or none; returns the version that has them.

        Raises `ConflictError` if they contradict each other, `RefusedError` if the judgement refuses them.
        """
        version, selected = self.version, select(edits, same=question_key)
        if reads_facts(self._config, version.path):
            return self._with_facts(version, lambda facts: facts.submit(selected))
        return self._trained(version, selected, ())

    def delete(self, id: str) -> Version:
        """Delete an edit, by its id or its prompt; returns the version without it.

        Raises `UnknownIdError` if no live edit has it.
        """
        version = self.version
        edit = _found(version, id).edit
        if reads_facts(self._config, version.path):
            return self._with_facts(version, lambda facts: facts.remove(_found(facts.active, edit.prompt).id))
        return self._trained(version, (), [edit])

    def _with_facts(self, version: Version, work: Callable[[LiveFacts], Awaitable[object]]) -> Version:
        with self._store.facts() as stored:
            active = self._store.take_up(version, stored).load()
            facts = LiveFacts(self._store, stored, active, self._config.living, _ReaderHere(self._config, active))

            async def done() -> Version:
                await work(facts)
                return facts.active

            return asyncio.run(done())

    def _trained(self, before: Version, added: Sequence[Edit], gone: Sequence[Edit]) -> Version:
        known = before.edits()
        kept, new = changed(known, added, gone)
        if kept == known and not new:
            return before
        parent = parent_of(before, gone, self._config.living)
        made = build_version(self._config, self._store, [*kept, *new], parent, new)
        if made.reason is not None:
            raise RefusedError(f"not made live: {made.reason}")
        return self._store.activate(made.version, self._store.line_of(before.id))


class _ReaderHere:
    """Implements `live_facts.FactReader`: the plug-in is loaded when facts are to be judged, and answers nobody."""

    def __init__(self, config: RunConfig, version: Version) -> None:
        self._config = config
        self._version = version

    async def judge(self, new: Sequence[Edit], bounds: LivingConfig) -> Judgement:
        plugin = await asyncio.to_thread(load_plugin, self._config, self._version)
        return await judge_facts(plugin, new, bounds, self._config.fusion.threshold)

    async def take(self, change: Change, version: str) -> None:
        """Nothing to do: no request runs here."""


def _found(version: Version, id: str) -> StoredEdit:
    """The live edit with an id or a prompt; raises `UnknownIdError` if there is none."""
    asked = question_key(id)
    for each in version.stored():
        if id == each.id or question_key(each.edit.prompt) == asked:
            return each
    raise UnknownIdError(f"no live edit has the id or prompt {id[:100]!r}; `onceedit edits list` shows them")
