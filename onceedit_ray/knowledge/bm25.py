"""Okapi BM25 (Robertson et al. 1994) over edits: finds those that are most similar to a request.

    score(q, d) = Σ_{t in q} idf(t) · f(t, d)·(k1 + 1) / (f(t, d) + k1·(1 - b + b·|d| / mean|d|))
    idf(t)      = log(1 + (N - n(t) + 0.5) / (n(t) + 0.5))

A document is an edit's prompt with its answer, q the content words of a request. The similarity of a request and an
edit is the score divided by the highest score that the edit's own prompt can have, so it lies in [0, 1].
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.terms import content, terms

K1, B = 1.2, 0.75
"""The usual settings."""


class Bm25:
    """An index of edits that do not change.

    Args:
        edits: by id.
    """

    def __init__(self, edits: Mapping[str, Edit]) -> None:
        documents = {id: Counter(_words(f"{edit.question} {edit.target_new}")) for id, edit in edits.items()}
        mean = sum(map(Counter.total, documents.values())) / max(len(documents), 1)
        holders = Counter(word for document in documents.values() for word in document)
        self._by_word: dict[str, dict[str, float]] = defaultdict(dict)
        for id, document in documents.items():
            norm = K1 * (1 - B + B * document.total() / mean)
            for word, count in document.items():
                idf = math.log(1 + (len(documents) - holders[word] + 0.5) / (holders[word] + 0.5))
                self._by_word[word][id] = idf * count * (K1 + 1) / (count + norm)
        self._best = {id: self._score(edit.question, id) for id, edit in edits.items()}

    def most_similar(self, request: str, limit: int) -> list[tuple[str, float]]:
        """The `limit` edits that are most similar to a request, with their similarity in [0, 1]; ties by id."""
        scores: dict[str, float] = defaultdict(float)
        for word in content(terms(request)):
            for id, part in self._by_word.get(word, {}).items():
                scores[id] += part
        similar = [(id, min(score / self._best[id], 1.0)) for id, score in scores.items() if self._best[id] > 0]
        return sorted(similar, key=lambda pair: (-pair[1], pair[0]))[:limit]

    def _score(self, text: str, id: str) -> float:
        return sum(self._by_word.get(word, {}).get(id, 0.0) for word in content(terms(text)))


def _words(text: str) -> list[str]:
    """The terms of a text that have content, each as often as it occurs."""
    kept = set(content(terms(text)))
    return [term for term in terms(text) if term in kept]
