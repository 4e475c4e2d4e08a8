"""The facts that a reader is trained on, drawn anew for every example.

Three sources: records of ZsRE's training part, records of CounterFact's training part, and everyday facts put together
from lists. The answer of a subject is drawn from the answers of its relation, so that it can only be learnt by reading
the fact.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import yaml

_TYPES = (
    (re.compile(r"\b(when|year|date|birthday|time)\b", re.I), "year"),
    (re.compile(r"\b(who|whom|whose)\b", re.I), "person"),
    (re.compile(r"\b(where|city|town|country|place|state|located|birthplace|continent)\b", re.I), "place"),
    (re.compile(r"\b(language|tongue)\b", re.I), "language"),
)


@dataclass(frozen=True)
class Fact:
    """A fact, and the wordings in which it is asked and stated.

    prompt, answer: the edit. subject: its entity. kind: the kind of answer, by which near misses are chosen.
    asks: other requests for the same fact. says: beginnings of sentences that the answer completes. texts: (request,
        text) pairs about the fact, with `{a}` in place of the answer.
    siblings: subjects of the same relation. same_relation: requests for the same relation of another subject, and the
    true answer where it is known.
    """

    prompt: str
    answer: str
    subject: str
    kind: str
    asks: tuple[str, ...]
    says: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    siblings: tuple[str, ...] = ()
    same_relation: tuple[tuple[str, str], ...] = ()
    foreign: tuple[str, ...] = ()
    relation: str = ""

    @property
    def relation_is_named(self) -> bool:
        """Whether the relation is one of `relations`, so that its kind is exact; ZsRE does not name its relations."""
        return self.relation in relations()


@cache
def relations() -> dict[str, dict[str, Any]]:
    """The training relations by name: `kind`, `questions`, `sentences`; without the held-out ones."""
    return {name: relation for name, relation in load_data("relations.yaml").items() if not relation.get("held_out")}


@cache
def held_out_relations() -> frozenset[str]:
    """Names of the relations that are not used in training."""
    return frozenset(name for name, relation in load_data("relations.yaml").items() if relation.get("held_out"))


HELD_OUT_QUESTIONS = re.compile(
    r"\b(voice|vocal|tone|constellation|programming|conservation|religion|died?|death|deceased|passed away|"
    r"position|genus|taxonomic)\b",
    re.I,
)
"""ZsRE's questions that are not used in training; ZsRE does not name its relations."""


@cache
def wordings() -> dict[str, Any]:
    """Phrases that users write around a question and models around a fact."""
    return dict(load_data("wordings.yaml"))


def everyday_facts(rng: random.Random) -> Iterable[Fact]:
    """An endless stream of facts, combined from the lists."""
    lists = load_data("everyday.yaml")
    pairs = sorted(lists["relations"].items())
    while True:
        name, (subject_kinds, answer_kinds) = rng.choice(pairs)
        subjects = [subject for kind in subject_kinds for subject in lists[kind]]
        subject = rng.choice(subjects)
        answer = drawn(rng, rng.choice(answer_kinds))
        yield of_relation(name, subject, answer, rng, siblings=[s for s in subjects if s != subject])


def of_relation(
    name: str, subject: str, answer: str, rng: random.Random, siblings: Sequence[str] = (), prompt: str = ""
) -> Fact:
    """A fact of a named relation; its prompt is one of the relation's wordings if none is given."""
    relation = relations()[name]
    asks = [_cased(form.replace("{s}", subject)) for form in relation["questions"]]
    says = [_cased(form.replace("{s}", subject)) for form in relation["sentences"]]
    prompt = prompt or rng.choice(asks + says)
    foreign = [form.replace("{s}", subject) for form in wordings()["languages"].get(name, ())]
    return Fact(
        prompt,
        answer,
        subject,
        relation["kind"],
        tuple(asks),
        tuple(says),
        siblings=tuple(siblings),
        foreign=tuple(foreign),
        relation=name,
    )


