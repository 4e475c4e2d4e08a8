"""C = E[k kᵀ] compared with a sum computed by hand, and its cache on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from onceedit_ray.baselines import second_moment
from onceedit_ray.baselines.mlps import Mlp, find_mlps
from onceedit_ray.baselines.second_moment import second_moments
from onceedit_ray.errors import DataError, StoreError
from onceedit_ray.models.codec import Codec
from tests.baseline_models import Small, material, parameters
from tests.families import SENTENCES


def measured(given: Small, cache: Path, corpus: list[str] = SENTENCES, texts: int = 1000) -> dict[int, Tensor]:
    return second_moments(
        given.model, given.tokenizer, find_mlps(given.model), material(cache, corpus), texts, [].append
    )


def summed_by_hand(given: Small, mlp: Mlp, corpus: list[str]) -> Tensor:
    keys: list[Tensor] = []
    handle = mlp.projection.register_forward_pre_hook(lambda module, arguments: keys.append(arguments[0][0]))
    codec = Codec(given.tokenizer)
    with torch.no_grad():
        for text in corpus:
            given.model(input_ids=torch.tensor([codec.encode_prompt(text)]))
    handle.remove()
    k_MF = torch.cat(keys).double()
    return (k_MF.T @ k_MF / len(k_MF)).float()


def test_it_is_the_mean_over_every_token_and_no_padding(given: Small, tmp_path: Path) -> None:
    before = parameters(given.model)
    found = measured(given, tmp_path)
    for mlp in find_mlps(given.model):
        by_hand = summed_by_hand(given, mlp, SENTENCES)
        torch.testing.assert_close(found[mlp.layer], by_hand, rtol=1e-4, atol=1e-5 * float(by_hand.abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in given.model.named_parameters())


def test_it_is_read_from_disk_the_second_time(llama: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(llama, tmp_path)
    monkeypatch.setattr(second_moment, "module_inputs", lambda *_: pytest.fail("the model ran again"))
    for corpus in (SENTENCES, []):
        again = measured(llama, tmp_path, corpus)
        assert first.keys() == again.keys()
        assert all(torch.equal(first[layer], again[layer]) for layer in first)


def test_another_corpus_makes_another_statistic(llama: Small, tmp_path: Path) -> None:
    first = measured(llama, tmp_path)
    other = measured(llama, tmp_path, SENTENCES[:30])
    assert not torch.equal(first[0], other[0])
    torch.testing.assert_close(measured(llama, tmp_path, [])[0], other[0], rtol=0, atol=0)
    by_number = measured(llama, tmp_path, texts=30)
    torch.testing.assert_close(by_number[0], other[0], rtol=0, atol=0)


def test_a_damaged_file_is_made_again(llama: Small, tmp_path: Path) -> None:
    first = measured(llama, tmp_path)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == len(first)
    files[0].write_bytes(files[0].read_bytes()[:50])
    again = measured(llama, tmp_path)
    assert all(torch.equal(first[layer], again[layer]) for layer in first)
    assert sorted(tmp_path.rglob("*.safetensors")) == files
    assert not list(tmp_path.rglob(".staging-*"))


def test_a_write_that_fails_leaves_no_half_file(llama: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, file: str, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(second_moment, "save_file", full)
    with pytest.raises(StoreError, match="no space"):
        measured(llama, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_neither_a_corpus_nor_a_statistic_says_what_to_give(llama: Small, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no statistic for layer 0 .*: onceedit prepare rome --model NAME --corpus FILE"
    ):
        measured(llama, tmp_path, [])
    with pytest.raises(DataError, match="no corpus"):
        measured(llama, tmp_path, ["  ", ""])


def test_a_corpus_with_too_few_tokens_is_refused(llama: Small, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"width 96 needs at least 192; give more texts"):
        measured(llama, tmp_path, SENTENCES[:2])
    assert not list(tmp_path.rglob("*.safetensors"))
