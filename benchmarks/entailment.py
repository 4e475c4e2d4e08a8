"""An optional second opinion on long answers: does an entailment (NLI) model find them consistent with the new fact?

The measure is LEME's (arXiv 2402.09394), sentence by sentence. The model is a folder of this machine; none is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from onceedit_ray.errors import ModelError
from onceedit_ray.evaluation.conversations import end_of, sentences
from onceedit_ray.knowledge.edit import Edit

Judge = Callable[[str, str], str]
"""Premise and hypothesis -> "entailment", "contradiction" or "neutral"."""
_LABELS = ("entailment", "contradiction", "neutral")


def open_judge(folder: Path) -> Judge:
    """The NLI model in `folder`; raises `ModelError` unless it is a sequence classifier with the three labels."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder} holds no entailment model ({reason}); give a folder with safetensors") from None
    names = [str(model.config.id2label[index]).lower() for index in range(model.config.num_labels)]
    if sorted(names) != sorted(_LABELS):
        raise ModelError(f"{folder} knows the labels {', '.join(names)}; give a model that knows {', '.join(_LABELS)}")
    model.eval()

    def judge(premise: str, hypothesis: str) -> str:
        inputs = tokenizer(premise, hypothesis, return_tensors="pt", truncation=True)
        with torch.inference_mode():
            return names[int(model(**inputs).logits[0].argmax())]

    return judge


def consistent(answer: str, edit: Edit, new: str, judge: Judge) -> float | None:
    """The share of an answer's sentences, from the new answer on, that are consistent with the new fact. A sentence is
    not consistent if it contradicts the new fact, or entails the old one if that is known. None if the new answer,
    written as `new`, does not occur.
    """
    if end_of(new, answer) is None:
        return None
    pieces = sentences(answer)
    start = next((index for index, piece in enumerate(pieces) if end_of(new, piece) is not None), 0)
    verdicts = [_in_line(piece, edit, judge) for piece in pieces[start:]]
    return sum(verdicts) / len(verdicts)


def _in_line(sentence: str, edit: Edit, judge: Judge) -> bool:
    if judge(sentence, f"{edit.prompt} {edit.target_new}.") == "contradiction":
        return False
    return not (edit.ground_truth and judge(sentence, f"{edit.prompt} {edit.ground_truth}.") == "entailment")