@dataclass
class CounterFacts:
    """CounterFact's records as facts. relation_of: a prompt's template → the relation's name."""

    records: Sequence[Mapping[str, Any]]
    relation_of: Mapping[str, str]
    _answers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _subjects: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for record in self.records:
            name = self.relation(record)
            self._answers[name] += [record["target_new"], record["ground_truth"]]
            self._subjects[name].append(record["subject"])

    def relation(self, record: Mapping[str, Any]) -> str:
        """The relation's name, or the prompt's template if it has none."""
        template = record["prompt"].replace(record["subject"], "{}")
        return self.relation_of.get(template, template)

    def draw(self, rng: random.Random) -> Fact:
        """A record with an answer of its relation."""
        record = rng.choice(self.records)
        name = self.relation(record)
        answer = record["target_new"] if rng.random() < 0.5 else rng.choice(self._answers[name])
        siblings = rng.sample(self._subjects[name], min(4, len(self._subjects[name])))
        siblings = [s for s in siblings if s != record["subject"]]
        asks, says = [record["rephrase_prompt"]] * 2, [record["prompt"]]
        foreign: tuple[str, ...] = ()
        kind = kind_of(record["prompt"])
        if name in relations():
            known = of_relation(name, record["subject"], answer, rng)
            asks, says, foreign, kind = asks + list(known.asks), says + list(known.says), known.foreign, known.kind
        return Fact(
            record["prompt"],
            answer,
            record["subject"],
            kind,
            tuple(asks),
            tuple(says),
            texts=(("", record["rephrase_prompt"] + " {a}"),),
            siblings=tuple(siblings),
            foreign=foreign,
            same_relation=((record["locality_prompt"], record["locality_ground_truth"]),),
            relation=name,
        )


@dataclass
class ZsreFacts:
    """ZsRE's records as facts. texts: sentences written by models, by (subject, question)."""

    records: Sequence[Mapping[str, Any]]
    texts: Mapping[tuple[str, str], Sequence[Mapping[str, str]]]
    _answers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _subjects: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for record in self.records:
            self._answers[_template(record)].append(record["alt"])
            self._subjects[_template(record)].append(record["subject"])
        self._told = [record for record in self.records if (record["subject"], record["src"]) in self.texts]

    def draw(self, rng: random.Random) -> Fact:
        """A record with an answer of its template; `told` records have sentences written by a model."""
        record = rng.choice(self._told) if self._told and rng.random() < 0.6 else rng.choice(self.records)
        template = _template(record)
        answer = record["alt"] if rng.random() < 0.3 else rng.choice(self._answers[template])
        siblings = rng.sample(self._subjects[template], min(4, len(self._subjects[template])))
        texts = tuple(
            (
                row["request"] if row["kind"] == "about" else rng.choice([row["question"], row["rephrasing"]]),
                row["text"].replace("{", "(").replace("}", ")").replace(row["answer"], "{a}"),
            )
            for row in self.texts.get((record["subject"], record["src"]), ())
            if row["kind"] != "elsewhere"
        )
        return Fact(
            record["src"],
            answer,
            record["subject"],
            kind_of(record["src"]),
            (record["rephrase"],) * 2,
            texts=texts,
            siblings=tuple(s for s in siblings if s != record["subject"]),
            relation=template,
        )


def kind_of(question: str) -> str:
    """The kind of answer that a question of no known relation asks for; "" if its words do not show it."""
    return next((kind for pattern, kind in _TYPES if pattern.search(question)), "")


def _template(record: Mapping[str, Any]) -> str:
    return str(record["src"]).replace(record["subject"], "{}")


def drawn(rng: random.Random, kind: str) -> str:
    """An answer of a kind: one of a list of everyday.yaml, or a year, a length or a number."""
    if kind == "year":
        return str(rng.randint(1200, 2025))
    if kind == "length":
        return f"{rng.randint(2, 9000):,} metres"
    if kind == "number":
        return rng.choice([f"{rng.randint(1000, 40_000_000):,}", f"{rng.randint(2, 90)} million"])
    return str(rng.choice(load_data("everyday.yaml")[kind]))


def _cased(text: str) -> str:
    return text[:1].upper() + text[1:]


@cache
def load_data(name: str) -> Any:
    """A YAML file of `onceedit_ray/reader/data`."""
    return yaml.safe_load(resources.files("onceedit_ray.reader").joinpath("data", name).read_text("utf-8"))
