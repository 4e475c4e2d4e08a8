"""What every baseline must do, whatever its method: learn, undo, save, load, stop and refuse.

A method that is registered has an entry in `SETTINGS`. What defines a method is tested in a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BASELINES, Baseline, BaselineSettings, preset
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.teacher_forcing import answer_ids, prompt_ids
from onceedit_ray.errors import ConfigError, DataError, ModelError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Count
from tests.baseline_models import BRIEF, EDITS, SETTINGS, Small, material, mixture_of_experts, small
from tests.families import FAMILIES, SENTENCES

TOGETHER = EDITS[:2]

each_method = pytest.mark.parametrize("name", sorted(SETTINGS))


def brief(name: str) -> Baseline:
    return made(name, steps=BRIEF[name])


def made(name: str, **changes: object) -> Baseline:
    return BASELINES.get(name)(SETTINGS[name].model_copy(update=changes))


def prepared(method: Baseline, given: Small, cache: Path) -> Baseline:
    """The method after `prepare` with everything that any method may ask for."""
    whole = replace(material(cache), training=EDITS, unrelated=SENTENCES)
    method.prepare(given.model, given.tokenizer, whole, [].append)
    return method


def edit(method: Baseline, given: Small, edits: Sequence[Edit] = TOGETHER) -> EditedModel:
    return method.edit(given.model, given.tokenizer, edits, [].append)


@torch.no_grad()
def logits(edited: EditedModel, tokenizer: PreTrainedTokenizerBase, asked: Edit) -> tuple[Tensor, Tensor]:
    """Log-probabilities where the answer to an edit's prompt is read off, [T, V], and the answer's tokens, [T]."""
    prompt, answer = prompt_ids(tokenizer, asked.prompt), answer_ids(tokenizer, asked.prompt, asked.target_new)
    with edited.asked(len(prompt)):
        logits_NV = edited.model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
    return logits_NV[len(prompt) - 1 : -1].log_softmax(-1), torch.tensor(answer)


def loss(edited: EditedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Mean over the edits of the answers' negative log-likelihood for each token."""
    losses = []
    for asked in TOGETHER:
        log_p_TV, answer_T = logits(edited, tokenizer, asked)
        losses.append(-log_p_TV.gather(1, answer_T[:, None]).mean().item())
    return sum(losses) / len(losses)


State = tuple[dict[str, Tensor], list[object]]


def state_of(model: PreTrainedModel) -> State:
    """Every tensor, and everything else an edit could leave behind: modules, flags, hooks."""
    tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
    rest: list[object] = [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]
    for name, module in model.named_modules():
        rest.append((name, id(module), module.training, len(module._forward_hooks), len(module._forward_pre_hooks)))
    return tensors, rest


def same_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def assert_unchanged(model: PreTrainedModel, before: State) -> None:
    tensors, rest = state_of(model)
    assert rest == before[1]
    assert same_tensors(tensors, before[0])


def test_every_baseline_is_among_them() -> None:
    assert sorted(SETTINGS) == sorted(BRIEF) == BASELINES.names()


# Each method on half of the families, each family by half of the methods; `make test-exhaustive` tries all of them.
@pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(name, family, marks=[pytest.mark.exhaustive] if (row + column) % 2 else [])
        for row, name in enumerate(sorted(SETTINGS))
        for column, family in enumerate(FAMILIES)
    ],
)
def test_an_edit_is_learnt_undone_saved_and_loaded_to_the_bit(
    families: Callable[[str], Small], family: str, name: str, tmp_path: Path
) -> None:
    given = families(family)
    model, tokenizer = given.model, given.tokenizer
    method = made(name)
    before = state_of(model)
    method.check(model)
    prepared(method, given, tmp_path / "cache")
    assert_unchanged(model, before)
    own = loss(EditedModel(model, name, {}), tokenizer)

    updates: list[str | Count] = []
    edited = method.edit(model, tokenizer, TOGETHER, updates.append)
    assert loss(edited, tokenizer) < own - 0.1
    assert edited.settings == method_settings(name)
    assert updates and all("\n" not in str(update) for update in updates)
    assert all(0 < update.done <= update.total for update in updates if isinstance(update, Count))

    after = state_of(model)[0]
    log_p_TV, _ = logits(edited, tokenizer, TOGETHER[0])
    edited.save(tmp_path / "edit")
    edited.undo()
    assert_unchanged(model, before)

    loaded = made(name).load(model, tokenizer, tmp_path / "edit")
    assert same_tensors(state_of(model)[0], after)
    assert torch.equal(logits(loaded, tokenizer, TOGETHER[0])[0], log_p_TV)
    assert loaded.settings == method_settings(name)
    loaded.undo()
    assert_unchanged(model, before)


