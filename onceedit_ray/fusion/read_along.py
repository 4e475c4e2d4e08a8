"""Lets the plug-in read along while a target writes: which facts the text may be about, and where their answers are
due.

A reader sees the facts, the request and the text so far, and its gate says after each token whether the answer of one
of the facts comes next. Facts are looked up in the request and in the text itself, so that a subject that first occurs
in the answer is found.

Offsets are bytes of the text. Shapes: K entries kept of a distribution.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from onceedit_ray.fusion.slots import Slot
from onceedit_ray.fusion.whole_words import find_whole
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.terms import content, terms
from onceedit_ray.knowledge.territories import names_of
from onceedit_ray.models.codec import Codec, common_prefix
from onceedit_ray.models.prompt import Exchange, Prompt
from onceedit_ray.models.protocol import LanguageModel, Row
from onceedit_ray.reader.view import as_read, asked, fact_line, read_along

MOST_FACTS = 4
"""Maximum number of facts with which a text is read; those of the request come first."""
TAIL = 600
"""Number of characters at the end of a text in which subjects are looked up."""
LONGEST_ANSWER = 24
"""Number of plug-in tokens that are decoded to find the answer."""
MOST_BEFORE = 24
"""Number of characters that may stand before the answer in what the plug-in writes ("the city of Rome")."""


@dataclass(frozen=True)
class DueAnswer:
    """What the plug-in would write at a slot: its tokens, the distribution before each, and the answer's bytes.

    edit: the id of the fact whose answer ends it. stated: that fact's answer. lead: bytes of the text before the slot
        that are written again, because the slot lies inside a target's token. skipped: white space at the beginning of
        `tokens` that is not part of the answer.
    """

    tokens: tuple[int, ...]
    rows: tuple[Row, ...]
    answer: bytes
    edit: str
    stated: str
    lead: bytes = b""
    skipped: int = 0


@dataclass
class ReadAlong:
    """One text, read as it is written.

    model, codec: the plug-in's. facts: all facts. question, turns: the request; the question is empty if a text is
        continued. before: the text that the answer continues. system: the chat's system message. known: the facts with
        which the text is read, by id.
    """

    model: LanguageModel
    codec: Codec
    facts: FactsAt
    question: str
    turns: tuple[Exchange, ...] = ()
    before: bytes = b""
    system: str = ""
    passes: int = 0
    known: dict[str, Edit] = field(default_factory=dict)
    _session: int | None = None
    _view: list[int] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)
    _weights: list[float] = field(default_factory=list)
    _rows: list[Row] = field(default_factory=list)
    _looked: bool = False

    @classmethod
    def of(cls, model: LanguageModel, codec: Codec, facts: FactsAt, prompt: Prompt) -> ReadAlong:
        """A `ReadAlong` for the answer to a prompt."""
        if prompt.continued:
            return cls(model, codec, facts, "", (), prompt.continued.encode())
        return cls(model, codec, facts, as_read(prompt.question), prompt.turns[-1:], system=prompt.system)

    def edit(self, id: str) -> Edit:
        """A fact by its id."""
        return self.known.get(id) or self.facts.edit(id)

    async def aclose(self) -> None:
        """Free the plug-in's session."""
        if self._session is not None:
            session, self._session = self._session, None
            await self.model.close(session)

    def look(self, answer: str) -> bool:
        """Look up facts in the request, the system message and the end of the answer; returns whether there is any."""
        found = [] if self._looked else list(self.facts.find(self._asked, MOST_FACTS))
        if not self._looked and self.system.strip():
            found += self.facts.find(self.system, MOST_FACTS)
        self._looked = True
        found += self.facts.find(answer[-TAIL:], MOST_FACTS) if answer.strip() else []
        new = {fact.id: fact.edit for fact in found if fact.id not in self.known}
        for id in list(new)[: MOST_FACTS - len(self.known)]:
            self.known[id] = new[id]
            self._view = []  # the facts come first in the view, so everything is read again
        return bool(self.known)

    @property
    def _asked(self) -> str:
        before = self.before.decode("utf-8", errors="ignore")
        return "\n".join([turn.request for turn in self.turns] + [self.question or before])

    async def read(self, answer: bytes, start: int) -> list[Slot]:
        """Read to the end of `answer` and return the slots from its byte `start` on, in order.

        The beginning of a reply is not a slot, since a reply may begin with anything. The beginning of a continuation
        is a slot.
        """
        text = self.before + answer
        lead = b"" if text[:1].isspace() else b" "
        tokens = list(self.codec.encode_bytes(lead + text))
        keep = common_prefix(tokens, self._tokens) if self._view else 0
        if not self._view:
            await self.aclose()
            lines = [fact_line(edit) for edit in self.known.values()]
            self._view = list(self.codec.text_prompt(read_along(lines, self.question, self.turns)).ids)
            step = await self.model.open(self._view + tokens, rows=len(tokens) + 1)
            self._session = step.session
            self._weights, self._rows = list(step.weights), [step.top.row(i) for i in range(len(step.top))]
            self.passes += 1
        elif keep < len(tokens):
            assert self._session is not None
            held = len(self._view) + keep
            step = await self.model.extend(self._session, held, tokens[keep:], rows=len(tokens) - keep)
            self._weights[keep + 1 :] = step.weights
            self._rows[keep + 1 :] = [step.top.row(i) for i in range(len(step.top))]
            self.passes += 1
        else:
            del self._weights[keep + 1 :], self._rows[keep + 1 :]
        self._tokens = tokens
        shift = len(lead) + len(self.before)
        first = 0 if self.before else 1
        return [slot for slot in self._slots(shift) if slot.offset >= max(start, first)]

    def _slots(self, shift: int) -> list[Slot]:
        slots, offset = [], -shift
        for number in range(len(self._tokens) + 1):
            likeliest = int(self._rows[number][0][0])
            begun = self._answers_begun(likeliest)
            agrees = self._agrees(number, likeliest, begun)
            slots.append(Slot(offset, self._weights[number], agrees, number, bool(begun)))
            if number < len(self._tokens):
                offset += len(self.codec.surface(self._tokens[number]))
        return slots

    def _agrees(self, number: int, likeliest: int, begun: Sequence[str]) -> bool | None:
        """Whether the text continues with the plug-in's token, and, if that begins an answer, with all of it.

        begun: the answers of `_answers_begun`.
        """
        if number < len(self._tokens) and self._tokens[number] == likeliest:
            return _is_stated(begun, self._text_at(number)) if begun else True
        rest = self.codec.bytes_of(self._tokens[number : number + 2])
        is_begun = len(self._tokens) <= number + 2 and self.codec.surface(likeliest).startswith(rest)
        return None if is_begun else False

    def _answers_begun(self, likeliest: int) -> list[str]:
        """The answers of the known facts that begin with a token, without regard to case."""
        begun = self.codec.surface(likeliest).decode("utf-8", errors="ignore").strip().casefold()
        answers = (edit.target_new.strip().casefold() for edit in self.known.values())
        return [answer for answer in answers if begun and answer.startswith(begun)]

    def _text_at(self, number: int) -> str:
        """The text from a token on, at most as far as an answer reaches."""
        ids = self._tokens[number : number + LONGEST_ANSWER]
        return self.codec.bytes_of(ids).decode("utf-8", errors="ignore").strip().casefold()

    async def due(self, slot: Slot) -> DueAnswer | None:
        """What the plug-in would write at a slot; None if that does not say a known fact's answer.

        The session is cut back to the slot.
        """
        assert self._session is not None
        held = self._view + self._tokens[: slot.token]
        step = await self.model.extend(self._session, len(held) - 1, held[-1:], rows=1, decode=LONGEST_ANSWER)
        self.passes += len(step.new_ids)
        self._tokens = self._tokens[: slot.token]
        del self._weights[slot.token + 1 :], self._rows[slot.token + 1 :]
        rows = tuple(step.top.row(i) for i in range(len(step.top)))
        written = self.codec.bytes_of(token for token in step.new_ids if token not in self.codec.end_ids)
        found = self._answer_in(written.decode("utf-8", errors="ignore"))
        return None if found is None else DueAnswer(step.new_ids, rows, *found, self.known[found[1]].target_new)

    def may_be_answer(self, name: str) -> bool:
        """Whether a name may stand in the place of an answer: no known fact says or names it."""
        return not any(_belongs_to(name, edit) for edit in self.known.values())

    async def due_before(self, name: str, rest: str, threshold: float) -> tuple[float, DueAnswer] | None:
        """The answer that is due in the place of a name at the beginning of a sentence, with the gate's w.

        The rest of the sentence is read as a request. None if it asks for no fact, or if the name is the fact's answer,
        or is part of what the fact is about.

        threshold: of the gate.
        """
        edits = {
            found.id: found.edit
            for found in self.facts.find(rest, MOST_FACTS)
            if not _belongs_to(name, found.edit) and _says_more(rest, found.edit)
        }
        prompts = [self.codec.text_prompt(asked([fact_line(edit)], rest)).ids for edit in edits.values()]
        opened = (self.model.open(ids, rows=1, decode=LONGEST_ANSWER, threshold=threshold) for ids in prompts)
        best: tuple[float, DueAnswer] | None = None
        for (id, edit), step in zip(edits.items(), await asyncio.gather(*opened), strict=True):
            await self.model.close(step.session)
            self.passes += max(len(step.new_ids), 1)
            weight = step.weight or 0.0
            text = self.codec.text_of(token for token in step.new_ids if token not in self.codec.end_ids)
            answer = edit.target_new.strip()
            if weight < max(threshold, best[0] if best else 0.0) or not text.lstrip().startswith(answer):
                continue
            skipped = len(text) - len(text.lstrip())
            rows = tuple(step.top.row(i) for i in range(len(step.top)))
            best = weight, DueAnswer(step.new_ids, rows, answer.encode(), id, answer, skipped=skipped)
        return best

    def _answer_in(self, text: str) -> tuple[bytes, str] | None:
        """The beginning of a text up to the end of the first known answer in it, and the fact's id.

        A text that is itself the beginning of a longer answer is completed.
        """
        places = []
        for id, edit in self.known.items():
            answer = edit.target_new.strip()
            inside = re.search(rf"(?<![a-z0-9]){re.escape(answer)}", text[: len(answer) + MOST_BEFORE], re.IGNORECASE)
            if inside:
                places.append((inside.start(), -len(answer), text[: inside.end()], id))
            elif len(text.split()) > 1 and answer.casefold().startswith(text.strip().casefold()):
                places.append((0, -len(answer), text[: len(text) - len(text.lstrip())] + answer, id))
        if not places:
            return None
        _, _, told, id = min(places)
        return told.encode(), id


def _is_stated(answers: Sequence[str], text: str) -> bool | None:
    """Whether a text begins with one of some answers; None if it ends before that is known."""
    if any(re.match(rf"{re.escape(answer)}(?!\d)", text) for answer in answers):
        return True
    return None if any(answer.startswith(text) for answer in answers) else False


def _says_more(rest: str, edit: Edit) -> bool:
    """Whether the rest of a sentence says something beside the subject's name."""
    names = {word for name in names_of(edit) for word in terms(name)}
    return any(word not in names for word in content(terms(rest)))


def _belongs_to(name: str, edit: Edit) -> bool:
    """Whether a name is the edit's answer, or stands in what the edit is about, or the other way round."""
    texts = (edit.target_new, edit.prompt, edit.subject, *edit.aliases)
    return any(text and (find_whole(name, text) or find_whole(text, name)) for text in texts)
