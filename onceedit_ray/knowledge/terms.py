"""The terms of a text, which the fact index compares, and their weights.

A term is lower-case, without accents, and normalised to one Unicode form. A change between letters and digits separates
terms ("XK-7721", "xk7721" and "XK 7721" are the same); a run of signs that belong to names is a term ("C++", "!!!"),
other punctuation is not. A script without spaces gives each character and each pair of neighbours, so that a name is
found inside a run.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections.abc import Iterable
from importlib import resources

UNLISTED = 10.0
"""The weight of a word that is not common: a name, a foreign word."""

_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_PICTURES = "\u2190-\u2bff\U0001f000-\U0001faff"
# `re` does not count vowel signs of Indic scripts as letters, but they are part of the word.
_INDIC = "\u0900-\u0963\u0971-\u0dff"
_TERM = re.compile(
    rf"[{_UNSPACED}]+|\d+|(?:[^\W\d_{_UNSPACED}]|[{_INDIC}])+|[+#@^~|<>=$%]+|!{{2,}}|\?{{2,}}|[{_PICTURES}]"
)
_ASCII_TERM = re.compile(r"[a-z]+|\d+|[+#@^~|<>=$%]+|!{2,}|\?{2,}")
# Accents, optional vowel points, and invisible characters.
_DROPPED = re.compile(
    "[\u00ad\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u1ab0-\u1aff\u1dc0-\u1dff\u200b-\u200f\u2060\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\ufeff]"
)
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d"}
    | dict.fromkeys("©®™℠‘’“”‚„«»–—…•·", " ")
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")

STOP_WORDS = frozenset(
    """
    a about after all also am an and any are as at be been before being but by can could did do does doing for from
    had has have having he her hers him his how i if in into is it its itself just like me more most my no nor not now
    of off on once one only or other our ours out over own s same she should so some such t than that the their theirs
    them then there these they this those through to too under until up us very was we were what when where which while
    who whom whose why will with would you your yours d ll m re ve please tell say know give many much
    der die das den dem des ein eine einer eines einem und ist im in am von zu zum zur mit auf wer wie wo wann welche
    welcher welches le la les un une du de et est en au aux dans par pour qui que quel quelle où el los las del y es
    por con quién qué cuál dónde il lo gli uno e di che chi o os do dos das um uma em qual quem
    """.split()
)
"""Function words of English, German, French, Spanish, Italian and Portuguese."""


def terms(text: str) -> list[str]:
    """The terms of a text in their order, in time linear in its length."""
    if text.isascii():
        return _ASCII_TERM.findall(text.lower())
    found: list[str] = []
    plain: list[str] = []
    for chunk in text.split():
        if chunk.isascii():
            plain.append(chunk)
            continue
        found += _ASCII_TERM.findall(" ".join(plain).lower())
        plain.clear()
        found += _chunk_terms(chunk)
    return found + _ASCII_TERM.findall(" ".join(plain).lower())


def content(found: Iterable[str]) -> tuple[str, ...]:
    """The distinct terms that say what a text is about, in their order.

    Function words are left out, and a character of a script without spaces where it stands in a pair.
    """
    distinct = dict.fromkeys(found)
    paired = {character for term in distinct if len(term) == 2 and is_unspaced(term) for character in term}
    return tuple(term for term in distinct if term not in STOP_WORDS and term not in paired)


def is_unspaced(term: str) -> bool:
    """Whether a term is of a script without spaces."""
    return _IS_UNSPACED.match(term) is not None


def is_sign(term: str) -> bool:
    """Whether a term is a run of signs, such as "++"."""
    return not term[0].isalnum() and not is_unspaced(term) and not re.match(f"[{_INDIC}]", term)


@functools.lru_cache(maxsize=100_000)
def weight(term: str) -> float:
    """How much information a term carries, from 0.7 ("the") to `UNLISTED`.

    For a word it is the logarithm of its rank by frequency, which by Zipf's law is its information up to a constant.
    """
    if term.isdigit():
        is_year = len(term) == 4 and 1000 <= int(term) <= 2100
        return 5.0 if is_year else min(UNLISTED - 0.5, 3.0 + 1.8 * len(term))
    if is_unspaced(term):
        return UNLISTED if len(term) > 1 else 4.0
    if is_sign(term):
        return 5.0 if term[0] in "!?" or (len(term) == 1 and term not in "+#") else UNLISTED
    if len(term) == 1:
        return 5.0
    rank = _ranks().get(term)
    return UNLISTED if rank is None else min(UNLISTED - 0.1, math.log(2 + rank))


def is_listed(term: str) -> bool:
    """Whether a term is a common word, a small number, or another term that occurs in texts of any subject."""
    return weight(term) < UNLISTED


@functools.cache
def _ranks() -> dict[str, int]:
    text = resources.files("onceedit_ray.knowledge").joinpath("data", "frequent_words.txt").read_text("utf-8")
    return {word: rank for rank, word in enumerate(text.split())}


def _chunk_terms(chunk: str) -> tuple[str, ...]:
    """The terms of a chunk without spaces that is not ASCII."""
    return _short_chunk_terms(chunk) if len(chunk) < 40 else _split_chunk(chunk)


def _split_chunk(chunk: str) -> tuple[str, ...]:
    found: list[str] = []
    for run in _TERM.findall(_folded(chunk)):
        if _IS_UNSPACED.match(run):
            for place, character in enumerate(run):
                found.append(character)
                if place + 1 < len(run):
                    found.append(run[place : place + 2])
        else:
            found.append(run)
    return tuple(found)


_short_chunk_terms = functools.lru_cache(maxsize=50_000)(_split_chunk)


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_LETTERS)).casefold().translate(_LETTERS)
    return unicodedata.normalize("NFC", _DROPPED.sub("", plain))
