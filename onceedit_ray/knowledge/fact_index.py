"""Finds the edits that a request may be about, in well under a millisecond. The plug-in then judges these candidates.

An edit is found in three ways, the most certain first:

1. One of its prompts occurs in the text word for word (`stored_prompts`).
2. The text names its subject, or an alias of it (`subject_names`); among the edits about one subject those come first
   whose prompt shares most words with the text.
3. The text shares most of a prompt's words (`prompt_words`), where that prompt does not name the subject.

In the second and the third way, a text that asks for the opposite ("begin" for "end") does not find the edit.

If none of these finds an edit and the text is a short question, whole names that would need support count without it: a
question in another language, or with typing errors, contains no word of the prompt. Otherwise the text has no
candidates, and the plug-in is not called.

Time is linear in the length of the text and in the number of edits that share a word with it. The result depends only
on the text and the live edits, not on the order in which the edits were added.
"""

from __future__ import annotations

import heapq
import re
import sys
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from onceedit_ray.errors import ConfigError, UnknownIdError
from onceedit_ray.knowledge.answer_phrases import AnswerPhrases
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.opposites import are_opposed, sides
from onceedit_ray.knowledge.prompt_shapes import unwrap
from onceedit_ray.knowledge.prompt_words import PromptWords
from onceedit_ray.knowledge.reading import TextReading
from onceedit_ray.knowledge.revision import Change
from onceedit_ray.knowledge.stored_prompts import StoredPrompts
from onceedit_ray.knowledge.subject_names import SubjectNames, name_words
from onceedit_ray.knowledge.terms import content, terms, weight
from onceedit_ray.knowledge.territories import names_of
from onceedit_ray.knowledge.vocabulary import Vocabulary, is_form_of

