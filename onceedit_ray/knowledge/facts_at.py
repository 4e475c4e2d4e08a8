"""The facts of several versions in one index: running requests finish with the facts with which they began.

Taking up a change costs its own edits, however many there are. An edit that was dropped stays in the index as long as a
version that knows it is in use. All methods may be called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_index import FactIndex, Found
from onceedit_ray.knowledge.revision import Change, StoredEdit


@dataclass(eq=False)
class FactsAt:
    """The facts of one version. Versions that follow one another share their index.

    index: of the facts of all versions in use. hidden: ids in it that this version does not know.
    """

    index: FactIndex
    hidden: set[str] = field(default_factory=set)
    _sharing: list[FactsAt] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, stored: Iterable[StoredEdit], rephrasings: bool = False) -> FactsAt:
        """An index of these edits; `rephrasings` as in `FactIndex`, which an evaluation leaves out."""
        index = FactIndex(rephrasings)
        for each in stored:
            index.add(each.id, each.edit)
        facts = cls(index)
        facts._sharing.append(facts)
        return facts

    def __len__(self) -> int:
        return len(self.index) - len(self.hidden)

    @property
    def changes(self) -> int:
        """As `FactIndex.changes`."""
        return self.index.changes

    def edits(self) -> dict[str, Edit]:
        """The edits of this version by their id, in the order of the ids."""
        return {id: edit for id, edit in self.index.edits().items() if id not in self.hidden}

    def edit(self, id: str) -> Edit:
        """As `FactIndex.edit`."""
        return self.index.edit(id)

    def find(self, question: str, limit: int = 8) -> list[Found]:
        """As `FactIndex.find`, among the facts of this version."""
        return self.index.find(question, limit, self.hidden)

    def find_answers(self, question: str, limit: int = 8) -> list[Found]:
        """As `FactIndex.find_answers`, among the facts of this version."""
        return self.index.find_answers(question, limit, self.hidden)

    def after(self, change: Change) -> FactsAt:
        """The facts of the next version; this one stays as it is until `leave` is called.

        Args:
            change: from this version's edits to the next one's.
        """
        dropped = {stored.id for stored in change.dropped}
        with self._lock:
            following = FactsAt(self.index, self.hidden | dropped, self._sharing, self._lock)
            for stored in change.added:
                following.hidden.discard(stored.id)
                if stored.id not in self.index:
                    for facts in self._sharing:
                        facts.hidden.add(stored.id)
                    self.index.add(stored.id, stored.edit)
            self._sharing.append(following)
        return following

    def leave(self) -> None:
        """No request uses this version any more: remove from the index what no other one knows."""
        with self._lock:
            self._sharing.remove(self)
            hidden = [facts.hidden for facts in self._sharing]
            for id in set.intersection(*hidden) if hidden else ():
                self.index.drop(id)
                for each in hidden:
                    each.discard(id)
