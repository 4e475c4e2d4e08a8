"""Near misses: requests and sentences about a fact's subject that are not about the fact.

A far miss asks for another kind of answer ("What is the climate of Australia like?"), a close miss for another answer
of the same kind ("What is the biggest city of Australia?"). A reader learns both, and an edit is accepted only if its
gate stays closed for them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache

from onceedit_ray.reader.facts import Fact, drawn, load_data, relations, wordings

_CLASHES = {
    "place": {"place", "seat", "origin", "birth", "death", "workplace", "citizen", "capital", "twin", "mouth"},
    "person": {
        "maker",
        "author",
        "inventor",
        "founder",
        "namesake",
        "leader",
        "spouse",
        "employer",
        "composer",
        "director",
        "painter",
    },
    "year": {"year", "ended", "began"},
    "language": {"language"},
    "maker": {"inventor"},
    "genre": {"sport", "instrument"},
    "sport": {"instrument"},
}
"""The other kinds that a request of a kind may ask for: "{s} plays" may be about a sport, a style or an instrument, and
the developer of a thing may be its inventor. `person`, `place` and `year` are broad kinds (`facts.kind_of`).
"""


@dataclass(frozen=True)
class _Group:
    """Close misses of facts of some kinds, or of facts whose prompt matches `pattern`, `unless` it matches another."""

    kinds: frozenset[str]
    pattern: re.Pattern[str] | None
    unless: re.Pattern[str] | None
    asks: tuple[str, ...]
    says: tuple[str, ...]
    answer: str

    def serves(self, fact: Fact) -> bool:
        if self.unless and self.unless.search(fact.prompt):
            return False
        if self.pattern:
            return not fact.relation_is_named and fact.kind == "year" and bool(self.pattern.search(fact.prompt))
        return not self.kinds or fact.kind in self.kinds


def clashes(kind: str, other: str) -> bool:
    """Whether questions of two kinds may have the same answer."""
    if not kind or not other:
        return True
    return kind == other or other in _CLASHES.get(kind, ()) or kind in _CLASHES.get(other, ())


def near_miss(fact: Fact, rng: random.Random) -> str:
    """A request about the fact's subject that asks for something else."""
    if rng.random() < 0.5:
        return rng.choice(rng.choice(_groups_of(fact)).asks).replace("{s}", fact.subject)
    if rng.random() < 0.45:
        names = [name for name, relation in relations().items() if not clashes(fact.kind, relation["kind"])]
        if names:
            relation = relations()[rng.choice(names)]
            return str(rng.choice([*relation["questions"], *relation["sentences"]])).replace("{s}", fact.subject)
    while True:
        miss = rng.choice(wordings()["near_misses"])
        if not any(clashes(fact.kind, kind) for kind in miss.get("not", ())):
            return str(miss["asks"]).replace("{s}", fact.subject)


def close_statement(fact: Fact, rng: random.Random) -> tuple[str, str, str] | None:
    """A close miss as (request, beginning of a sentence, its answer); None if the fact has none with sentences."""
    groups = [group for group in _groups_of(fact) if group.says]
    if not groups:
        return None
    group = rng.choice(groups)
    asks, says = (rng.choice(forms).replace("{s}", fact.subject) for forms in (group.asks, group.says))
    return asks, says[:1].upper() + says[1:], drawn(rng, group.answer)


def _groups_of(fact: Fact) -> list[_Group]:
    return [group for group in _groups() if group.serves(fact)]


@cache
def _groups() -> tuple[_Group, ...]:
    return tuple(
        _Group(
            frozenset(group.get("of", ())),
            re.compile(group["if"], re.I) if "if" in group else None,
            re.compile(group["unless"], re.I) if "unless" in group else None,
            tuple(group["asks"]),
            tuple(group["says"]),
            group.get("answer", ""),
        )
        for group in load_data("close_misses.yaml")
    )
