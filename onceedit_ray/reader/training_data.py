"""The training data of a reader: the training parts of ZsRE and CounterFact, carrier sentences, and general questions.

The edit parts of both data sets and the general prompts are not used. Some relations are held out, so that figures on
them are for unseen relations; some records of each data set are kept for validation.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onceedit_ray.errors import DataError
from onceedit_ray.reader.examples import ExampleSource
from onceedit_ray.reader.facts import (
    HELD_OUT_QUESTIONS,
    CounterFacts,
    ZsreFacts,
    everyday_facts,
    held_out_relations,
)

FILES = ("zsre_train", "counterfact_train", "counterfact_portability", "carriers")
VALIDATION = 200
"""Records of each data set that are kept for validation."""
SHARES = {"counterfact": 0.30, "zsre": 0.35, "everyday": 0.35}
_SPLIT_SEED = 7

Record = Mapping[str, Any]


@dataclass(frozen=True)
class TrainingData:
    """source: of training examples. zsre, counterfact: records for validation. figures: what it is made from."""

    source: ExampleSource
    zsre: Sequence[Record]
    counterfact: Sequence[Record]
    figures: dict[str, int]


def read_training_data(folder: Path) -> TrainingData:
    """The material in `folder`, the repository's `data/`.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    read = {name: _rows(folder / f"{name}.parquet") for name in FILES}
    relation_of = relation_by_template(read["counterfact_portability"])
    counterfact = [record for record in read["counterfact_train"] if _usable(record, "prompt", relation_of)]
    zsre = [record for record in read["zsre_train"] if record["subject"] in record["src"] and not is_held_out(record)]
    rng = random.Random(_SPLIT_SEED)
    rng.shuffle(counterfact)
    rng.shuffle(zsre)
    texts: dict[tuple[str, str], list[Mapping[str, str]]] = defaultdict(list)
    elsewhere = []
    for row in read["carriers"]:
        if row["kind"] == "elsewhere":
            elsewhere.append((row["subject"], row["text"]))
        else:
            texts[row["subject"], row["question"]].append(row)
    general = [record["loc"].removeprefix("nq question: ") for record in zsre[VALIDATION:]]
    counter, asked = CounterFacts(counterfact[VALIDATION:], relation_of), ZsreFacts(zsre[VALIDATION:], texts)
    draws = [
        (SHARES["counterfact"], counter.draw),
        (SHARES["zsre"], asked.draw),
        (SHARES["everyday"], lambda rng: next(iter(everyday_facts(rng)))),
    ]
    return TrainingData(
        ExampleSource(draws, elsewhere, general),
        zsre[:VALIDATION],
        counterfact[:VALIDATION],
        {
            "zsre": len(zsre) - VALIDATION,
            "counterfact": len(counterfact) - VALIDATION,
            "carriers": len(read["carriers"]),
        },
    )


def relation_by_template(portability: Sequence[Record]) -> dict[str, str]:
    """CounterFact's relation for each prompt template with `{}` for the subject, from the records that name it."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for record in portability:
        rewrite = record["requested_rewrite"]
        found[rewrite["prompt"]][rewrite["relation_id"]] += 1
    return {template: names.most_common(1)[0][0] for template, names in found.items()}


def is_held_out(record: Record) -> bool:
    """Whether a record of ZsRE asks for a relation that is not used in training."""
    return bool(HELD_OUT_QUESTIONS.search(f"{record['src']} {record['rephrase']}"))


def _usable(record: Record, prompt: str, relation_of: Mapping[str, str]) -> bool:
    template = record[prompt].replace(record["subject"], "{}")
    return record["subject"] in record[prompt] and relation_of.get(template) not in held_out_relations()


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return list(pq.read_table(path).to_pylist())
    except FileNotFoundError:
        raise DataError(f"there is no {path}; name the folder of the training data (the repository's data/)") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())[:160]}); copy it again") from None
