"""Training examples of a reader: (facts, request) pairs, and texts along which the gate is read.

Half of the examples are questions (the gate at the request's end, then the answer), half are texts (the gate at every
token, the answer where it is due). Near misses, other subjects, tasks on text and general text teach the gate to stay
closed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from onceedit_ray.models.prompt import Exchange
from onceedit_ray.reader.facts import Fact, of_relation, relations, wordings
from onceedit_ray.reader.near_misses import clashes, close_statement, near_miss
from onceedit_ray.reader.view import asked, line_of, read_along


@dataclass(frozen=True)
class Example:
    """One sequence.

    view: the prompt. text: the text after it; "" for a question example without an answer. spans: positions of the
        answer in `text`, [start, end) in characters, with its leading space. unclear: further positions at which the
        gate has no label. asks: whether the request asks for a fact (asked examples); None for a text that is read
        along.
    """

    view: str
    text: str
    spans: tuple[tuple[int, int], ...] = ()
    unclear: tuple[tuple[int, int], ...] = ()
    asks: bool | None = None


@dataclass
class ExampleSource:
    """An endless, seeded stream of examples.

    draws: functions that draw a fact, with their shares. elsewhere: (subject, text) pairs that contain no fact.
    general: prompts that are about no fact.
    """

    draws: Sequence[tuple[float, Callable[[random.Random], Fact]]]
    elsewhere: Sequence[tuple[str, str]]
    general: Sequence[str]

    def stream(self, seed: int) -> Iterator[Example]:
        """An endless stream of examples; the same seed gives the same examples."""
        rng = random.Random(seed)
        while True:
            yield self._asked(rng) if rng.random() < 0.45 else self._read_along(rng)

    def _fact(self, rng: random.Random) -> Fact:
        shares, draws = zip(*self.draws, strict=True)
        fact: Fact = rng.choices(draws, shares)[0](rng)
        if rng.random() < 0.08:
            fact = _answered(fact, rng.choice(wordings()["odd_answers"]))
        return fact

    def _lines(self, fact: Fact, rng: random.Random) -> list[str]:
        """The line of the fact, sometimes with lines of other facts, half of which are about neighbours."""
        lines = [line_of(fact.prompt, fact.answer)]
        if rng.random() < 0.2:
            for _ in range(rng.choice([1, 1, 2])):
                other = self._fact(rng)
                if fact.siblings and fact.relation in relations() and rng.random() < 0.5:
                    other = of_relation(fact.relation, rng.choice(fact.siblings), other.answer, rng)
                if other.subject not in fact.subject and fact.subject not in other.subject:
                    lines.insert(rng.randint(0, len(lines)), line_of(other.prompt, other.answer))
        return lines

    def _asked(self, rng: random.Random) -> Example:
        fact = self._fact(rng)
        lines = self._lines(fact, rng)
        if rng.random() < 0.5:
            request, turns = _positive(fact, rng), self._turns(fact, rng)
            if turns and rng.random() < 0.5:
                request = _with_pronoun(request, fact, rng)
            answer = " " + fact.answer.strip()
            return Example(asked(lines, request, turns), answer, ((0, len(answer)),), asks=True)
        return Example(asked(lines, self._negative(fact, rng), self._turns(fact, rng)), "", asks=False)

    def _turns(self, fact: Fact, rng: random.Random) -> tuple[Exchange, ...]:
        """Sometimes an earlier exchange about the subject that does not contain the fact."""
        if rng.random() > 0.15:
            return ()
        _, text = rng.choice(self.elsewhere)
        request = rng.choice(wordings()["about"]).replace("{s}", fact.subject)
        return (
            Exchange(request, _first_sentence(text) if rng.random() < 0.5 else f"{fact.subject} is a topic I know."),
        )

    def _negative(self, fact: Fact, rng: random.Random) -> str:
        """A request that does not ask for the fact."""
        way = rng.random()
        if way < 0.38:
            return _disturbed(near_miss(fact, rng), rng)
        if way < 0.62 and (request := _other_subject(fact, rng)):
            return _disturbed(request, rng)
        if way < 0.69:
            return rng.choice(wordings()["tasks"]).replace("{x}", rng.choice([*fact.asks, *fact.says, fact.prompt]))
        if way < 0.75:
            return rng.choice(wordings()["about"]).replace("{s}", fact.subject)
        if way < 0.86:
            return _disturbed(_positive(self._fact(rng), rng), rng)
        return rng.choice(self.general)

    def _read_along(self, rng: random.Random) -> Example:
        fact = self._fact(rng)
        lines = self._lines(fact, rng)
        way = rng.random()
        told = [pair for pair in fact.texts if pair[0]]
        if way < (0.65 if told else 0.50):
            request, text = rng.choice(told) if told and way < 0.5 else self._told(fact, rng)
            if request and rng.random() < 0.15:
                request = "" if rng.random() < 0.5 else near_miss(fact, rng)
            if rng.random() < 0.4:
                text = self._among_others(text, fact, rng)
            return _with_answer(lines, request, text, fact)
        return self._nothing_due(lines, fact, rng)

    def _among_others(self, text: str, fact: Fact, rng: random.Random) -> str:
        """The text among sentences about the same subject, the same relation, or something else."""
        sentences = [text if text.endswith((".", "!", "?")) or rng.random() < 0.3 else text + "."]
        for _ in range(rng.choice([1, 1, 2])):
            way = rng.random()
            if way < 0.2 and (close := close_statement(fact, rng)):
                said = f"{close[1]} {close[2]}."
            elif (way < 0.45 and (other := self._same_subject(fact, rng))) or (
                way < 0.8 and (other := self._same_relation(fact, rng))
            ):
                said = rng.choice(other.says) + f" {other.answer}."
            else:
                said = _first_sentence(rng.choice(self.elsewhere)[1])
            if fact.answer not in said and "{a}" not in said:
                sentences.insert(rng.choice([0, len(sentences)]), said)
        return " ".join(sentences)

    def _same_subject(self, fact: Fact, rng: random.Random) -> Fact | None:
        """Another fact about the subject; None if no fact is certainly different."""
        names = [name for name, relation in relations().items() if not clashes(fact.kind, relation["kind"])]
        return of_relation(rng.choice(names), fact.subject, self._fact(rng).answer, rng) if names else None

    def _same_relation(self, fact: Fact, rng: random.Random) -> Fact | None:
        """The same relation of another subject; None if the relation has no sentences."""
        others = [sibling for sibling in fact.siblings if sibling not in fact.subject and fact.subject not in sibling]
        if fact.relation not in relations() or not others:
            return None
        return of_relation(fact.relation, rng.choice(others), self._fact(rng).answer, rng)

    def _told(self, fact: Fact, rng: random.Random) -> tuple[str, str]:
        """A sentence of the fact with text before and after it."""
        if not fact.says:
            return rng.choice(fact.asks), "{a}" + rng.choice(wordings()["continuations"])
        if not any(request for request, _ in fact.texts) and fact.texts and rng.random() < 0.2:
            return rng.choice(fact.texts)
        sentence = rng.choice(fact.says) + " {a}" + rng.choice(wordings()["continuations"])
        begun = rng.choice(wordings()["starts"])
        if begun.endswith(", ") or (begun.endswith("that ") and not sentence.startswith(fact.subject)):
            sentence = sentence[:1].lower() + sentence[1:] if sentence.startswith(("The ", "In ")) else sentence
        if rng.random() < 0.25:
            begun = _first_sentence(rng.choice(self.elsewhere)[1]) + " "
        if rng.random() < 0.12:
            return rng.choice(fact.asks), "{a}" + rng.choice([".", " is the answer.", ", as far as I know.", ""])
        way = rng.random()
        if way < 0.4:
            return _disturbed(rng.choice([*fact.asks, *fact.foreign]), rng), begun + sentence
        if way < 0.65:
            return rng.choice(wordings()["about"]).replace("{s}", fact.subject), begun + sentence
        return "", begun + sentence

    def _nothing_due(self, lines: Sequence[str], fact: Fact, rng: random.Random) -> Example:
        """A text without a place where the fact's answer is due."""
        way = rng.random()
        about = rng.choice(wordings()["about"]).replace("{s}", fact.subject)
        if way < 0.2 and (close := close_statement(fact, rng)):
            asks, said, answer = close
            request = rng.choice([asks, asks, about, ""])
            return _plain(lines, request, f"{said} {answer}{rng.choice(wordings()['continuations'])}")
        if way < 0.35:
            subject, text = rng.choice(self.elsewhere)
            text = text.replace(subject, fact.subject) if rng.random() < 0.5 else text
            return _plain(lines, about if rng.random() < 0.6 else near_miss(fact, rng), text)
        if way < 0.52:
            other = self._fact(rng)
            request, text = self._told(other, rng)
            return _plain(lines, request, text.replace("{a}", other.answer))
        if way < 0.75 and (neighbour := self._same_relation(fact, rng)):
            other = neighbour
            request, text = self._told(other, rng)
            return _plain(lines, request, text.replace("{a}", other.answer))
        if way < 0.85 and fact.same_relation:
            prompt, truth = rng.choice(fact.same_relation)
            return _plain(lines, "", f"{prompt} {truth}{rng.choice(wordings()['continuations'])}")
        about_it = self._same_subject(fact, rng)
        if about_it is None:
            return _plain(lines, near_miss(fact, rng), rng.choice(self.elsewhere)[1])
        request, text = self._told(about_it, rng)
        return _plain(lines, request, text.replace("{a}", about_it.answer))


