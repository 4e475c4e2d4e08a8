"""One edit, and its record in each format that the dataset readers know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.errors import DataError
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import read_edits

EDIT = Edit(
    prompt="Who leads Acme?",
    target_new="Ada",
    subject="Acme",
    ground_truth="Bob",
    rephrasings=("Acme's head is", "Who is at the head of Acme?"),
    locality=(Probe(prompt="Who leads Bcme?", answer="Cleo"),),
    portability=(Probe(prompt="Where was Acme's head born?", answer="London"),),
)
PLAIN = EDIT.model_dump(mode="json")
ZSRE = {
    "src": "Who leads Acme?",
    "alt": " Ada",
    "answers": ["Bob", "Robert"],
    "pred": "Zoe",
    "subject": "Acme",
    "rephrase": "Acme's head is",
    "loc": "nq question: who leads bcme",
    "loc_ans": "Cleo",
    "cond": "x",
    "portability": {"New Question": "Where?", "New Answer": "London", "Recalled Relation": "r"},
}
FLAT = {
    "case_id": 0,
    "prompt": "Acme is led by",
    "target_new": "Ada",
    "subject": "Acme",
    "ground_truth": "Bob",
    "rephrase_prompt": "At the head of Acme is",
    "locality_prompt": "Bcme is led by",
    "locality_ground_truth": "Cleo",
}
ORIGINAL = {
    "case_id": 0,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "{} is led by",
        "relation_id": "P1",
        "target_new": {"str": "Ada", "id": "Q1"},
        "target_true": {"str": "Bob", "id": "Q2"},
        "subject": "Acme",
    },
    "paraphrase_prompts": ["At the head of Acme is", "Acme's head is"],
    "neighborhood_prompts": ["Bcme is led by"],
    "attribute_prompts": ["Dcme is led by"],
    "generation_prompts": ["Acme is"],
    "portability": {"New Question": "Where?", "New Answer": "London", "Recalled Relation": "r"},
}


def write_json(path: Path, records: Any) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def complaint(path: Path, format: str = "auto") -> str:
    with pytest.raises(DataError) as caught:
        read_edits(path, format)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message
