"""Finds the places where a target's answer contradicts a fact, from what the plug-in reads along. Works on text only:
the caller writes the new answer.

A slot is a position at which the gate, evaluated along the text, reaches the threshold. The text contradicts a slot if
it continues differently than the plug-in would (`slots`), and the plug-in writes a fact's answer there. A sentence that
begins with a name and says afterwards who or what it is has its slot at the name (`names_first`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onceedit_ray.fusion.drafter import DraftReader
from onceedit_ray.fusion.names_first import NameFirst, names_first
from onceedit_ray.fusion.opening import Opening
from onceedit_ray.fusion.read_along import DueAnswer, ReadAlong
from onceedit_ray.fusion.slots import (
    Repeat,
    Slot,
    Undecided,
    first_contradiction,
    holds_text,
    is_left_alone,
    is_task,
    judges,
    may_repeat,
    name_at,
    old_names,
    repeats,
    says_opposite,
)
from onceedit_ray.fusion.whole_words import find_whole

CHUNK = 16
"""Number of target tokens that are held back until the plug-in has read them."""
MOST_GROWN = 5
"""At most how often a chunk grows by `REACH` tokens if it ends near a slot, or in a sentence that began with a name."""
SURE = 0.9
"""Lowest gate weight for a name that was written before its fact, since the rest of a sentence is no request; and for a
slot in the answer to a request that does not ask for the fact."""
ELSEWHERE_SURE = 0.97
"""The same, if the request is a question about something else."""
ASKED_SURE = 0.75
"""Lowest gate weight of a request at which a reply begins with the answer if its first chunk leaves the answer out."""
MOST_CORRECTIONS = 64


@dataclass(frozen=True)
class Contradiction:
    """A place at which a text contradicts a fact.

    place: bytes of the text before it. due: what the plug-in would write there; None if the text gives the old answer
    after it has told the new one: the target then writes something else. weight: the gate's w there. replaced:
    the name, number or word that the text has there.
    """

    place: int
    due: DueAnswer | None
    weight: float
    replaced: str = ""


@dataclass
class Contradictions:
    """One answer, checked as it is written.

    along: the plug-in. threshold: of the gate. reader: of the direct answer; None if the request names no fact.
    version: the plug-in's. opening: how the reply to a yes/no or reversed question begins. avoids: whether the target
    can write something else than an old answer. weight: the highest gate weight so far. corrections: new answers
    written so far. checked: bytes of the answer that are not checked again, because they were sent. stated: whether the
    target itself has given a fact's answer where the gate is open.
    """

    along: ReadAlong
    threshold: float
    reader: DraftReader | None = None
    version: str = ""
    opening: Opening | None = None
    avoids: bool = True
    weight: float = 0.0
    corrections: int = 0
    checked: int = 0
    stated: bool = False
    _told: dict[str, None] = field(default_factory=dict)
    _answers: set[str] = field(default_factory=set)
    _replaced: dict[str, float] = field(default_factory=dict)
    _begun: bool = False
    _left_alone: set[int] = field(default_factory=set)

    @property
    def edits(self) -> tuple[str, ...]:
        """Ids of the facts that were written into the answer."""
        return tuple(self._told)

    @property
    def request_weight(self) -> float:
        """The gate's w at the end of the request; 0 if it names no fact."""
        return self.reader.weight if self.reader is not None else 0.0

    @property
    def is_asked(self) -> bool:
        """Whether the request asks for a fact, and is no task on a text that states it."""
        return self.reader is not None and self.reader.weight >= self.threshold and not self._is_stated(self.reader)

    def _is_stated(self, reader: DraftReader) -> bool:
        """Whether the request gives a text, for another task than to judge it, and that text has a fact's answer."""
        request = self.along.question
        if not is_task(request) or not holds_text(request) or judges(request):
            return False
        edits = [self.along.edit(id) for id in reader.edits]
        answers = [each for edit in edits for each in (edit.target_new, edit.ground_truth) if each and each.strip()]
        surnames = [answer.split()[-1] for answer in answers if answer.split()[-1][:1].isupper()]
        return any(find_whole(name, request) for name in (*answers, *surnames))

    @property
    def _bar(self) -> float:
        """Lowest gate weight of a slot."""
        if self.is_asked:
            return self.threshold
        question = self.along.question.strip()
        is_question = self.reader is not None and bool(question) and not is_task(question)
        return max(self.threshold, ELSEWHERE_SURE if is_question else SURE)

    def asking(self, least: float = 0.0) -> DraftReader | None:
        """The direct answer's reader, if the request asks for a fact and the answer was not begun with it yet.

        least: lowest gate weight, if it is above the threshold.
        """
        if self.reader is None or not self.is_asked or self._begun or self.reader.weight < least:
            return None
        self.weight = max(self.weight, self.reader.weight)
        return self.reader

    async def find(self, text: bytes, ended: bool, waits: bool = True) -> Contradiction | Undecided | None:
        """The first contradiction in the part of `text`, the answer so far, that was not checked yet; None if there is
        none.

        Args:
            ended: whether the target has ended its answer.
            waits: whether more text may be read first; the result is then `Undecided` if it depends on that text.
        """
        written = text.decode("utf-8", errors="ignore")
        while True:
            is_known = self.along.look(written)
            slots = await self.along.read(text, self.checked) if is_known else []
            self.weight = max([self.weight, *(slot.weight for slot in slots)])
            slot = first_contradiction(slots, self._bar, ended or not waits, self._left_alone)
            names = self._names(text, ended) if is_known else []
            if self.corrections >= MOST_CORRECTIONS:
                slot, names = None, []
                self._replaced.clear()
            if waits and (
                slot is Undecided.YET
                or (slot is None and any(not each.is_complete for each in names))
                or (not ended and may_repeat(written, self._replaced))
            ):
                return Undecided.YET
            first = slot if isinstance(slot, Slot) else None
            again = repeats(slots, text, self._replaced, self._answers, self.is_asked, self._left_alone)
            if again is not None and (first is None or again.slot.offset < first.offset):
                first = replace(again.slot, weight=max(again.slot.weight, *self._replaced.values()))
            else:
                again = None
            found = await self._at_names(names, first, text) or await self._at_slot(first, again, text)
            if found is None and first is not None:
                continue  # it was left alone
            if found is None:
                self.checked = max(self.checked, len(text))
                self.stated |= any(one.weight >= self.threshold and one.begins and bool(one.agrees) for one in slots)
            return found

    def begin(self, edits: Sequence[str]) -> None:
        """Record that the direct answer is written at the beginning; `edits` are the facts that it states."""
        self._begun = True
        self.corrections += 1
        for edit in edits:
            self._tell(edit, self.request_weight)

    def open(self, opening: Opening) -> None:
        """Record that a reply begins with an opening."""
        self._begun = True
        self.corrections += 1
        self.weight = max(self.weight, opening.weight)
        for edit in opening.edits:
            self._tell(edit, opening.weight)

    def correct(self, found: Contradiction) -> None:
        """Record that a new answer is written, or an old one avoided."""
        self.corrections += 1
        if found.due is not None:
            self._tell(found.due.edit, found.weight)
            self._replace(found.replaced, found.weight)
        self.weight = max(self.weight, found.weight)
        self._left_alone = {checked for checked in self._left_alone if checked < found.place}

    def _names(self, text: bytes, ended: bool) -> list[NameFirst]:
        """The names at the beginning of sentences that were not checked yet.

        Unless the request asks for a fact, a name that the user wrote stays, and so does every name in the answer to a
        task on a text that the user gave: there a sentence repeats what that text says.
        """
        if not self.is_asked and is_task(self.along.question) and holds_text(self.along.question):
            return []
        start = len(text[: self.checked].decode("utf-8", errors="ignore"))
        request = self.along.question.casefold()
        return [
            each
            for each in names_first(text.decode("utf-8", errors="ignore"), start, ended)
            if (self.is_asked or each.name.casefold() not in request) and self.along.may_be_answer(each.name)
        ]

    async def _at_names(self, names: Sequence[NameFirst], slot: Slot | None, text: bytes) -> Contradiction | None:
        """The first name before the slot in whose place a fact's answer is due; each name is looked at once."""
        written = text.decode("utf-8", errors="ignore")
        for each in names:
            place = len(written[: each.start].encode())
            if slot is not None and place > slot.offset:
                break
            if place in self._left_alone:
                continue
            self._left_alone.add(place)
            late = await self.along.due_before(each.name, each.rest, max(self.threshold, SURE))
            if late is not None and not self._is_left_alone(text, place, late[1]):
                return Contradiction(place, late[1], late[0], each.name)
        return None

    async def _at_slot(self, slot: Slot | None, again: Repeat | None, text: bytes) -> Contradiction | None:
        """The contradiction at a slot; `again`: the repetition of a replaced answer, if the slot is one."""
        if slot is None:
            return None
        due = None if again is not None and again.is_beside else await self.along.due(slot)
        if due is not None and not self._is_left_alone(text, slot.offset, due):
            return Contradiction(slot.offset, due, slot.weight, name_at(text[slot.offset :].decode(errors="ignore")))
        if again is not None and due is None and self.avoids:
            return Contradiction(slot.offset, None, slot.weight, again.name)
        self._left_alone.add(slot.offset)
        return None

    def _tell(self, id: str, weight: float) -> None:
        """Record that the answer of a fact is given; its old answer, if that is known, is replaced from now on."""
        self._told[id] = None
        edit = self.along.edit(id)
        self._answers.add(edit.target_new.strip())
        for name in old_names(edit.ground_truth or ""):
            self._replace(name, weight)

    def _replace(self, name: str, weight: float) -> None:
        """Record that a name is replaced where it occurs again, unless it occurs in the request or in a new answer."""
        is_wanted = any(name.casefold() in answer.casefold() for answer in self._answers)
        if name and not is_wanted and not re.search(rf"(?<!\w){re.escape(name)}", self.along.question, re.IGNORECASE):
            self._replaced[name] = max(weight, self._replaced.get(name, 0.0))

    def _is_left_alone(self, text: bytes, place: int, due: DueAnswer) -> bool:
        before, after = (part.decode("utf-8", errors="ignore") for part in (text[:place], text[place:]))
        if says_opposite(before, self.along.edit(due.edit).prompt):
            return True
        return is_left_alone(before, after, due.stated, self.along.question, self.is_asked)
