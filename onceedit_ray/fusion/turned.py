"""Yes/no questions and reversed questions about a fact, reworded into requests that ask for the fact.

The gate judges whether a request asks for a fact (eq. 6). Two kinds of question are about a fact and do not ask for it:

- A yes/no question: "Is Canberra the capital of Australia?" asks for the capital if "Is what the
  capital of Australia?" does. The name in the question is compared with the fact's answer.
- A reversed question, which names the fact's answer and asks for its subject: "Which country has Perth as its
  capital?" is answered by the subject if "Australia has what as its capital?" asks for the fact.

This file works on texts; it uses no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from onceedit_ray.fusion.slots import NUMBER_WORDS
from onceedit_ray.fusion.whole_words import find_whole
from onceedit_ray.knowledge.edit import Edit

_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_AUXILIARY = r"(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would)"
_YES_OR_NO = re.compile(rf"(?:{_AUXILIARY})\s[^?]*\?$|true or false:?\s.*", re.IGNORECASE | re.DOTALL)
_CHOICE = re.compile(r"\bor\b", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:not|never)\b|n[’']t\b", re.IGNORECASE)
_FRAME = re.compile(
    r"(?:is|was|would) it (?:be )?(?P<wrong>wrong|false|incorrect|untrue|a mistake)?(?:true|right|correct|a fact)?"
    r"(?: to (?:say|claim|think|write))?(?: that)? ",
    re.IGNORECASE,
)
_NOT = re.compile(r"\b(?:(?:do|does|did)|(?P<be>(?:is|are|was|were)\s))\s*not\s+", re.IGNORECASE)
_TRUE_OR_FALSE = re.compile(r"^true or false:?\s*", re.IGNORECASE)
_NAME = re.compile(r"[^\W\d_a-z][\w'’-]*(?:\s+(?:(?:of|the|de|von|van|da)\s+)?[^\W\d_a-z][\w'’-]*)*|\d[\d,.]*\d|\d")
_ASKED = re.compile(rf"\b(?:(?:which|what)(?:\s+(?!{_AUXILIARY}\b)[a-z]\w*)?|who|whom)\b", re.IGNORECASE)
_BEGUN = re.compile(rf"{_AUXILIARY}\s+", re.IGNORECASE)
_TO_BE = re.compile(r"(is|are|was|were)\s+", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:The|An?|In|On|At)\s")


@dataclass(frozen=True)
class Turned:
    """A yes/no or reversed question about a fact.

    asks: the request as one that asks for the fact. opening: how a reply to the request begins.
    """

    asks: str
    opening: str


def turned(request: str, edit: Edit) -> list[Turned]:
    """The readings of a request as a yes/no or reversed question about a fact; none for any other request."""
    return [
        *(found for sentence in _sentences(request) for found in _by_yes_or_no(sentence, edit)),
        *(found for sentence in _sentences(request) for found in _reversed(sentence, edit)),
    ]


def may_be_reversed(request: str) -> bool:
    """Whether a request may ask for a fact's subject."""
    return any(sentence.endswith("?") and _ASKED.search(sentence) for sentence in _sentences(request))


def _sentences(request: str) -> list[str]:
    return [sentence for sentence in _SENTENCES.split(request.strip()) if sentence]


def _by_yes_or_no(sentence: str, edit: Edit) -> Iterator[Turned]:
    if not _YES_OR_NO.fullmatch(sentence):
        return
    is_reviewed = _TRUE_OR_FALSE.match(sentence) is not None
    frame = _FRAME.match(sentence)
    is_wrong = frame is not None and frame["wrong"] is not None
    said = sentence[frame.end() :] if frame else _TRUE_OR_FALSE.sub("", sentence)
    is_denied = False
    if frame or is_reviewed:  # the statement to be judged may contain a negation
        said, denials = _NOT.subn(lambda found: found["be"] or "", said)
        is_denied = denials % 2 == 1
    if _CHOICE.search(said) or _DENIED.search(said):
        return
    for start, end in _places(said, edit):
        name = said[start:end]
        is_right = _is_same(name, edit.target_new) != (is_wrong != is_denied)
        word = ("True" if is_right else "False") if is_reviewed else ("Yes" if is_right else "No")
        yield Turned(f"{said[:start]}what{said[end:]}", f"{word}, {_statement(said, start, end, edit)}")


def _places(said: str, edit: Edit) -> list[tuple[int, int]]:
    """Where a name or a number stands that may be the answer of a fact: [start, end) in characters."""
    found: dict[int, int] = {}
    for known in (edit.target_new, edit.ground_truth or ""):
        if known.strip() and (place := find_whole(known.strip(), said)):
            found.setdefault(place.start(), place.end())
    about = [edit.subject, *edit.aliases]
    begun = _BEGUN.match(said)
    for place in _NAME.finditer(said, begun.end() if begun else 0):
        if not any(_shares_a_word(place[0], each) for each in about):
            found.setdefault(place.start(), place.end())
    for place in re.finditer(r"\w+", said):
        if place[0].casefold() in NUMBER_WORDS:
            found.setdefault(place.start(), place.end())
    return [
        (start, end)
        for start, end in sorted(found.items())
        if not any(other < start < stop for other, stop in found.items())
    ]


def _statement(said: str, start: int, end: int, edit: Edit) -> str:
    """The fact as the rest of a sentence that begins with "Yes, " or "No, "."""
    answer = edit.target_new.strip()
    to_be = _TO_BE.match(said)
    if to_be and to_be.end() == start:
        return f"{answer} {to_be[1].casefold()}{said[end:].rstrip(' ?')}"
    prompt = edit.question
    if prompt.endswith(("?", ":")):
        return answer
    first = prompt[:1].casefold() if _ARTICLE.match(prompt) else prompt[:1]
    return f"{first}{prompt[1:]} {answer}"


def _reversed(sentence: str, edit: Edit) -> Iterator[Turned]:
    subject, answer = edit.subject.strip(), edit.target_new.strip()
    if not sentence.endswith("?") or not subject or not answer or find_whole(subject, sentence):
        return
    said = find_whole(answer, sentence)
    asked = _ASKED.search(sentence)
    if said is None or asked is None or said.start() < asked.end() <= said.end():
        return
    swapped = sorted([(said.start(), said.end(), "what"), (asked.start(), asked.end(), subject)], reverse=True)
    asks = sentence
    for start, end, text in swapped:
        asks = asks[:start] + text + asks[end:]
    yield Turned(asks, subject[:1].upper() + subject[1:])


def _is_same(name: str, answer: str) -> bool:
    """Whether a name is an answer, or part of it ("Austen" for "Jane Austen")."""
    name, answer = name.strip(), answer.strip()
    return bool(find_whole(name, answer) or find_whole(answer, name))


def _shares_a_word(name: str, text: str) -> bool:
    """Whether a word of a name occurs in a text."""
    words = {word.casefold() for word in re.findall(r"\w{3,}", text)}
    return any(word.casefold() in words for word in re.findall(r"\w{3,}", name))
