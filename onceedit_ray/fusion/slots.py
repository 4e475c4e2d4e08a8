"""Decides where a text is corrected: which slots the text contradicts, and which of these are left alone.

A slot is a position at which the gate, evaluated along the text, says that the answer of a fact comes next. A slot that
the text contradicts is still left alone in five cases, in which the text does not state the fact:

1. It stands in a fenced block of code.
2. The request is a task on a text (it has no question mark of its own) and does not ask for the fact, and the word at
   the slot stands in that request: the target quotes or translates.
3. The word at the slot is of another kind than the fact's answer: the answer is a number and the word is none, or the
   other way round ("was built in 1889" does not say where); or the answer begins with a capital letter and the word
   with a small one ("where he was born, we need to"). A name that comes later in the sentence has a slot of its own.
4. The text ends there with a whole sentence.
5. The sentence says the opposite of what the fact is about ("began in", where the fact says when it ended).

This file works on texts and numbers; it uses no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from onceedit_ray.knowledge.opposites import are_opposed, sides
from onceedit_ray.knowledge.terms import STOP_WORDS, is_listed, terms

REACH = 5
"""Number of plug-in tokens within which slots compete: the answer is written at one of them."""

AJAR = 0.1
"""Lowest gate weight at which an old answer that is a number or an ordinary word counts as repeated."""

_JUDGED = re.compile(r"\b(?:true or false|right or wrong|fact[- ]?check)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?。]\s+|\n")
_FENCE = "```"
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r"[\"“„«][^\"”“»]*[\"”“»]|```.*?```", re.DOTALL)
_CAPITALISED = r"[^\W\d_a-z][\w'’-]*"
_NAME = re.compile(
    rf"\W*(?:the |an? )?((?:[A-Z]\.\s?)*{_CAPITALISED}(?:\s+(?:(?:of|the|de|von|van|da) )?{_CAPITALISED})*|[\w'’-]+)"
)
_DENIED = re.compile(r"(?i)(\bnot|n't|\bnever|\bnor|instead of|rather than|other than)\s*(in|by|from|the|to)?\s*$")
NUMBER_WORDS = frozenset(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million""".split()
)


@dataclass(frozen=True)
class Slot:
    """A position at which the plug-in's answer is due.

    offset: bytes of the text before it. weight: the gate's w there. agrees: whether the text continues as the plug-in
        would; None if the text ends before that is known. token: its index among the plug-in's tokens of the text.
    begins: whether the plug-in would begin the answer of a known fact there.
    """

    offset: int
    weight: float
    agrees: bool | None
    token: int
    begins: bool = False


@dataclass(frozen=True)
class Repeat:
    """A place where a text repeats an old answer that a new answer has replaced.

    name: the old answer. is_beside: whether the same sentence has given a new answer before.
    """

    slot: Slot
    name: str
    is_beside: bool


class Undecided(Enum):
    """The text is too short to tell whether it contradicts a slot."""

    YET = "yet"


def first_contradiction(
    slots: Sequence[Slot], threshold: float, ended: bool, left_alone: Collection[int] = ()
) -> Slot | Undecided | None:
    """The first slot that the text contradicts; None if there is none.

    Of the slots within `REACH` tokens the one is taken at which the plug-in would begin a fact's answer, and among
    these the one of highest gate weight. If the text agrees where an answer begins, it states the fact, and the search
    continues after that slot.

    Args:
        slots: consecutive positions. threshold: of the gate. ended: whether the text is complete; if it is not, a slot
            near its end is `Undecided`. left_alone: offsets of slots that do not count.
    """
    at = 0
    while at < len(slots):
        slot = slots[at]
        if slot.weight < threshold or slot.agrees is True or slot.offset in left_alone:
            at += 1
            continue
        near = slots[at + 1 : at + 1 + REACH]
        if not ended and (slot.agrees is None or len(near) < REACH):
            return Undecided.YET
        open_near = [each for each in near if each.weight >= threshold and each.offset not in left_alone]
        agreeing = next((each for each in open_near if each.agrees is True and each.begins), None)
        if agreeing is None:
            rivals = [slot, *(each for each in open_near if each.agrees is False)]
            return max(rivals, key=lambda each: (each.begins, each.weight))
        at = slots.index(agreeing, at) + 1
    return None


