"""A few facts of each data set, and a source of training examples of a reader made from them."""

from __future__ import annotations

from onceedit_ray.reader.examples import ExampleSource
from onceedit_ray.reader.facts import CounterFacts, ZsreFacts, everyday_facts
from onceedit_ray.reader.training_data import TrainingData

COUNTERFACT = [
    {
        "prompt": f"The capital of {country} is",
        "rephrase_prompt": f"Some text. {country}'s capital is",
        "target_new": new,
        "ground_truth": old,
        "subject": country,
        "locality_prompt": "The capital of Norway is",
        "locality_ground_truth": "Oslo",
    }
    for country, new, old in [("Sweden", "Rome", "Stockholm"), ("Chile", "Lima", "Santiago"), ("Peru", "Quito", "Lima")]
]
ZSRE = [
    {"subject": name, "src": f"What is the native language of {name}?", "rephrase": f"{name} speaks what?", "alt": alt}
    for name, alt in [("Ann Lee", "French"), ("Bo Ek", "Danish"), ("Cy Doe", "Greek")]
]
TEXTS = {
    ("Ann Lee", ZSRE[0]["src"]): [
        {
            "request": ZSRE[0]["src"],
            "question": ZSRE[0]["src"],
            "rephrasing": ZSRE[0]["rephrase"],
            "kind": "sentence",
            "answer": "French",
            "text": "Ann Lee grew up with French. French is a fine language.",
        }
    ]
}


def source() -> ExampleSource:
    counter = CounterFacts(COUNTERFACT, {"The capital of {} is": "P36"})
    zsre = ZsreFacts(ZSRE, TEXTS)
    draws = [(0.4, counter.draw), (0.4, zsre.draw), (0.2, lambda rng: next(iter(everyday_facts(rng))))]
    return ExampleSource(draws, [("Oslo", "Oslo is a town. It is cold.")], ["who won the cup in 1990"])


def material() -> TrainingData:
    """The training data of a reader."""
    zsre = [{**record, "loc": "nq question: who sings"} for record in ZSRE]
    return TrainingData(source(), zsre, COUNTERFACT, {"records": 6})
