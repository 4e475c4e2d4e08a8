"""Validates a reader on facts that were not used in its training, without a target: answers and gates.

Decodes greedily with the network alone, so that a training run can report figures. The benchmarks measure the whole
system.

Shapes: B sequences, T positions, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from onceedit_ray.reader.train import ReaderModel
from onceedit_ray.reader.training_data import TrainingData
from onceedit_ray.reader.view import asked, line_of

BATCH = 16
MOST_TOKENS = 12


def validate(reader: ReaderModel, tokenizer: PreTrainedTokenizerBase, material: TrainingData) -> dict[str, float]:
    """Shares between 0 and 1, by data set and kind of request.

    answered: the answer is the fact's. open: the gate is above one half. Kinds: `prompt`, `rephrasing`, `neighbour`
    (the next record's prompt) and `locality`.
    """
    figures: dict[str, float] = {}
    kinds = (
        ("zsre", material.zsre, "src", "alt", "rephrase", "loc"),
        ("counterfact", material.counterfact, "prompt", "target_new", "rephrase_prompt", "locality_prompt"),
    )
    reader.eval()
    for name, records, prompt, answer, rephrasing, locality in kinds:
        others = [*records[1:], *records[:1]]
        requests = {
            "prompt": [record[prompt] for record in records],
            "rephrasing": [record[rephrasing] for record in records],
            "neighbour": [record[prompt] for record in others],
            "locality": [record[locality].removeprefix("nq question: ") for record in records],
        }
        for kind, asks in requests.items():
            facts = [line_of(record[prompt], record[answer]) for record in records]
            views = [asked([fact], ask) for fact, ask in zip(facts, asks, strict=True)]
            weights, texts = read(reader, tokenizer, views)
            figures[f"{name}.{kind}.open"] = round(sum(weight > 0.5 for weight in weights) / len(weights), 4)
            if kind in ("prompt", "rephrasing"):
                right = [
                    text.casefold() == own[answer].strip().casefold() for text, own in zip(texts, records, strict=True)
                ]
                figures[f"{name}.{kind}.answered"] = round(sum(right) / len(right), 4)
    return figures


@torch.inference_mode()
def read(
    reader: ReaderModel, tokenizer: PreTrainedTokenizerBase, views: Sequence[str]
) -> tuple[list[float], list[str]]:
    """The gate's weight at the end of each view, and the greedy answer after it."""
    weights: list[float] = []
    texts: list[str] = []
    device = reader.gate_D.device
    for start in range(0, len(views), BATCH):
        prompts = [tokenizer(view).input_ids for view in views[start : start + BATCH]]
        answers: list[list[int]] = [[] for _ in prompts]
        for step in range(MOST_TOKENS):
            fed = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            ids_BT = torch.full((len(fed), max(map(len, fed))), tokenizer.eos_token_id)
            for row, ids in enumerate(fed):
                ids_BT[row, : len(ids)] = torch.tensor(ids)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=reader.lm.dtype == torch.bfloat16):
                ends = [(row, len(ids) - 1) for row, ids in enumerate(fed)]
                gate_B, logits_BV = reader.logits(ids_BT.to(device), ends, ends)
            if step == 0:
                weights += torch.sigmoid(gate_B).tolist()
            chosen = logits_BV.argmax(-1).tolist()
            for answer, token in zip(answers, chosen, strict=True):
                answer.append(int(token))
            if all(tokenizer.eos_token_id in answer for answer in answers):
                break
        for answer in answers:
            end = answer.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in answer else len(answer)
            texts.append(tokenizer.decode(answer[:end]).strip())
    return weights, texts
