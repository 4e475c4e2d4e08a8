"""A small reader: labels at the right tokens, a run that continues exactly, an adapter that is checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from onceedit_ray.errors import ModelError
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.models.weight_token import weight_token_id
from onceedit_ray.reader import adapter as adapters
from onceedit_ray.reader import training_run
from onceedit_ray.reader.adapter import (
    GATE,
    GATE_ROW,
    MANIFEST,
    WEIGHTS,
    adapter_for,
    find_adapter,
    keep_adapter,
    open_adapter,
)
from onceedit_ray.reader.examples import Example
from onceedit_ray.reader.train import UNCLEAR, ReaderModel, encode, losses
from onceedit_ray.reader.training_run import ReaderSettings, StepReport, train_reader
from tests.families import build_family
from tests.model_types import build_type
from tests.reader_source import material

SETTINGS = ReaderSettings(steps=6, batch_size=4, rank=2, frozen_layers=1, learning_rate=1e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return resolve(str(build_family("qwen2", tmp_path_factory.mktemp("reader") / "qwen2")))


@pytest.fixture(scope="module")
def trained(base: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> adapters.Adapter:
    return train_reader(base, material(), SETTINGS, tmp_path_factory.mktemp("adapter") / "a", command="made here")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    yield


def test_labels_stand_before_the_tokens_of_the_answer(base: ModelFolder) -> None:
    tokenizer = load_tokenizer(base.path)
    text = " The capital is Rome. Rome is old."
    start = text.index(" Rome")
    example = Example("Fact: x\nText:", text, ((start, start + 5),), ((21, 26),))
    encoded = encode(example, tokenizer)
    assert encoded is not None
    due = [at for at, label in enumerate(encoded.labels) if label == 1.0]
    written = tokenizer.decode([encoded.ids[at + 1] for at in due])
    assert written == " Rome"
    assert [encoded.wanted[at] for at in due] == [encoded.ids[at + 1] for at in due]
    view = len(tokenizer(example.view).input_ids)
    assert set(encoded.labels[: view - 1]) == {UNCLEAR}, "nobody asks inside the view"


def test_the_beginning_of_a_reply_has_no_label_and_an_asked_view_one(base: ModelFolder) -> None:
    tokenizer = load_tokenizer(base.path)
    reply = encode(Example("Fact: x\nReply:", " Well."), tokenizer)
    text = encode(Example("Fact: x\nText:", " Well."), tokenizer)
    asks = encode(Example("Fact: x\nAnswer:", " Rome", ((0, 5),), asks=True), tokenizer)
    assert reply is not None and text is not None and asks is not None
    end = len(tokenizer("Fact: x\nReply:").input_ids) - 1
    assert reply.labels[end] == UNCLEAR
    assert text.labels[len(tokenizer("Fact: x\nText:").input_ids) - 1] == 0.0
    assert [label for label in asks.labels if label != UNCLEAR] == [1.0]
    assert asks.ids[-1] == tokenizer.eos_token_id
    assert encode(Example("Fact: x " + "word " * 400, " y"), tokenizer) is None


def test_losses_fall_when_a_batch_is_learnt(base: ModelFolder) -> None:
    torch.manual_seed(0)
    tokenizer = load_tokenizer(base.path)
    reader = ReaderModel(load_model(base.path, dtype="float32"), 1, 4)
    batch = [
        encode(Example("Fact: a b\nQuestion: a\nAnswer:", " b", ((0, 2),), asks=True), tokenizer),
        encode(Example("Fact: a b\nQuestion: c\nAnswer:", "", asks=False), tokenizer),
    ]
    optimizer = torch.optim.AdamW([p for p in reader.parameters() if p.requires_grad], lr=2e-2)
    seen = []
    for _ in range(30):
        loss = losses(reader, [each for each in batch if each is not None], tokenizer.eos_token_id)
        optimizer.zero_grad()
        (loss.edit + loss.weight).backward()
        optimizer.step()
        seen.append(loss)
    assert seen[-1].edit < 0.5 * seen[0].edit
    weights, labels = seen[-1].asked
    assert sorted(labels) == [0.0, 1.0]
    assert all((weight > 0.5) == (label == 1.0) for weight, label in zip(weights, labels, strict=True))


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [("granite", {"logits_scaling": 8.0}), ("gemma2", {"final_logit_softcapping": 3.0}), ("qwen2", {})],
)
@torch.no_grad()
def test_training_sees_the_logits_that_decoding_sees(tmp_path: Path, model_type: str, settings: dict[str, Any]) -> None:
    """Also if the network changes its logits after the head, and for the gate, whose row becomes one of the head's."""
    folder = build_type(model_type, tmp_path / "m", initializer_range=0.2, **settings)
    model = load_model(folder, dtype="float32")
    reader = ReaderModel(model, 1, 4).eval()
    ids_BT = torch.tensor([[5, 9, 33, 71], [100, 7, 8, 12]])
    gates, answers = [(0, 1), (1, 0), (1, 3)], [(0, 2), (1, 3)]
    gate_N, logits_MV = reader.logits(ids_BT, gates, answers)
    expected_BTV = reader.lm(input_ids=ids_BT).logits
    torch.testing.assert_close(logits_MV, torch.stack([expected_BTV[at] for at in answers]), atol=1e-5, rtol=0)
    token = 50
    model.get_output_embeddings().weight[token] = reader.gate_D
    written = torch.stack([reader.lm(input_ids=ids_BT).logits[at][token] for at in gates])
    torch.testing.assert_close(gate_N, written, atol=1e-5, rtol=0)
    assert reader.logits(ids_BT, gates, [])[1].shape[0] == 0