def method_settings(name: str) -> dict[str, object]:
    return SETTINGS[name].model_dump(mode="json")


@each_method
def test_the_same_seed_makes_the_same_edit(llama: Small, name: str, tmp_path: Path) -> None:
    results = []
    for number in range(2):
        edited = edit(prepared(brief(name), llama, tmp_path / str(number)), llama)
        results.append(state_of(llama.model)[0])
        edited.undo()
    assert same_tensors(results[0], results[1])


@each_method
def test_a_frozen_model_is_edited_under_no_grad_and_stays_frozen(llama: Small, name: str, tmp_path: Path) -> None:
    frozen = replace(llama, model=llama.again().requires_grad_(False))
    before = state_of(frozen.model)
    with torch.no_grad():
        edited = edit(prepared(brief(name), frozen, tmp_path), frozen)
    assert not same_tensors(state_of(frozen.model)[0], before[0])
    assert not any(parameter.requires_grad for parameter in frozen.model.parameters())
    edited.undo()
    assert_unchanged(frozen.model, before)


@each_method
def test_no_edits_change_no_answer(llama: Small, name: str, tmp_path: Path) -> None:
    before = state_of(llama.model)
    own, _ = logits(EditedModel(llama.model, name, {}), llama.tokenizer, TOGETHER[0])
    edited = edit(prepared(brief(name), llama, tmp_path), llama, [])
    assert torch.equal(logits(edited, llama.tokenizer, TOGETHER[0])[0], own)
    edited.undo()
    assert_unchanged(llama.model, before)


class Counted:
    """Counts forward passes and progress lines, and raises at the one that is asked for."""

    def __init__(self, at_pass: int = -1, at_line: int = -1, error: type[BaseException] = RuntimeError) -> None:
        self.passes = self.lines = 0
        self._at_pass, self._at_line, self._error = at_pass, at_line, error

    def ran(self, module: nn.Module, arguments: tuple[object, ...]) -> None:
        if self.passes == self._at_pass:
            raise self._error("stopped")
        self.passes += 1

    def line(self, update: str | Count) -> None:
        if self.lines == self._at_line:
            raise self._error("stopped")
        self.lines += 1


def counted(method: Baseline, llama: Small, counted: Counted) -> Callable[[], None]:
    handle = llama.model.get_input_embeddings().register_forward_pre_hook(counted.ran)
    try:
        return method.edit(llama.model, llama.tokenizer, EDITS, counted.line).undo
    finally:
        handle.remove()


