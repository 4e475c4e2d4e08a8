"""Where an answer that a target writes contradicts a fact, by what the plug-in reads along. Works on text only: how the
new answer is written is the caller's.

A slot is a position at which the gate, evaluated along the text, reaches the threshold. The text contradicts a slot if
it continues differently than the plug-in would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onceedit_ray.fusion.drafter import DraftReader
from onceedit_ray.fusion.read_along import DueAnswer, ReadAlong, Slot

CHUNK = 16
"""Number of target tokens that are held back until the plug-in has read them."""
REACH = 5
"""Number of plug-in tokens within which slots compete: the answer is written at the slot of highest gate weight."""
MOST_CORRECTIONS = 64


@dataclass
class Contradictions:
    """One answer, checked as it is written.

    along: the plug-in. threshold: of the gate. reader: of the direct answer; None if the request names no fact.
    version: the plug-in's. weight: the highest gate weight so far. corrections: new answers written so far. checked:
    bytes of the answer that need no further look.
    """

    along: ReadAlong
    threshold: float
    reader: DraftReader | None = None
    version: str = ""
    weight: float = 0.0
    corrections: int = 0
    checked: int = 0
    _told: dict[str, None] = field(default_factory=dict)
    _begun: bool = False

    @property
    def edits(self) -> tuple[str, ...]:
        """Ids of the facts that were written into the answer."""
        return tuple(self._told)

    @property
    def opened(self) -> bool:
        """Whether the gate has opened at any place of the answer so far."""
        return self.weight >= self.threshold

    @property
    def request_weight(self) -> float:
        """The gate's w at the end of the request; 0 if it names no fact."""
        return self.reader.weight if self.reader is not None else 0.0

    def asking(self) -> DraftReader | None:
        """The direct answer's reader, if the request asks for a fact and the answer was not begun with it yet."""
        if self.reader is None or self.reader.weight < self.threshold or self._begun:
            return None
        self.weight = max(self.weight, self.reader.weight)
        return self.reader

    async def find(self, text: bytes, ended: bool) -> tuple[Slot, DueAnswer] | None:
        """The first contradiction in the part of `text`, the answer so far, that was not checked yet, and what the
        plug-in would write there; None if there is none. ended: whether the target has ended its answer.
        """
        if not self.along.look(text.decode("utf-8", errors="ignore")):
            return None
        slots = await self.along.read(text, self.checked)
        self.weight = max([self.weight, *(slot.weight for slot in slots)])
        slot = self._contradicted(slots, ended)
        if slot is None or self.corrections >= MOST_CORRECTIONS:
            self.checked = max(self.checked, len(text))
            return None
        return slot, await self.along.due(slot, self.threshold)

    def begin(self, edits: Sequence[str]) -> None:
        """Record that the direct answer is written at the beginning; `edits` are the facts that it states."""
        self._begun = True
        self.corrections += 1
        self._told.update(dict.fromkeys(edits))

    def correct(self, due: DueAnswer) -> None:
        """Record that a new answer is written."""
        self.corrections += 1
        self._told.update({due.edit: None} if due.edit else {})

    def _contradicted(self, slots: Sequence[Slot], ended: bool) -> Slot | None:
        """The first slot that the text contradicts; of the slots near it, the one of highest gate weight."""
        for index, slot in enumerate(slots):
            if slot.weight < self.threshold or slot.agrees is True:
                continue
            if slot.agrees is None and not ended:
                return None  # the next chunk tells
            rivals = [slot]
            for rival in slots[index + 1 : index + 1 + REACH]:
                if rival.weight >= self.threshold and rival.agrees is True:
                    return None if rival is slots[-1] else self._contradicted(slots[index + 2 :], ended)
                if rival.weight >= self.threshold and rival.agrees is False:
                    rivals.append(rival)
            return max(rivals, key=lambda each: each.weight)
        return None
