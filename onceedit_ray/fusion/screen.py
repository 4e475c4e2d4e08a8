"""The screen before the gate: does a question mention the subject of any edit?

The gate costs a plug-in prefill. A question that names no edited subject cannot be about an edit, and the screen finds
this out in microseconds: the plug-in is not called, and the target answers at its native speed. The gate still judges
the requests that pass the screen.

A subject counts as mentioned when words holding at least `SHARE` of its weight occur; rare words weigh more, and a
word occurs in another form too ("Australian" for "Australia"). Aliases are subjects too. If a prompt or rephrasing of
an edit mentions none of them by this measure ("IBM" under its full name, an id, symbols), its own words count as a
subject, and the unchanged prompt always passes. The screen does not recognise names that share no word with the subject
("Down Under"); with `screen: none` the gate is always asked.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.prompt_files import shipped_prompts
from onceedit_ray.knowledge.prompt_shapes import unwrap

SHARE = 0.5
STEM = 4
"""Minimum number of letters that two forms of one word share; at least 0.7 of the subject's word."""

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+")


class Screen:
    """The subjects of `edits`, prepared for the search."""

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._seen = Counter(word for prompt in shipped_prompts() for word in set(words(prompt)))
        self._totals: list[float] = []
        self._by_stem: dict[str, list[tuple[int, str, float]]] = defaultdict(list)
        self._whole: set[str] = set()
        for name in dict.fromkeys(name for edit in edits for name in (edit.subject, *getattr(edit, "aliases", ()))):
            self._look_for(name)
        for prompt in dict.fromkeys(prompt for edit in edits for prompt in (edit.prompt, *edit.rephrasings)):
            question = unwrap(prompt)
            if not self.mentions(question):
                self._whole.add(_compared(question))
                self._look_for(question)

    def _look_for(self, name: str) -> None:
        weights = {word: math.log((len(self._seen) + 1) / (self._seen[word] + 0.5)) for word in words(name)}
        for word, weight in weights.items():
            self._by_stem[word[:STEM]].append((len(self._totals), word, weight))
        self._totals.append(sum(weights.values()))

    def mentions(self, question: str) -> bool:
        """Whether the question may be about an edit."""
        if _compared(question) in self._whole:
            return True
        found: dict[int, dict[str, float]] = defaultdict(dict)
        for asked in set(words(question)):
            for subject, word, weight in self._by_stem.get(asked[:STEM], ()):
                if _is_form_of(asked, word):
                    found[subject][word] = weight
        return any(sum(of.values()) >= SHARE * self._totals[subject] for subject, of in found.items())


def words(text: str) -> list[str]:
    """The words of a text, lower-case and without accents; an ideograph counts as a word."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(character for character in plain if not unicodedata.combining(character)))


def _compared(text: str) -> str:
    """The form in which two spellings of a question are compared: composed characters, no case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _is_form_of(asked: str, word: str) -> bool:
    if asked == word:
        return True
    shared = next((i for i, (a, b) in enumerate(zip(asked, word, strict=False)) if a != b), min(len(asked), len(word)))
    return shared >= max(STEM, math.ceil(0.7 * len(word)))
