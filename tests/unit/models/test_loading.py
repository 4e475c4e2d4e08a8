"""Loading models, tokenizers and embeddings of six families, without code for any of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PretrainedConfig

from onceedit_ray.errors import ModelError
from onceedit_ray.models.loading import UNBOUNDED, context_length, input_embeddings, load_model, load_tokenizer
from tests.families import FAMILIES, build_family


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: build_family(name, root / name) for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
def test_family_loads_and_its_embeddings_are_found(name: str, families: dict[str, Path]) -> None:
    model, tokenizer = load_model(families[name]), load_tokenizer(families[name])
    assert (model.dtype, model.device.type, model.training) == (torch.float32, "cpu", False)
    assert context_length(model.config) == 256
    E_VD = input_embeddings(families[name])
    assert E_VD.dtype == torch.float32
    assert torch.equal(E_VD, model.get_input_embeddings().weight)
    assert len(E_VD) >= len(tokenizer)
    tokens = tokenizer("The capital of France is Paris.", return_tensors="pt").input_ids
    assert model(tokens).logits.shape == (1, tokens.shape[1], model.config.vocab_size)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("llama", ["<s>", "▁in", "▁", "1", "9", "<0x0A>"]),
        ("mistral", ["<s>", "in", "▁", "1", "9", "<0x0A>"]),
        ("gptj", ["in", "Ġ19", "Ċ"]),
        ("gpt2", ["in", "Ġ19", "Ċ"]),
        ("qwen2", ["in", "Ġ", "1", "9", "Ċ"]),
        ("gemma3", ["<bos>", "in", "▁", "1", "9", "\n"]),
    ],
)
def test_each_family_has_its_own_kind_of_tokenizer(name: str, tokens: list[str], families: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(families[name])
    assert tokenizer.convert_ids_to_tokens(tokenizer("in 19\n").input_ids) == tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_tokenizers_give_text_back(name: str, families: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(families[name])
    text = "The  café\n\n\tin 1889: 東京 🤖 don't  "
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_a_seed_fixes_the_weights(tmp_path: Path) -> None:
    first, same, other = (build_family("llama", tmp_path / str(n), seed=seed) for n, seed in enumerate((3, 3, 4)))
    assert torch.equal(input_embeddings(first), input_embeddings(same))
    assert not torch.equal(input_embeddings(first), input_embeddings(other))


def test_embeddings_of_sharded_weights(families: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(families["llama"])
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(input_embeddings(tmp_path), model.get_input_embeddings().weight)


def test_embeddings_under_a_name_without_the_base_prefix(families: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(families["gpt2"] / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    save_file(bare, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text((families["gpt2"] / "config.json").read_text())
    assert "wte.weight" in bare
    assert torch.equal(input_embeddings(tmp_path), bare["wte.weight"])


def test_embeddings_stored_in_half_precision_come_as_float32(families: dict[str, Path], tmp_path: Path) -> None:
    model = load_model(families["gemma3"], dtype="bfloat16")
    model.save_pretrained(tmp_path)
    E_VD = input_embeddings(tmp_path)
    assert E_VD.dtype == torch.float32
    assert torch.equal(E_VD, model.get_input_embeddings().weight.float())


def test_dtype_is_as_asked(families: dict[str, Path]) -> None:
    assert load_model(families["qwen2"], dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"dtype": "int8"}, "unknown dtype 'int8'; give auto, float32"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"device": "cuda:99"}, r"'cuda:99' is not there: this process sees \d+ GPUs"),
    ],
)
def test_what_cannot_be_had_is_named(options: dict[str, str], line: str, families: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=line):
        load_model(families["gpt2"], **options)


def test_code_in_a_folder_is_not_run(families: dict[str, Path], tmp_path: Path) -> None:
    config = json.loads((families["gpt2"] / "config.json").read_text())
    config |= {
        "model_type": "homemade",
        "auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (tmp_path / "model.safetensors").write_bytes((families["gpt2"] / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        input_embeddings(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    for load in (load_model, load_tokenizer, input_embeddings):
        with pytest.raises(ModelError) as error:
            load(tmp_path / "nowhere")
        assert "nowhere" in str(error.value) and "\n" not in str(error.value)


def test_context_length_that_is_not_stated_is_no_limit() -> None:
    assert context_length(PretrainedConfig()) == UNBOUNDED
