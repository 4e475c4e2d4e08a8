"""Scores of one answer, and averages of scores (metrics.md; the definitions are EasyEdit's).

Works on token ids, texts and gate weights. It uses no models, tokenizers, prompts or files.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

# Symbols that Unicode counts as punctuation but that have a meaning at the edge of a name: C#, 50%, AT&T, @handle.
_MEANINGFUL = frozenset("#%&@")

# Scripts written without spaces between words: Thai and Lao, Burmese, Khmer, Japanese kana, Chinese characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def token_accuracy(predicted: Sequence[int], gold: Sequence[int]) -> float:
    """Teacher-forced accuracy: the share of positions whose predicted token is the gold token.

    Args:
        predicted: the argmax token at each target position, given the gold prefix.
        gold: the target's tokens, without a start-of-text token; for locality, the unedited target's own predictions.

    Returns:
        A share in [0, 1]; an answer that is partly right counts in part.

    Raises:
        ValueError: the lengths differ (the start token was counted, or a position was lost), or there is no position.
    """
    if len(predicted) != len(gold):
        raise ValueError(f"{len(predicted)} predicted tokens for {len(gold)} gold tokens; score the same positions")
    if not gold:
        raise ValueError("no gold tokens; a target needs at least one token to be scored")
    return _matches(predicted, gold) / len(gold)


def generation_accuracy(generated: Sequence[int], gold: Sequence[int]) -> float:
    """Generation accuracy: the share of gold positions at which greedy decoding wrote the gold token.

    Positions after an early end of text count as mismatches; tokens beyond `len(gold)` are ignored. An empty `gold`
    (locality, where the unedited target said nothing) is matched by an empty `generated` only. Never raises.
    """
    if not gold:
        return float(not generated)
    return _matches(generated, gold) / len(gold)


def _matches(tokens: Sequence[int], gold: Sequence[int]) -> int:
    return sum(int(token == wanted) for token, wanted in zip(tokens, gold, strict=False))


def normalise_text(text: str) -> str:
    """`text` without differences that do not matter: letter case, width and ligature forms, spaces, outer punctuation.

    Compatibility caseless form (Unicode D146, composed), runs of whitespace become one space, whitespace and
    punctuation are removed at both ends. Kept on purpose: diacritics, articles, inner punctuation, `#%&@`,
    symbols such as `+` and `$`, and the sign or decimal point of a leading number.
    """
    text = unicodedata.normalize("NFD", text)
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text.casefold())
    text = " ".join(text.split())
    start, end = 0, len(text)
    while start < end and _is_edge(text[start]) and not _opens_number(text, start):
        start += 1
    while end > start and _is_edge(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_edge(character: str) -> bool:
    if character in _MEANINGFUL:
        return False
    return character.isspace() or unicodedata.category(character).startswith("P")


def _opens_number(text: str, at: int) -> bool:
    """Whether `text[at]` is the sign or point of "-5" or ".5", rather than a dash or the end of an ellipsis."""
    if text[at] not in "-." or not text[at + 1 : at + 2].isdigit():
        return False
    return at == 0 or text[at - 1] not in "-."


def text_match(generated_text: str, target_text: str) -> float:
    """1.0 if the normalised generated text starts with the normalised target and the target ends there as a word.

    The end of a word is needed because a prefix alone would accept another answer: "20061" or "2006.5" for "2006",
    "Englishman" for "English". The end of the text, a space, punctuation or a symbol may follow ("English, of course",
    "English-speaking"); a letter, a digit or a combining mark may not, nor the decimal or grouping mark of a number.
    In scripts without spaces between words the plain prefix decides ("東京都" for "東京").

    For locality, `target_text` is the unedited target's own output. If nothing is left of `target_text` after
    normalisation (it is empty or punctuation only), both texts must be equal except for whitespace at the ends.
    """
    target = normalise_text(target_text)
    if not target:
        return float(generated_text.strip() == target_text.strip())
    generated = normalise_text(generated_text)
    return float(generated.startswith(target) and _word_ends(target, generated[len(target) :]))


def _word_ends(word: str, rest: str) -> bool:
    if not rest:
        return True
    follows = unicodedata.category(rest[0])[0]
    if follows == "M":
        return False
    if _UNSPACED.match(word[-1]):
        return True
    if follows in "LN":
        return False
    return not (word[-1].isdigit() and re.match(r"[.,]\d", rest))


def average(reliability: float | None, generality: float | None, locality: float | None) -> float | None:
    """The mean of those of the three properties that were scored; None if none was scored."""
    present = [score for score in (reliability, generality, locality) if score is not None]
    return math.fsum(present) / len(present) if present else None


@dataclass(frozen=True)
class GateFigures:
    """The gate on `n` prompts of one kind and shape.

    mean: of the weights w (eq. 8).
    share_above: share of prompts with w at or above the threshold, for which the plug-in takes part in the answer.
    """

    mean: float
    share_above: float
    n: int


def gate_figures(weights: Sequence[float], threshold: float) -> GateFigures:
    """The mean and the share of the weights w in [0, 1]; raises `ValueError` if there are none."""
    if not weights:
        raise ValueError("no gate weights; at least one prompt is needed")
    above = sum(int(weight >= threshold) for weight in weights)
    return GateFigures(mean=math.fsum(weights) / len(weights), share_above=above / len(weights), n=len(weights))


def drift(identical: Sequence[bool]) -> float:
    """The share of general prompts whose output is bit-identical to the unedited target's; 1.0 is no drift.

    Raises `ValueError` where there are no prompts.
    """
    if not identical:
        raise ValueError("no general prompts; drift needs at least one")
    return sum(int(same) for same in identical) / len(identical)