def interrupt(base: ModelFolder, folder: Path, monkeypatch: pytest.MonkeyPatch, step: int, save_every: int) -> None:
    """Begin to train a reader in `folder`, with Ctrl-C at a step."""
    monkeypatch.setattr(training_run, "SAVE_EVERY", save_every)
    monkeypatch.setattr(training_run, "REPORT_EVERY", 1)

    def end(report: StepReport) -> None:
        if report.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_reader(base, material(), SETTINGS, folder, end)


def test_an_interrupted_run_goes_on_exactly(
    base: ModelFolder, trained: adapters.Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(base, tmp_path / "b", monkeypatch, step=4, save_every=2)
    assert (tmp_path / "b" / training_run.CHECKPOINT).is_file()
    steps: list[int] = []
    train_reader(base, material(), SETTINGS, tmp_path / "b", lambda report: steps.append(report.step))
    assert steps == [3, 4, 5, 6]
    assert not (tmp_path / "b" / training_run.CHECKPOINT).exists()
    once, twice = load_file(trained.folder / WEIGHTS), load_file(tmp_path / "b" / WEIGHTS)
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_a_checkpoint_of_other_settings_is_refused(
    base: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(base, tmp_path / "c", monkeypatch, step=2, save_every=1)
    other = ReaderSettings(steps=7, batch_size=4, rank=2, frozen_layers=1)
    with pytest.raises(ModelError, match="is of a run with other settings; give those, or another folder"):
        train_reader(base, material(), other, tmp_path / "c")


def test_an_adapter_is_trained_further(base: ModelFolder, trained: adapters.Adapter, tmp_path: Path) -> None:
    still = ReaderSettings(steps=1, batch_size=4, rank=2, frozen_layers=1, learning_rate=0.0)
    further = train_reader(base, material(), still, tmp_path / "d", start_from=trained)
    before, after = load_file(trained.folder / WEIGHTS), load_file(further.folder / WEIGHTS)
    assert all(torch.equal(before[name], after[name]) for name in before), "a step of length 0 changes nothing"
    assert torch.equal(load_file(trained.folder / GATE)[GATE_ROW], load_file(further.folder / GATE)[GATE_ROW])
    assert further.manifest.settings["start"]["digest"] == trained.digest
    assert further.manifest.settings["start"]["command"] == "made here"
    other = ReaderSettings(steps=1, batch_size=4, rank=4, frozen_layers=1)
    with pytest.raises(ModelError, match="has another rank or other layers; give its own --rank and --frozen-layers"):
        train_reader(base, material(), other, tmp_path / "e", start_from=trained)


def test_the_plugin_made_of_an_adapter_answers_as_the_reader(base: ModelFolder, trained: adapters.Adapter) -> None:
    folder = adapters.reader_folder(base, trained)
    assert adapters.reader_folder(base, trained) == folder, "made once"
    plugin, tokenizer = load_model(folder, dtype="float32"), load_tokenizer(folder)
    weight_id = weight_token_id(tokenizer)
    assert weight_id is not None
    row_D = load_file(trained.folder / adapters.GATE)[adapters.GATE_ROW]
    kept = plugin.get_output_embeddings().weight[weight_id].float()
    assert torch.allclose(kept, row_D, atol=2e-2 * float(row_D.abs().max()))
    plain = load_model(base.path, dtype="float32")
    ids = torch.tensor([tokenizer("Fact: a b").input_ids])
    rows = plain.get_output_embeddings().weight.shape[0]
    with torch.inference_mode():
        assert not torch.allclose(plugin(ids).logits[..., : rows - 1], plain(ids).logits[..., : rows - 1], atol=1e-3)


def test_an_adapter_says_what_is_wrong_with_it(base: ModelFolder, trained: adapters.Adapter, tmp_path: Path) -> None:
    assert trained.manifest.command == "made here"
    assert {"zsre.prompt.answered", "counterfact.locality.open"} <= trained.manifest.figures.keys()
    with pytest.raises(ModelError, match=r"holds no reader: it has no reader\.json; `onceedit reader train` makes one"):
        open_adapter(tmp_path)
    copied = tmp_path / "copy"
    keep = {path.name: path.read_bytes() for path in trained.folder.iterdir() if path.is_file()}
    copied.mkdir()
    for name, content in keep.items():
        (copied / name).write_bytes(content)
    assert open_adapter(copied).digest == trained.digest
    (copied / WEIGHTS).write_bytes(keep[WEIGHTS][:-10])
    with pytest.raises(ModelError, match=rf"{WEIGHTS} is cut short or altered"):
        open_adapter(copied)
    (copied / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=rf"{WEIGHTS} is missing; copy the adapter again"):
        open_adapter(copied)
    (copied / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"reader.json cannot be read"):
        open_adapter(copied)


def test_a_foreign_adapter_is_refused(trained: adapters.Adapter, tmp_path: Path) -> None:
    other = resolve(str(build_family("gpt2", tmp_path / "gpt2")))
    with pytest.raises(ModelError, match=r"was trained for .*, not for gpt2; train one with `onceedit reader train"):
        adapter_for(other, f"reader:{trained.folder}")
    with pytest.raises(ModelError, match="no reader ships for gpt2; train one with"):
        adapter_for(other, "reader")


def test_an_adapter_that_does_not_ship_is_kept_for_its_versions(trained: adapters.Adapter) -> None:
    with pytest.raises(ModelError, match=rf"the reader {trained.digest[:12]} of this version is not here"):
        find_adapter(trained.digest)
    keep_adapter(trained)
    assert find_adapter(trained.digest).digest == trained.digest
