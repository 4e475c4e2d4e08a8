"""Lets the plug-in read along while a target writes: which facts the text may be about, and where their answers are
due.

A reader sees the facts, the request and the text so far, and its gate says after each token whether the answer of one
of the facts comes next. Facts are looked up in the request and in the text itself, so that a subject that first occurs
in the answer is found.

Offsets are bytes of the text. Shapes: K entries kept of a distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.models.codec import Codec, common_prefix
from onceedit_ray.models.prompt import Exchange, Prompt
from onceedit_ray.models.protocol import LanguageModel, Row
from onceedit_ray.reader.view import fact_line, read_along

MOST_FACTS = 4
"""Maximum number of facts with which a text is read; those of the request come first."""
TAIL = 600
"""Number of characters at the end of a text in which subjects are looked up."""
LONGEST_ANSWER = 24
"""Maximum number of plug-in tokens of an answer."""


@dataclass(frozen=True)
class Slot:
    """A position at which the plug-in's answer is due.

    offset: bytes of the text before it. weight: the gate's w there. agrees: whether the text continues as the plug-in
        would; None if the text ends there. token: its index among the plug-in's tokens of the text.
    """

    offset: int
    weight: float
    agrees: bool | None
    token: int


@dataclass(frozen=True)
class DueAnswer:
    """What the plug-in would write at a slot: its tokens, the distribution before each, and the answer's bytes.

    edit: the id of the fact whose answer it is word for word, "" if there is none.
    """

    tokens: tuple[int, ...]
    rows: tuple[Row, ...]
    answer: bytes
    edit: str = ""


@dataclass
class ReadAlong:
    """One text, read as it is written.

    model, codec: the plug-in's. facts: all facts. question, turns: the request; the question is empty if a text is
        continued. before: the text that the answer continues. known: the facts with which the text is read, by id.
    """

    model: LanguageModel
    codec: Codec
    facts: FactsAt
    question: str
    turns: tuple[Exchange, ...] = ()
    before: bytes = b""
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
        return cls(model, codec, facts, prompt.question, prompt.turns[-1:])

    async def aclose(self) -> None:
        """Free the plug-in's session."""
        if self._session is not None:
            session, self._session = self._session, None
            await self.model.close(session)

    def look(self, answer: str) -> bool:
        """Look up facts in the request and in the end of the answer; returns whether there is any."""
        found = [] if self._looked else list(self.facts.find(self._asked, MOST_FACTS))
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
        is one.
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
            goes_on = self._tokens[number] if number < len(self._tokens) else None
            agrees = None if goes_on is None else goes_on == likeliest
            slots.append(Slot(offset, self._weights[number], agrees, number))
            if goes_on is not None:
                offset += len(self.codec.surface(goes_on))
        return slots

    async def due(self, slot: Slot, threshold: float) -> DueAnswer:
        """What the plug-in would write at a slot; its session is cut back to the slot.

        threshold: the answer ends where the gate weight falls below it.
        """
        assert self._session is not None
        held = self._view + self._tokens[: slot.token]
        step = await self.model.extend(self._session, len(held) - 1, held[-1:], rows=1, decode=LONGEST_ANSWER)
        self.passes += len(step.new_ids)
        self._tokens = self._tokens[: slot.token]
        del self._weights[slot.token + 1 :], self._rows[slot.token + 1 :]
        rows = tuple(step.top.row(i) for i in range(len(step.top)))
        answer, edit = self._answer(step.new_ids, step.weights, threshold)
        return DueAnswer(step.new_ids, rows, answer, edit)

    def _answer(self, tokens: Sequence[int], weights: Sequence[float], threshold: float) -> tuple[bytes, str]:
        """The answer at the beginning of `tokens`: that of a known fact, or the tokens before the gate closes."""
        written = self.codec.bytes_of(token for token in tokens if token not in self.codec.end_ids)
        text = written.decode("utf-8", errors="ignore")
        answers = sorted(self.known.items(), key=lambda known: -len(known[1].target_new))
        for id, edit in answers:
            answer = edit.target_new.strip()
            if text.lstrip().casefold().startswith(answer.casefold()):
                return text[: len(text) - len(text.lstrip()) + len(answer)].encode(), id
        count = 1
        while count < len(tokens) and tokens[count] not in self.codec.end_ids and weights[count] >= threshold:
            count += 1
        return self.codec.bytes_of(tokens[:count]), ""
