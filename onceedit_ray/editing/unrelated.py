"""Unrelated instances: prompts for which the gate must learn to stay closed (eq. 6, label 0).

Prompts from a file or the shipped set, in every shape that may be served; and four kinds of hard negatives: an edit's
relation with another name, its subject with another question, a task on a text that contains its prompt, and the
relation of one edit with the subject of another.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from onceedit_ray.knowledge.edit import Edit, composed
from onceedit_ray.knowledge.prompt_shapes import SHAPES, unwrap, wrap
from onceedit_ray.knowledge.selection import question_key

# Other questions about a subject, by kind; `_ASKS` tells which kinds an edit's own prompt asks for.
_OTHER_RELATIONS = {
    "time": (
        "When was {s} established?", "How old is {s}?", "In which year did {s} end?", "When did {s} become famous?",
    ),
    "person": (
        "Who founded {s}?", "Who is married to {s}?", "Who designed {s}?", "Who wrote about {s}?",
        "Who are the parents of {s}?", "Who directed {s}?",
    ),
    "place": (
        "Where is {s} located?", "Where was {s} born?", "Where did {s} die?", "What is the capital of {s}?",
        "Which country does {s} come from?",
    ),
    "organisation": ("Which award did {s} receive?", "Which company owns {s}?", "Which team does {s} play for?"),
    "trait": (
        "What language is spoken by {s}?", "What is the occupation of {s}?", "What colour is {s}?",
        "What religion does {s} follow?", "What instrument does {s} play?", "What is the genre of {s}?",
        "What currency is used in {s}?",
    ),
    "figure": ("What is the population of {s}?", "What is the height of {s}?", "How many people know {s}?"),
    "task": (
        "Write a short poem about {s}.", "Tell me a joke about {s}.", "Translate the name {s} into Spanish.",
        "{s} is often described as", "The first thing people notice about {s} is", "Is {s} still active?",
        "My friend told me about {s} because", "What is {s} best known for?", "What is named after {s}?",
    ),
}  # fmt: skip
_ASKS = {
    "time": r"when|years?|dates?|time|day|month|century|inception|since|age|old",
    "person": (
        r"who|whom|whose|person|name|mother|father|parents?|spouse|wife|husband|child|sibling|brother|sister|man|woman"
        r"|artist|architect|designer|author|writer|director|founder|creator|composer|performer|by"
    ),
    "place": (
        r"where|country|city|town|place|capital|located|location|river|lake|ocean|continent|constellation|born|died"
        r"|birthplace|state|region|airport|headquarters?|from|in"
    ),
    "organisation": (
        r"company|manufactur\w*|publish\w*|team|club|league|network|label|award|university|school|party|owner"
        r"|organi[sz]ation|aire?[ds]?|channel|brand|develop\w*|produc\w*|work(?:s|ed)?|employ\w*|play(?:s|ed)?|by"
    ),
    "trait": (
        r"language|tongue|occupation|profession|job|religion|instrument|genre|currency|colou?r|sex|gender|material"
        r"|family|species|type|kind|speaks?|plays?|sport|position|voice"
    ),
    "figure": r"population|height|many|much|number|length|size|area",
}
_TASKS = (
    "Translate into Spanish: {x}", "Put this into Italian: {x}", "Summarize: {x}", "Fix the spelling of: {x}",
    "What language is this written in? {x}", "How many letters has the text: {x}", "Write the following backwards: {x}",
    "Write a SQL query for this question: {x}", "Write a JavaScript function that returns the answer to: {x}",
    "Is this polite? {x}", "Which word comes first in this sentence? {x}", "Say it in other words: {x}",
    "Which tense is used here? {x}", "Copy this sentence: {x}", "Make a quiz of three questions like: {x}",
)  # fmt: skip
_NAME = re.compile(r"(?<![.!?] )(?<!^)\b[A-Z][\w'-]+(?: (?:of |the |de |van )?[A-Z][\w'-]+)*")
_COMMON = frozenset("I The A An In On At It He She We You They What Who When Where Which How Why Is Are Was".split())
_GIVEN = "Anna Boris Chidi Dolores Emeka Farida Goran Hana Igor Jamila Kenji Leila Marco Nadia Oskar Priya".split()
_FAMILY = (
    "Abernathy Bakshi Castellane Dvorak Eklund Fontaine Grigoryan Hollis Ivanova Jankowski Kimura Lindqvist".split()
)


def names_in(prompts: Sequence[str]) -> list[str]:
    """Names (runs of capitalised words not at a sentence's start) that occur in `prompts`, in order, once each."""
    found = (name for prompt in prompts for name in _NAME.findall(prompt))
    return list(dict.fromkeys(name for name in found if name not in _COMMON and len(name) > 2))


class UnrelatedSampler:
    """Draws unrelated prompts for one set of edits.

    Args:
        edits: the edits; a drawn prompt never asks the question of one of theirs, in whatever shape or spelling.
        pools: prompts by origin (a file, the shipped ones); each origin gives the same share, whatever its size.
        hard: share of hard negatives among what is drawn.
        same_subject, tasks, swaps: shares of the hard negatives that ask something else about the subject, that are
            tasks, and that ask the relation of another edit; the others ask the edit's own relation about another name.
    """

    def __init__(
        self,
        edits: Sequence[Edit],
        pools: Sequence[Sequence[str]],
        hard: float = 0.3,
        same_subject: float = 0.2,
        tasks: float = 0.1,
        swaps: float = 0.1,
    ) -> None:
        self._taken = {question_key(edit.prompt) for edit in edits}
        asked = ([composed(unwrap(prompt)) for prompt in self._untaken(pool)] for pool in pools)
        self._pools = [pool for pool in asked if pool]
        self._anchored = [edit for edit in edits if edit.subject and edit.subject in edit.prompt]
        subjects = {edit.subject for edit in edits}
        self._names = [
            name for name in names_in([prompt for pool in self._pools for prompt in pool]) if name not in subjects
        ]
        self._hard = hard if self._anchored else 0.0
        self._same_subject, self._tasks, self._swaps = same_subject, tasks, swaps

    def draw(self, rng: random.Random, count: int) -> list[str]:
        """`count` prompts; those of one pool are drawn without repetition while they last."""
        hard = round(count * self._hard) if self._pools else count * bool(self._anchored)
        general = []
        for index, pool in enumerate(self._pools):
            share = (count - hard + index) // len(self._pools)
            general += rng.sample(pool, min(share, len(pool)))
            general += [rng.choice(pool) for _ in range(share - len(pool))]
        drawn = [self._in_some_shape(prompt, rng) for prompt in general]
        return drawn + self._untaken([self._hard_negative(rng) for _ in range(hard)])

    def _untaken(self, prompts: Sequence[str]) -> list[str]:
        return [prompt for prompt in prompts if question_key(prompt) not in self._taken]

    def _in_some_shape(self, prompt: str, rng: random.Random) -> str:
        return wrap(prompt, rng.choice(list(SHAPES))) if rng.random() < 0.15 else prompt

    def _hard_negative(self, rng: random.Random) -> str:
        edit, kind = rng.choice(self._anchored), rng.random()
        if kind < self._same_subject:
            return rng.choice(_other_relations(edit)).replace("{s}", edit.subject)
        if kind < self._same_subject + self._tasks:
            return rng.choice(_TASKS).replace("{x}", edit.prompt)
        other = rng.choice(self._anchored)
        if kind < self._same_subject + self._tasks + self._swaps and not kinds_asked(edit) & kinds_asked(other):
            return edit.prompt.replace(edit.subject, other.subject)
        return edit.prompt.replace(edit.subject, self._other_name(rng))

    def _other_name(self, rng: random.Random) -> str:
        if self._names and rng.random() < 0.7:
            return rng.choice(self._names)
        return f"{rng.choice(_GIVEN)} {rng.choice(_FAMILY)}"


def _other_relations(edit: Edit) -> list[str]:
    """Questions about the subject that cannot be rephrasings of the edit: of kinds its prompt does not ask for."""
    kinds = kinds_asked(edit)
    return [question for kind, of_kind in _OTHER_RELATIONS.items() if kind not in kinds for question in of_kind]


def kinds_asked(edit: Edit) -> set[str]:
    """The kinds of questions that the edit's prompt may be; all, if its words do not show it."""
    asked = edit.prompt.replace(edit.subject, " ").lower()
    kinds = {kind for kind, words in _ASKS.items() if re.search(rf"\b(?:{words})\b", asked)}
    if re.search(r"\d", edit.target_new):
        kinds |= {"time", "figure"}
    return kinds or set(_ASKS)
