"""An edit that fails or is interrupted, wherever that happens, leaves the model as it was, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings
from onceedit_ray.baselines.methods.defer import DeferSettings
from onceedit_ray.baselines.methods.fine_tune_layer import FineTuneLayerSettings
from onceedit_ray.baselines.methods.grace import GraceSettings
from onceedit_ray.baselines.methods.memit import MemitSettings
from onceedit_ray.baselines.methods.mend import MendSettings
from onceedit_ray.baselines.methods.rome import RomeSettings
from onceedit_ray.baselines.methods.wise import WiseSettings
from tests.baseline_models import EDITS, Small, material, one_llama
from tests.families import SENTENCES

llama = one_llama

SETTINGS: dict[str, BaselineSettings] = {
    "defer": DeferSettings(depth=0.0, steps=3),
    "ft-l": FineTuneLayerSettings(steps=3, goal=0.0, batch_size=2),
    "grace": GraceSettings(depth=0.0, steps=3),
    "memit": MemitSettings(depths=(0.0, 0.5), prefixes=(), steps=2),
    "mend": MendSettings(layers=2, rank=4, rate=1e-2, steps=0),
    "rome": RomeSettings(depth=0.0, prefixes=(), steps=2),
    "wise": WiseSettings(depth=0.0, steps=3),
}


@pytest.fixture(params=sorted(SETTINGS))
def method(request: pytest.FixtureRequest, llama: Small, tmp_path: Path) -> Baseline:
    made: Baseline = BASELINES.get(request.param)(SETTINGS[request.param])  # type: ignore[assignment]
    given = replace(material(tmp_path), training=EDITS, unrelated=SENTENCES)
    made.prepare(llama.model, llama.tokenizer, given, [].append)
    return made


def test_every_baseline_is_among_them() -> None:
    assert sorted(SETTINGS) == BASELINES.names()


def state_of(model: PreTrainedModel) -> tuple[dict[str, Tensor], list[object]]:
    """Every tensor, and everything else an edit could leave behind: modules, flags, hooks."""
    tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
    rest: list[object] = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    for name, module in model.named_modules():
        rest.append((name, id(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks)))
    return tensors, rest


def assert_unchanged(model: PreTrainedModel, before: tuple[dict[str, Tensor], list[object]]) -> None:
    tensors, rest = state_of(model)
    assert rest == before[1]
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(value, before[0][name]) for name, value in tensors.items())


class Counted:
    """Counts forward passes and progress lines, and raises at the one that is asked for."""

    def __init__(self, at_pass: int = -1, at_line: int = -1, error: type[BaseException] = RuntimeError) -> None:
        self.passes = self.lines = 0
        self._at_pass, self._at_line, self._error = at_pass, at_line, error

    def ran(self, module: nn.Module, arguments: tuple[object, ...]) -> None:
        if self.passes == self._at_pass:
            raise self._error("stopped")
        self.passes += 1

    def line(self, text: str) -> None:
        if self.lines == self._at_line:
            raise self._error("stopped")
        self.lines += 1


def edited(method: Baseline, llama: Small, counted: Counted) -> Callable[[], None]:
    handle = llama.model.get_input_embeddings().register_forward_pre_hook(counted.ran)
    try:
        return method.edit(llama.model, llama.tokenizer, EDITS, counted.line).undo
    finally:
        handle.remove()


def test_stopped_anywhere_the_model_is_what_it_was(method: Baseline, llama: Small) -> None:
    before = state_of(llama.model)
    whole = Counted()
    undo = edited(method, llama, whole)
    tensors, rest = state_of(llama.model)
    assert rest != before[1] or not all(torch.equal(value, before[0][name]) for name, value in tensors.items())
    undo()
    assert_unchanged(llama.model, before)
    points = sorted({0, whole.passes // 3, whole.passes // 2, whole.passes - 1})
    for error in (RuntimeError, KeyboardInterrupt):
        for at in points:
            with pytest.raises(error, match="stopped"):
                edited(method, llama, Counted(at_pass=at, error=error))
            assert_unchanged(llama.model, before)
        for at in sorted({0, whole.lines // 2, whole.lines - 1}):
            with pytest.raises(error, match="stopped"):
                edited(method, llama, Counted(at_line=at, error=error))
            assert_unchanged(llama.model, before)


def test_a_loading_that_fails_midway_leaves_the_model_as_it_was(
    llama: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method: Baseline = BASELINES.get("ft-l")(SETTINGS["ft-l"])  # type: ignore[assignment]
    outcome = method.edit(llama.model, llama.tokenizer, EDITS, [].append)
    outcome.save(tmp_path / "edit")
    outcome.undo()
    before = state_of(llama.model)

    def stopped(self: object, name: str, value: Tensor) -> None:
        own(self, name, value)
        raise KeyboardInterrupt("stopped")

    own = type(outcome).set_parameter
    monkeypatch.setattr(type(outcome), "set_parameter", stopped)
    with pytest.raises(KeyboardInterrupt):
        method.load(llama.model, llama.tokenizer, tmp_path / "edit")
    assert_unchanged(llama.model, before)
