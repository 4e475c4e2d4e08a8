"""Hard negatives: requests near an edit that do not ask for it. The gate must stay closed for them.

A version goes live only if it does. The requests of the training (`editing.unrelated`) have other wordings.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from onceedit_ray.editing.unrelated import kinds_asked
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import question_key
from onceedit_ray.reader.facts import Fact, kind_of, wordings
from onceedit_ray.reader.near_misses import near_miss

MOST_OF_ONE = 4
"""Hard negatives of a kind that are drawn for one edit."""
_OWNER = re.compile(r"\b(?:our|my|your)\b", re.I)
_OTHER_OWNERS = ("the neighbours'", "another company's", "my sister's", "the White House's")
_WORD = re.compile(r"[A-Za-zÀ-ɏ]{4,}")
_ABOUT_WORDS = (
    "What does the word {w} mean?", "How do you spell {w}?", "Write a poem about {w}.", "Use {w} in a sentence.",
    "Is the word {w} a noun or a verb?", "What rhymes with {w}?",
)  # fmt: skip


def near_misses(edit: Edit, rng: random.Random, count: int) -> list[str]:
    """At most `count` requests that name what the edit is about and ask for something else.

    They are about the subject. If the edit has none, or if it may be a common word ("Apple"), they are also about the
    words themselves, and about the same thing of somebody else ("our office", "my sister's office").
    """
    found, others = [], _about_words(edit)
    for number in range(count):
        if edit.subject and (number % 2 == 0 or not others):
            fact = Fact(edit.question, edit.target_new, edit.subject, kind_of(edit.question), ())
            found.append(near_miss(fact, rng))
        elif others:
            found.append(rng.choice(others))
    return sorted(set(found) - {edit.question, *edit.rephrasings})


def tasks(edit: Edit, rng: random.Random, count: int) -> list[str]:
    """`count` tasks, such as a translation, on a text that contains the edit's prompt."""
    return [task.replace("{x}", edit.prompt) for task in rng.sample(wordings()["tasks"], count)]


def swaps(edit: Edit, others: Sequence[Edit], rng: random.Random, count: int) -> list[str]:
    """At most `count` prompts of `others` in which this edit's subject takes the place of theirs.

    Only of others whose prompts certainly ask for another kind of answer: "The capital of Australia is" would be a
    rephrasing of "What is the capital of Australia?".
    """
    if not edit.subject:
        return []
    kinds = kinds_asked(edit)
    able = [
        other.question.replace(other.subject, edit.subject)
        for other in others
        if other.subject and other.subject in other.question and not kinds & kinds_asked(other)
    ]
    return rng.sample(able, min(count, len(able)))


def around(edits: Sequence[Edit], live: Sequence[Edit], most: int = 200) -> dict[str, list[str]]:
    """At most `most` hard negatives of a kind for `edits`, as many for each; none asks for an edit of `live`.

    The kinds are `near_misses`, `tasks` and `swaps`. The same edits give the same ones.
    """
    count = max(1, min(MOST_OF_ONE, most // max(len(edits), 1)))
    rng = random.Random(0)
    taken = {question_key(text) for edit in live for text in (edit.prompt, *edit.rephrasings)}
    drawn = {
        "near_misses": [text for edit in edits for text in near_misses(edit, rng, count)],
        "tasks": [text for edit in edits for text in tasks(edit, rng, count)],
        "swaps": [text for edit in edits for text in swaps(edit, live, rng, count)],
    }
    able = {kind: [text for text in texts if question_key(text) not in taken] for kind, texts in drawn.items()}
    return {kind: rng.sample(texts, min(most, len(texts))) for kind, texts in able.items()}


def _about_words(edit: Edit) -> list[str]:
    """Requests about the words of an edit whose words may be common ones."""
    if edit.subject and " " in edit.subject.strip():
        return []
    words = [edit.subject] if edit.subject else sorted(_WORD.findall(edit.question), key=len)[-3:]
    found = [ask.replace("{w}", word.lower()) for word in words for ask in _ABOUT_WORDS]
    return found + [_OWNER.sub(owner, edit.question) for owner in _OTHER_OWNERS if _OWNER.search(edit.question)]
