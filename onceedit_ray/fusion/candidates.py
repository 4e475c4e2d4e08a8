"""Finds the facts that a request may be about. Imports no model, since the gateway screens requests, too."""

from __future__ import annotations

from collections.abc import Sequence

from onceedit_ray.fusion.turned import may_be_reversed
from onceedit_ray.knowledge.fact_index import Found
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.models.prompt import Exchange

CANDIDATES = 6
"""Number of facts for which the gate is evaluated, each in its own view; all views share one pass."""


def with_context(question: str, turns: Sequence[Exchange]) -> str:
    """The question, together with the earlier requests if it may refer to them."""
    return "\n".join([turn.request for turn in turns[-2:]] + [question])


def turned_candidates(facts: FactsAt, question: str, limit: int = CANDIDATES) -> list[Found]:
    """The facts that a yes/no or reversed question may be about: it names their subject, or else their answer."""
    return facts.find(question, limit) or _reversed_candidates(facts, question, limit)


def names_a_fact(facts: FactsAt, question: str, turns: Sequence[Exchange] = (), system: str = "") -> bool:
    """Whether a question may be about a fact: the screen of a plug-in that reads facts.

    system: the chat's system messages, which may ask, or name what is asked about.
    """
    texts = [with_context(question, turns), question if turns else "", system]
    found = any(facts.find(text, 1) for text in texts if text.strip())
    return found or bool(_reversed_candidates(facts, question, 1))


def _reversed_candidates(facts: FactsAt, question: str, limit: int) -> list[Found]:
    return facts.find_answers(question, limit) if may_be_reversed(question) else []