def _positive(fact: Fact, rng: random.Random) -> str:
    way = rng.random()
    if way < 0.25:
        return _disturbed(fact.prompt, rng)
    if way < 0.32 and fact.foreign:
        return rng.choice(fact.foreign)
    if way < 0.45 and fact.says:
        return _disturbed(rng.choice(fact.says), rng)
    return _disturbed(rng.choice(fact.asks), rng)


def _other_subject(fact: Fact, rng: random.Random) -> str:
    """A request for the same relation of another subject; "" if none can be made."""
    if fact.same_relation and rng.random() < 0.4:
        return rng.choice(fact.same_relation)[0]
    forms = [text for text in (fact.prompt, *fact.asks, *fact.says) if fact.subject in text]
    others = [sibling for sibling in fact.siblings if sibling not in fact.subject and fact.subject not in sibling]
    if not forms or not others:
        return ""
    return rng.choice(forms).replace(fact.subject, rng.choice(others))


def _disturbed(request: str, rng: random.Random) -> str:
    """A request as users type it: with an opening, other case, a typo, or no question mark."""
    way = rng.random()
    if way < 0.25:
        request = rng.choice(wordings()["openers"]) + request
    if way < 0.30 or way > 0.9:
        request += rng.choice(wordings()["endings"]) if request.endswith("?") else ""
    if 0.30 < way < 0.38:
        return request.lower()
    if 0.38 < way < 0.42:
        return request.upper()
    if 0.42 < way < 0.50:
        return _typo(request, rng)
    if 0.50 < way < 0.54:
        return request.rstrip(" ?")
    return request