_WORD_FOR_WORD = 3.0
"""The score of a prompt that occurs in the text; higher than any score of a subject (2) or of words (1)."""
_SHORT = 16
"""Number of terms up to which a question is short."""
_QUESTION = re.compile(r"[?？]|^(?:who|whom|whose|what|which|when|where|why|how)\b", re.IGNORECASE)
_UNNAMED_BAR, _NAMELESS_BAR = 0.6, 0.5
"""The part of a prompt that a text must contain: if the prompt does not name its subject, and if the edit has none."""


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate. score: from 0.5 to 4, comparable within one `find` only."""

    id: str
    edit: Edit
    score: float


@dataclass(slots=True)
class _Entry:
    """An edit.

    asks: for each of its prompts, the content words that are not part of its names.
    sides: of the words of all of its prompts that have an opposite, as `opposites.sides` gives them.
    """

    edit: Edit
    asks: tuple[tuple[str, ...], ...]
    sides: frozenset[int]


class FactIndex:
    """Index of the live edits. One object may be used by all threads of a process.

    Args:
        rephrasings: whether an edit is also found by its rephrasings. An evaluation that asks the rephrasings of its
            edits turns this off, since the index would know the questions.
    """

    def __init__(self, rephrasings: bool = True) -> None:
        self._rephrasings = rephrasings
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}
        self._changes = 0
        self._vocabulary = Vocabulary()
        self._names = SubjectNames()
        self._answers = AnswerPhrases()
        self._prompts = StoredPrompts()
        self._unnamed = PromptWords(_UNNAMED_BAR)
        self._nameless = PromptWords(_NAMELESS_BAR)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: str) -> bool:
        return id in self._entries

    @property
    def changes(self) -> int:
        """The number of edits added and removed so far; what was derived from `edits` is out of date if it grows."""
        return self._changes

    def edits(self) -> dict[str, Edit]:
        """All live edits by their id, in the order of the ids."""
        with self._lock:
            return {id: self._entries[id].edit for id in sorted(self._entries)}

    def edit(self, id: str) -> Edit:
        """A live edit; raises `UnknownIdError` if it is not in the index."""
        with self._lock:
            return self._entry(id).edit

    def add(self, id: str, edit: Edit) -> None:
        """Add an edit; an edit of the same id is replaced."""
        with self._lock:
            if id in self._entries:
                self.drop(id)
            names, prompts, of_names = self._parts(edit)
            asks = tuple(tuple(map(sys.intern, _asked(prompt, of_names))) for prompt in prompts)
            of_prompts = sides(term for prompt in prompts for term in terms(prompt))
            self._entries[id] = _Entry(edit, asks, of_prompts)
            self._changes += 1
            for name in names:
                self._names.add(name, id)
            self._answers.add(id, edit.target_new)
            self._prompts.add(id, prompts)
            words = self._nameless if not names else self._unnamed
            words.add(id, _unnamed(prompts, names))
            self._vocabulary.add(_vocabulary(prompts, of_names))

    def drop(self, id: str) -> None:
        """Remove an edit; raises `UnknownIdError` if it is not in the index."""
        with self._lock:
            entry = self._entry(id)
            del self._entries[id]
            self._changes += 1
            names, prompts, of_names = self._parts(entry.edit)
            for name in names:
                self._names.drop(name, id)
            self._answers.drop(id, entry.edit.target_new)
            self._prompts.drop(id, prompts)
            words = self._nameless if not names else self._unnamed
            words.drop(id, _unnamed(prompts, names))
            self._vocabulary.drop(_vocabulary(prompts, of_names))

    def apply(self, change: Change) -> None:
        """Apply a change of the store: drop what it dropped, add what it added."""
        with self._lock:
            for stored in change.dropped:
                self.drop(stored.id)
            for stored in change.added:
                self.add(stored.id, stored.edit)

    def find(self, question: str, limit: int = 8, hidden: Collection[str] = ()) -> list[Found]:
        """The edits that a text may be about, the most likely first; none for a text about something else.

        Args:
            question: a request, or a text of any length.
            limit: maximum number of edits.
            hidden: ids of edits that are not found.

        Raises:
            ConfigError: `limit` is below 1.
        """
        if limit < 1:
            raise ConfigError(f"limit is {limit}; it must be at least 1")
        with self._lock:
            reading = TextReading(question, self._vocabulary, self._names.__contains__)
            scores = self._scores(reading)
            if _is_short_question(reading) and all(id in hidden for id in scores):
                scores = self._scores(reading, supported=True)
            return self._best(scores, limit, hidden)

    def find_answers(self, question: str, limit: int = 8, hidden: Collection[str] = ()) -> list[Found]:
        """The edits whose answer occurs in a text; those come first that share most words with it.

        Arguments and errors as for `find`; a score is between 0 and 1.
        """
        if limit < 1:
            raise ConfigError(f"limit is {limit}; it must be at least 1")
        with self._lock:
            reading = TextReading(question, self._vocabulary, self._names.__contains__)
            return self._best({id: self._shared(id, reading) for id in self._answers.named_in(reading)}, limit, hidden)

    def _entry(self, id: str) -> _Entry:
        entry = self._entries.get(id)
        if entry is None:
            raise UnknownIdError(f"no edit '{id}' in the index; it was dropped before, or never added")
        return entry

    def _best(self, scores: Mapping[str, float], limit: int, hidden: Collection[str]) -> list[Found]:
        # Newer ids sort behind older ones: of equal candidates the newest comes first.
        seen = (item for item in scores.items() if item[0] not in hidden)
        best = heapq.nlargest(limit, seen, key=lambda item: (item[1], item[0]))
        return [Found(id, self._entries[id].edit, score) for id, score in best]

    def _shared(self, id: str, reading: TextReading) -> float:
        """The share of the words of an edit's prompt that occur in a text, by their weight."""
        words = content(terms(self._entries[id].edit.question))
        total = sum(map(weight, words))
        return sum(weight(word) * reading.hits.get(word, 0.0) for word in words) / total if total else 0.0

    def _scores(self, reading: TextReading, supported: bool = False) -> dict[str, float]:
        """Candidates and their scores; `supported`: whether a whole name counts as if the text supported it."""
        asked = {**self._unnamed.asked_in(reading), **self._nameless.asked_in(reading)}
        said = sides(reading.around(None))
        scores = {id: score for id, score in asked.items() if not are_opposed(self._entries[id].sides, said)}
        for named in self._names.named_in(reading, supported):
            said = sides(reading.around(named.place))
            for id in named.name.ids:
                if are_opposed(self._entries[id].sides, said):
                    continue
                part = self._asked_part(id, reading, named.place)
                if part or not named.needs_support:
                    score = named.strength + part if named.is_whole else named.strength * (1 + part) / 2
                    scores[id] = max(score, scores.get(id, 0.0))
        for id, length in self._prompts.asked_in(reading).items():
            scores[id] = _WORD_FOR_WORD + length / max(length, len(reading.terms))
        return scores

    def _asked_part(self, id: str, reading: TextReading, place: int) -> float:
        """The largest share, over the edit's prompts, of the content words that occur near a place, from 0 to 1."""
        best = 0.0
        for words in self._entries[id].asks:
            shared = 0.0
            for word in words:
                if word in reading.hits:
                    shared += weight(word) * reading.near(word, place)
            if shared:
                best = max(best, shared / sum(map(weight, words)))
        return best

    def _parts(self, edit: Edit) -> tuple[list[str], list[str], frozenset[str]]:
        """An edit's names, its prompts, and the words of its names."""
        names = [name for name in dict.fromkeys(names_of(edit)) if terms(name)]
        rephrasings = edit.rephrasings if self._rephrasings else ()
        prompts = [prompt for prompt in dict.fromkeys(map(unwrap, (edit.prompt, *rephrasings))) if prompt]
        return names, prompts, frozenset(word for name in names for word in name_words(name))


def _is_short_question(reading: TextReading) -> bool:
    return len(reading.terms) <= _SHORT and _QUESTION.search(reading.text.strip()) is not None


def _asked(prompt: str, of_names: frozenset[str]) -> list[str]:
    return [word for word in content(terms(prompt)) if word not in of_names]


def _unnamed(prompts: Iterable[str], names: Iterable[str]) -> list[str]:
    """The prompts that contain no name."""
    known = [name_words(name) for name in names]
    return [
        prompt
        for prompt in prompts
        if not any(all(any(is_form_of(term, word) for term in terms(prompt)) for word in words) for words in known)
    ]


def _vocabulary(prompts: Iterable[str], of_names: frozenset[str]) -> set[str]:
    return {sys.intern(word) for prompt in prompts for word in content(terms(prompt))} | of_names