def is_left_alone(before: str, after: str, answer: str, request: str, is_asked: bool) -> bool:
    """Whether a slot is left alone although the text contradicts it.

    Args:
        before, after: the text before the slot, and from it on. answer: the fact's. request: the user's. is_asked:
            whether the request asks for a fact.
    """
    if before.count(_FENCE) % 2:
        return True
    word = next((word for word in _WORD.findall(after)[:3] if word.casefold() not in STOP_WORDS), "")
    if word and not is_asked and is_task(request) and re.search(rf"\b{re.escape(word)}", request, re.IGNORECASE):
        return True
    if not after.strip() and before.rstrip().endswith((".", "!", "?", "。")):
        return True
    following = _WORD.search(after)
    return following is not None and not _is_alike(following[0], answer)


def says_opposite(before: str, prompt: str) -> bool:
    """Whether the sentence at the end of a text has the opposite of what a fact's prompt asks for."""
    return are_opposed(sides(terms(prompt)), sides(terms(_SENTENCE_END.split(before)[-1])))


def name_at(text: str) -> str:
    """The name, number or word that begins a text and stands in the place of an answer; "" if there is none."""
    found = _NAME.match(text)
    return found[1] if found and found[1].casefold() not in STOP_WORDS else ""


def may_repeat(text: str, names: Collection[str]) -> bool:
    """Whether a text ends with one of `names`, or with the beginning of one."""
    ends = (name[:length] for name in names for length in range(1, len(name) + 1))
    return any(re.search(rf"(?<!\w){re.escape(end)}$", text) for end in ends)


def repeats(
    slots: Sequence[Slot],
    text: bytes,
    names: Collection[str],
    told: Collection[str],
    is_asked: bool,
    left_alone: Collection[int] = (),
) -> Repeat | None:
    """The first place where a text gives one of `names`, whatever the gate's weight is there; None if there is none.

    A name that is denied ("not Paris") stays. A number, or an ordinary word ("green") unless the request asks for the
    fact, counts only in a sentence that has given a new answer before it, or where the gate is not closed.

    Args:
        names: what new answers have replaced. told: the new answers. is_asked: whether the request asks for a fact.
    """
    for slot in slots if names else ():
        if slot.agrees or slot.offset in left_alone:
            continue
        before, after = (part.decode("utf-8", errors="ignore") for part in (text[: slot.offset], text[slot.offset :]))
        if before[-1:].isalnum() and after[:1].isalnum():
            continue
        name = next((name for name in names if re.match(rf"\W*{re.escape(name)}(?!\w)", after)), None)
        if name is None or _DENIED.search(before):
            continue
        sentence = re.split(r"[.!?\n](?:\s|$)", before)[-1].casefold()
        is_beside = any(answer.casefold() in sentence for answer in told)
        is_told = name[:1].isupper() or (is_asked and not _is_number(name))
        if is_told or is_beside or slot.weight >= AJAR:
            return Repeat(slot, name, is_beside)
    return None


def old_names(answer: str) -> list[str]:
    """What an old answer is called in a text: the answer, or its last word if that is a name of its own ("Bach")."""
    words = answer.split()
    last = words[-1] if 1 < len(words) <= 3 else ""
    return [name for name in (answer.strip(), last) if name and (name == answer.strip() or _is_own_name(last))]


def _is_own_name(word: str) -> bool:
    return len(word) > 3 and word[0].isupper() and not any(map(is_listed, terms(word)))


def is_task(request: str) -> bool:
    """Whether a request is a task on a text: it has no question mark outside quotation marks."""
    return bool(request.strip()) and not re.search(r"[?？]", _QUOTED.sub("", request))


def holds_text(request: str) -> bool:
    """Whether a request contains a text to work on, in quotation marks or after a colon."""
    return _QUOTED.search(request) is not None or re.search(r":\s*\S+\s+\S+\s+\S", request) is not None


def judges(request: str) -> bool:
    """Whether a request asks if a text is true."""
    return _JUDGED.search(request) is not None


def _is_alike(word: str, answer: str) -> bool:
    """Whether a word may begin an answer of the same kind."""
    if _is_number(word) or _is_number(answer):
        return _is_number(word) == _is_number(answer)
    return not (answer.strip()[:1].isupper() and word[0].islower())


def _is_number(text: str) -> bool:
    first = _WORD.search(text)
    return first is not None and (first[0][0].isdigit() or first[0].casefold() in NUMBER_WORDS)
