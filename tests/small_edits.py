"""One-layer editors on small random models: three ways to ask, undoing, saving and loading."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import Baseline, BaselineSettings, Material
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.teacher_forcing import answer_ids, prompt_ids
from onceedit_ray.errors import ConfigError, ModelError
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


@pytest.fixture(scope="module", params=FAMILIES)
def every_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], LoadedModel]:
    """Opens a fresh model of each family in turn; a test module gives it a name of its own."""
    return open_family(request.param, tmp_path_factory.mktemp("one-layer"))


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


def assert_undone(edited: EditedModel, open_fresh: Callable[[], LoadedModel], ids: list[int]) -> None:
    """After `undo` the model is a fresh one, to the bit, module by module."""
    fresh, _ = open_fresh()
    with edited.asked(len(ids)):
        assert not torch.equal(logits_of(edited.model, ids), logits_of(fresh, ids))
    edited.undo()
    assert [(name, type(module)) for name, module in edited.model.named_modules()] == [
        (name, type(module)) for name, module in fresh.named_modules()
    ]
    left, right = edited.model.state_dict(), fresh.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert torch.equal(logits_of(edited.model, ids), logits_of(fresh, ids))


def assert_loads(
    edited: EditedModel, baseline: Baseline, open_fresh: Callable[[], LoadedModel], folder: Path, ids: list[int]
) -> None:
    """Saved, and loaded onto a fresh model, the edit gives identical logits."""
    edited.save(folder)
    model, tokenizer = open_fresh()
    loaded = baseline.load(model, tokenizer, folder)
    assert loaded.settings == edited.settings
    with edited.asked(len(ids)), loaded.asked(len(ids)):
        assert torch.equal(logits_of(loaded.model, ids), logits_of(edited.model, ids))
    loaded.undo()
    assert torch.equal(logits_of(model, ids), logits_of(open_fresh()[0], ids))


def assert_undo_and_load_are_exact(
    baseline: Baseline, edit: Edit, open_fresh: Callable[[], LoadedModel], folder: Path
) -> None:
    """Two edits are saved and loaded onto a fresh model, then undone; `edit` is the one that is asked for."""
    model, tokenizer = open_fresh()
    edited = prepared(baseline, (model, tokenizer), folder).edit(model, tokenizer, EDITS[:2], lambda line: None)
    prompt, _ = ids_of(tokenizer, edit)
    assert_loads(edited, baseline, open_fresh, folder / "edit", prompt)
    assert_undone(edited, open_fresh, prompt)


def assert_needs_its_settings_and_unrelated_prompts(
    method: Callable[[BaselineSettings], Baseline], settings: BaselineSettings, open_fresh: Callable[[], LoadedModel]
) -> None:
    """Settings of another kind, and an edit before `prepare`, are refused in one line."""
    with pytest.raises(ConfigError, match=f"was given BaselineSettings; give it {type(settings).__name__}"):
        method(BaselineSettings())
    with pytest.raises(ModelError, match="has none; call prepare"):
        method(settings).edit(*open_fresh(), EDITS, lambda line: None)