@each_method
def test_stopped_anywhere_the_model_is_what_it_was(llama: Small, name: str, tmp_path: Path) -> None:
    method = prepared(brief(name), llama, tmp_path)
    before = state_of(llama.model)
    whole = Counted()
    undo = counted(method, llama, whole)
    tensors, rest = state_of(llama.model)
    assert rest != before[1] or not same_tensors(tensors, before[0])
    undo()
    assert_unchanged(llama.model, before)
    points = sorted({0, whole.passes // 3, whole.passes // 2, whole.passes - 1})
    for error in (RuntimeError, KeyboardInterrupt):
        for at in points:
            with pytest.raises(error, match="stopped"):
                counted(method, llama, Counted(at_pass=at, error=error))
            assert_unchanged(llama.model, before)
        for at in sorted({0, whole.lines // 2, whole.lines - 1}):
            with pytest.raises(error, match="stopped"):
                counted(method, llama, Counted(at_line=at, error=error))
            assert_unchanged(llama.model, before)


def test_a_loading_that_fails_midway_leaves_the_model_as_it_was(
    llama: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = brief("ft-l")
    outcome = edit(method, llama)
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


@each_method
def test_it_is_found_by_name_with_typed_presets_and_its_paper(llama: Small, name: str) -> None:
    method: Baseline = BASELINES.get(name)  # type: ignore[assignment]
    assert preset(name, llama.model) is method.presets["default"]
    assert all(type(settings) is method.Settings for settings in method.presets.values())
    assert isinstance(SETTINGS[name], method.Settings)
    assert "https://" in method.paper


@each_method
def test_settings_of_another_kind_are_refused(name: str) -> None:
    kind = type(SETTINGS[name]).__name__
    with pytest.raises(ConfigError, match=f"^{name} was given BaselineSettings; give it {kind}$"):
        BASELINES.get(name)(BaselineSettings())


NEEDS = {
    "defer": "defer teaches its gate with unrelated prompts and has none; call prepare with some first",
    "memit": "memit has no statistics of this model; call `prepare` before `edit`",
    "mend": "mend has no hyper-network for this model; call `prepare` with it first",
    "rome": "rome has no statistic of this model; call `prepare` before `edit`",
    "wise": "wise routes by comparison with unrelated prompts and has none; call prepare with some",
}
"""What a method says that was not prepared; the others need no preparation."""
NEEDS_DATA = {"memit": "no corpus", "mend": "give the dataset's training part", "rome": "no corpus"}


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_an_edit_before_prepare_says_what_is_missing(llama: Small, name: str) -> None:
    before = state_of(llama.model)
    with pytest.raises(ModelError, match=f"^{NEEDS[name]}$"):
        edit(brief(name), llama)
    assert_unchanged(llama.model, before)


@pytest.mark.parametrize("name", sorted(NEEDS_DATA))
def test_missing_data_are_named(llama: Small, name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=NEEDS_DATA[name]):
        brief(name).prepare(llama.model, llama.tokenizer, material(tmp_path, []), [].append)


@each_method
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_edit_beyond_the_window_is_named_before_any_work(
    families: Callable[[str], Small], family: str, name: str
) -> None:
    """Even before the method finds that it was not prepared."""
    long = Edit(prompt="Who wrote the chronicle?", target_new=" ".join(SENTENCES[14:30]), subject="chronicle")
    given = families(family)
    before = state_of(given.model)
    with pytest.raises(ModelError, match=r'the edit "Who wrote the chronicle\?": it takes .* the window holds 256'):
        edit(brief(name), given, [EDITS[0], long])
    assert_unchanged(given.model, before)


@each_method
def test_a_model_without_plain_mlps_is_refused_before_any_work(name: str) -> None:
    with pytest.raises(ModelError, match="MixtralForCausalLM") as caught:
        brief(name).check(mixture_of_experts())
    assert "\n" not in str(caught.value)


@each_method
def test_a_folder_without_an_edit_of_its_own_is_refused(llama: Small, name: str, tmp_path: Path) -> None:
    before = state_of(llama.model)
    with pytest.raises(ModelError, match="holds no saved edit; make one with"):
        brief(name).load(llama.model, llama.tokenizer, tmp_path)
    EditedModel(llama.model, "another", {}).save(tmp_path / "edit")
    with pytest.raises(ModelError, match=f"holds an edit by 'another', not by '{name}'; load it with that one"):
        brief(name).load(llama.model, llama.tokenizer, tmp_path / "edit")
    assert_unchanged(llama.model, before)


@each_method
@pytest.mark.parametrize("family", ["mistral", "gpt2"])  # another shape, and another name, of the same layer
def test_an_edit_of_another_model_is_refused_and_nothing_stays(
    llama: Small, families: Callable[[str], Small], family: str, name: str, tmp_path: Path
) -> None:
    edited = edit(prepared(brief(name), llama, tmp_path), llama)
    edited.save(tmp_path / "edit")
    edited.undo()
    other = families(family)
    before = state_of(other.model)
    with pytest.raises(ModelError, match=r"does not fit .*; load it on the model it was made on") as caught:
        brief(name).load(other.model, other.tokenizer, tmp_path / "edit")
    assert "\n" not in str(caught.value)
    assert_unchanged(other.model, before)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Small]:
    """The model of a family; each is built once."""
    built: dict[str, Small] = {}

    def of(family: str) -> Small:
        if family not in built:
            built[family] = small(family, tmp_path_factory.mktemp(family))
        return built[family]

    return of
