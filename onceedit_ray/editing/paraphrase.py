"""Paraphrase-like variants of an edit's prompt: noise that keeps the subject and most of the content words.

The plug-in is evaluated on rephrasings that it never saw. If it is trained on the prompt alone, answer and gate depend
on its exact words; with these variants they depend on the subject and the content words. They are made by rule, without
a model, and never use the rephrasings of an `Edit`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from onceedit_ray.knowledge.edit import Edit

_OPENINGS = (
    "Tell me: ", "Do you know: ", "Please answer: ", "I was wondering, ", "Quick question: ", "Can you say ",
    "In a few words, ", "Hey, ", "Remind me, ", "For the record: ", "Just checking: ", "To your knowledge, ",
)  # fmt: skip
_FILLERS = frozenset(
    "a an the is are was were be been of in on at to for from by with does did do has have had that which what who "
    "whom whose when where how it its this as and or please".split()
)


def _with_opening(edit: Edit, rng: random.Random, context: Sequence[str]) -> str:
    prompt = edit.prompt
    if not edit.subject or not prompt.startswith(edit.subject):
        prompt = prompt[:1].lower() + prompt[1:]
    return rng.choice(_OPENINGS) + prompt


def _after_context(edit: Edit, rng: random.Random, context: Sequence[str]) -> str:
    before = rng.choice(context).strip() if context else rng.choice(_OPENINGS).strip(" ,:")
    return f"{' '.join(before.split()[-14:])}{'' if before[-1:] in '.!?' else '.'} {edit.prompt}"


def _plain(edit: Edit, rng: random.Random, context: Sequence[str]) -> str:
    prompt = edit.prompt.rstrip(" ?")
    return prompt.lower() if rng.random() < 0.5 else prompt


def _thinned(edit: Edit, rng: random.Random, context: Sequence[str]) -> str:
    words = [w for w in _masked(edit).split() if "\0" in w or rng.random() > 0.25]
    return _unmasked(" ".join(words), edit)


def _subject_first(edit: Edit, rng: random.Random, context: Sequence[str]) -> str:
    rest = _masked(edit).replace("\0", rng.choice(("it", "this", "that one")))
    return f"{rng.choice(('About ', 'Regarding ', ''))}{edit.subject}{rng.choice((': ', ', ', ' - '))}{rest}"


def _keywords(edit: Edit, rng: random.Random, context: Sequence[str]) -> str:
    words = [w for w in re.findall(r"\w+|\0", _masked(edit)) if w == "\0" or w.lower() not in _FILLERS]
    rng.shuffle(words)
    text = _unmasked(" ".join(words), edit)
    return text + "?" if edit.prompt.rstrip().endswith("?") else text


def _masked(edit: Edit) -> str:
    return edit.prompt.replace(edit.subject, "\0")


def _unmasked(text: str, edit: Edit) -> str:
    return text.replace("\0", edit.subject)


_ANY: tuple[Callable[[Edit, random.Random, Sequence[str]], str], ...] = (_with_opening, _after_context, _plain)
_WITH_SUBJECT = (_thinned, _subject_first, _keywords)


def variant(edit: Edit, rng: random.Random, context: Sequence[str] = ()) -> str:
    """One paraphrase-like variant of `edit.prompt`.

    Args:
        edit: the edit; without a subject found in its prompt only whole-prompt variants are made.
        rng: random generator; the same state gives the same variant.
        context: sentences that may stand before the question.
    """
    kinds = _ANY + (_WITH_SUBJECT if edit.subject and edit.subject in edit.prompt else ())
    return rng.choice(kinds)(edit, rng, context)
