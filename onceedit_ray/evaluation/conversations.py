"""How an answer in a conversation is scored, without a judge model.

If the fact is due, an answer is right if it contains the new answer, does not contain the old one, and is not cut off.
If the fact is not due, an answer is right if it is identical to the unedited target's answer. Two more scores are the
length of the answer and the share of words outside the edited sentence that the edit did not change. These scores do
not detect an answer that names the new answer only to deny it ("it is not Perth"). This file works on texts; it uses
no model and reads no file.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from onceedit_ray.evaluation.conversation_cases import Case
from onceedit_ray.fusion.screen import words

LENGTHS = (0.7, 1.3)
"""An answer that did not end counts as complete if its length over the unedited answer's lies in this range."""

# Thai to Burmese, Khmer, kana, Chinese characters: scripts without spaces, in which the end of a word is not marked.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LETTER = rf"[^\W_{_UNSPACED}]"
# A sentence ends at a full stop or a line break. "J." in "J. K. Rowling" ends none, nor does the number of a list item.
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b\d\.)\s+|(?<=[。！？])|\n+")


@dataclass(frozen=True)
class Answer:
    """The text that a target wrote, and whether it ended by itself within the token limit."""

    text: str
    ended: bool


@dataclass(frozen=True)
class ConversationScore:
    """The scores of one answer.

    right: see the module. identical: the text equals the unedited answer. said: every group of `must` occurs.
    stale: a text of `must_not` occurs. cut: it did not end, and its length differs much from the unedited answer's.
    length: number of words over the unedited answer's; None if that has no words. kept: share of the unedited answer's
    words outside the edited sentence that are still there, in order; None if there are none.
    """

    right: bool
    identical: bool
    said: bool
    stale: bool
    cut: bool
    length: float | None
    kept: float | None


def score(case: Case, answer: Answer, unedited: Answer) -> ConversationScore:
    """Score an answer, compared with the unedited target's answer in the same conversation."""
    identical = answer.text == unedited.text
    said = all(any(occurs(text, answer.text) for text in group) for group in case.must)
    stale = any(occurs(text, answer.text) for text in case.must_not)
    length = length_ratio(answer.text, unedited.text)
    whole = answer.ended or (length is not None and LENGTHS[0] <= length <= LENGTHS[1])
    return ConversationScore(
        right=said and not stale and whole if case.due else identical,
        identical=identical,
        said=said,
        stale=stale,
        cut=not whole,
        length=length,
        kept=kept_words(answer.text, unedited.text, [text for group in case.must for text in group], case.must_not),
    )


def occurs(wanted: str, text: str) -> bool:
    """Whether `wanted` occurs in `text` as whole words; letter case is ignored.

    "Rome" does not occur in "Romeo", and "8" occurs neither in "18" nor in "8.5". In scripts without spaces any
    occurrence counts.
    """
    return end_of(unicodedata.normalize("NFC", wanted), unicodedata.normalize("NFC", text)) is not None


def end_of(wanted: str, text: str) -> int | None:
    """The end of the first occurrence of `wanted` in `text`, in characters, by the rule of `occurs`; None if none."""
    found = re.search(_pattern(wanted), text, re.IGNORECASE)
    return found.end() if found else None


def _pattern(wanted: str) -> str:
    wanted = " ".join(wanted.split())
    before = rf"(?<!{_LETTER})" if re.match(_LETTER, wanted[:1]) else ""
    after = rf"(?!{_LETTER})" if re.match(_LETTER, wanted[-1:]) else ""
    if wanted[:1].isdigit():
        before += r"(?<!\d[.,])"
    if wanted[-1:].isdigit():
        after += r"(?![.,]\d)"
    return before + r"\s+".join(map(re.escape, wanted.split(" "))) + after


def length_ratio(text: str, unedited: str) -> float | None:
    """Words of `text` over words of `unedited`; each ideograph is a word. None if `unedited` has no words."""
    own = len(words(unedited))
    return len(words(text)) / own if own else None


def sentences(text: str) -> list[str]:
    """The sentences of a text; a line break ends a sentence too. None of them is blank."""
    return [piece.strip() for piece in _SENTENCE_END.split(text) if piece.strip()]


def kept_words(text: str, unedited: str, new: Iterable[str], old: Iterable[str]) -> float | None:
    """The share of the unedited answer's words, outside the edited sentence, that the answer still has, in order.

    The edited sentences are those with an old answer in `unedited`, and those with a new answer in `text`. If
    `unedited` never gives the old answer, its edited sentence is the one with the same number as that of `text`.

    Returns:
        A share in [0, 1]; None if the unedited answer has no other sentence.
    """
    after, before = sentences(text), sentences(unedited)
    edited = _holding(after, new)
    replaced = _holding(before, old) or edited
    rest = [word for index, sentence in enumerate(before) if index not in replaced for word in words(sentence)]
    left = [word for index, sentence in enumerate(after) if index not in edited for word in words(sentence)]
    if not rest:
        return None
    blocks = SequenceMatcher(None, rest, left, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks) / len(rest)


def _holding(pieces: Sequence[str], wanted: Iterable[str]) -> set[int]:
    wanted = list(wanted)
    return {index for index, piece in enumerate(pieces) if any(occurs(text, piece) for text in wanted)}


def perplexity(probabilities: Sequence[float]) -> float | None:
    """The perplexity of tokens from their probabilities, each above 0; None if there are none."""
    if not probabilities:
        return None
    return math.exp(-math.fsum(map(math.log, probabilities)) / len(probabilities))
