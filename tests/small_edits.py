"""One-layer editors on small random models, and three ways to ask an edited one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import Baseline, Material
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.teacher_forcing import answer_ids, prompt_ids
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.loading import load_model, load_tokenizer
from tests.families import SENTENCES, build_family

FAMILIES = ["llama", "gpt2", "gemma3"]
"""Linear and transposed projections, with and without bias, norms before and after."""
# One token each, in all families: two random layers cannot spell a longer one out from one changed position.
EDITS = [
    Edit(prompt="The capital of France is", target_new="Curie"),
    Edit(prompt="Who is the author of the novel?", target_new="was"),
    Edit(prompt="The river Nile flows through", target_new="on"),
]
CONTINUATION = " the city of Paris"
FAR = "The programming language Python was created by"
UNRELATED = [sentence for sentence in SENTENCES if not sentence.startswith("The programming")][:24]

LoadedModel = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def open_family(family: str, folder: Path) -> Callable[[], LoadedModel]:
    """Builds a family once; each call loads the same fresh model."""
    path = build_family(family, folder / family)
    return lambda: (load_model(path, dtype="float32", device="cpu"), load_tokenizer(path))


def prepared(baseline: Baseline, pair: LoadedModel, folder: Path) -> Baseline:
    """The baseline after `prepare` with unrelated sentences."""
    baseline.prepare(*pair, Material((), (), UNRELATED, folder, "digest"), lambda line: None)
    return baseline


def ids_of(tokenizer: PreTrainedTokenizerBase, edit: Edit) -> tuple[list[int], list[int]]:
    """The tokens of an edit's prompt and answer."""
    return prompt_ids(tokenizer, edit.prompt), answer_ids(tokenizer, edit.prompt, edit.target_new)


@torch.no_grad()
def logits_of(model: Any, ids: list[int]) -> Tensor:
    """One pass without a cache, [T, V]."""
    return model(torch.tensor([ids]), use_cache=False).logits[0]


def greedy(edited: EditedModel, prompt: list[int], tokens: int) -> list[int]:
    """Tokens written after the prompt with a KV cache."""
    with edited.asked(len(prompt)):
        out = edited.model.generate(
            torch.tensor([prompt]), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
        )
    return out[0, len(prompt) :].tolist()


def assert_three_ways_agree(edited: EditedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[int]) -> None:
    """Teacher forcing, and prefill with decoding, told and untold where the prompt ends, give the same logits."""
    answer = answer_ids(tokenizer, "", CONTINUATION)
    assert len(answer) > 2
    with edited.asked(len(prompt)):
        forced = logits_of(edited.model, prompt + answer)[len(prompt) - 1 :]
    for way in (edited.asked(len(prompt)), nullcontext()):
        torch.testing.assert_close(_decoded(edited.model, prompt, answer, way), forced, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def _decoded(model: Any, prompt: list[int], answer: list[int], way: AbstractContextManager[None]) -> Tensor:
    """A prefill, then one position a pass: logits from the prompt's last position on, [N, V]."""
    cache = DynamicCache(config=model.config)
    rows = []
    with way:
        for ids in (prompt, *([token] for token in answer)):
            rows.append(model(torch.tensor([ids]), past_key_values=cache, use_cache=True).logits[0, -1])
    return torch.stack(rows)