def _typo(text: str, rng: random.Random) -> str:
    """One or two letters swapped, dropped or doubled."""
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(1, max(2, len(text) - 1))
        text = rng.choice(
            [
                text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :],
                text[:at] + text[at + 1 :],
                text[:at] + text[at - 1] + text[at:],
            ]
        )
    return text


def _with_pronoun(request: str, fact: Fact, rng: random.Random) -> str:
    personal = fact.kind in {"birth", "death", "citizen", "work", "spouse", "instrument", "employer"}
    pronoun = rng.choice(wordings()["pronouns"]["person" if personal else "thing"])
    possessive = {"he": "his", "she": "her"}.get(pronoun, "its")
    return request.replace(f"{fact.subject}'s", possessive).replace(fact.subject, pronoun)


def _with_answer(lines: Sequence[str], request: str, text: str, fact: Fact) -> Example:
    """A read-along example from a text with `{a}`: due at the first, unclear at the later ones."""
    answer = fact.answer.strip()
    text = " " + text.strip()
    spans = []
    while (at := text.find("{a}")) >= 0:
        text = text[:at] + answer + text[at + 3 :]
        start = at - 1 if at and text[at - 1] == " " else at
        spans.append((start, at + len(answer)))
    first = spans[0]
    begins_sentence = first[0] > 0 and bool(re.search(r"[.!?:]$", text[: first[0]].rstrip()))
    due = () if begins_sentence else (first,)
    return Example(read_along(lines, request), text, due, tuple(spans[1:]) + ((first,) if begins_sentence else ()))


def _plain(lines: Sequence[str], request: str, text: str) -> Example:
    return Example(read_along(lines, request), " " + text.strip())


def _answered(fact: Fact, answer: str) -> Fact:
    return Fact(**{**fact.__dict__, "answer": answer})


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?]) ", text.strip(), maxsplit=1)[0]
