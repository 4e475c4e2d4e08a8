"""Models of many types: their sessions give what the networks give, or they are refused when they are opened."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ContextLengthError, ModelError, PromptError
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.linear_maps import speed_up_linear_maps
from onceedit_ray.models.loading import (
    UNBOUNDED,
    context_length,
    input_embeddings,
    load_config,
    load_model,
    load_tokenizer,
)
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.passes import SinglePasses, WholePasses, passes_for
from tests.families import SENTENCES, build_family
from tests.model_settings import WIDTH
from tests.model_types import build_row, build_type, build_wrapped, byte_level_tokenizer
from tests.small_system import CPU, full_logits

RECURRENT = ["bamba", "mamba2", "qwen3_5_text", "recurrent_gemma"]


async def in_pieces(model: LocalModel, pieces: list[list[int]]) -> list[Any]:
    """The row after each piece of one session, then after a cut back to the first piece and a fork of it."""
    step = await model.open(pieces[0])
    found = [step.top.row(0)]
    held = len(pieces[0])
    for piece in pieces[1:]:
        found.append((await model.extend(step.session, held, piece)).top.row(0))
        held += len(piece)
    again = await model.extend(step.session, len(pieces[0]), pieces[1])
    fork = await model.fork(step.session)
    forked = await model.extend(fork, len(pieces[0]) + len(pieces[1]), pieces[2])
    return [*found, again.top.row(0), forked.top.row(0)]


def assert_exact(network: Any, model: LocalModel) -> None:
    pieces = [[5, 9, 33, 71, 100, 7, 8], [12], [40, 41, 42], [6]]
    found = asyncio.run(in_pieces(model, pieces))
    whole = [token for piece in pieces for token in piece]
    p_NV = full_logits(network, whole).softmax(-1)
    ends = [6, 7, 10, 11, 7, 10]
    for (ids_K, p_K), end in zip(found, ends, strict=True):
        torch.testing.assert_close(torch.from_numpy(p_K), p_NV[end, torch.from_numpy(ids_K).long()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", RECURRENT)
def test_a_session_in_pieces_gets_what_the_whole_sequence_gives(tmp_path: Path, model_type: str) -> None:
    network = load_model(build_type(model_type, tmp_path / "m"), dtype="float32", device="cpu")
    assert isinstance(passes_for(network), SinglePasses | WholePasses)
    assert_exact(network, LocalModel(network, end_ids=(), top_k=8))


class Forgetful(torch.nn.Module):
    """A network that accepts a cache and silently ignores it."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.config, self.device, self.dtype = network.config, network.device, network.dtype
        self.get_input_embeddings = network.get_input_embeddings
        self.get_output_embeddings = network.get_output_embeddings

    def forward(self, input_ids: Any, past_key_values: Any = None, use_cache: bool = False, **given: Any) -> Any:
        given.pop("attention_mask", None), given.pop("position_ids", None)
        return self.network(input_ids, use_cache=False, **given)


def test_a_network_that_leaves_its_cache_aside_is_read_whole(tmp_path: Path) -> None:
    network = Forgetful(load_model(build_family("llama", tmp_path / "m"), dtype="float32", device="cpu"))
    assert isinstance(passes_for(network), WholePasses)  # type: ignore[arg-type]
    assert_exact(network, LocalModel(network, end_ids=(), top_k=8))  # type: ignore[arg-type]


def test_maps_whose_weight_a_network_reads_itself_are_not_laid_out_anew(tmp_path: Path) -> None:
    """Jamba multiplies by the weight of `dt_proj` itself; the others are laid out, with the same answer."""
    network = load_model(build_type("jamba", tmp_path / "m"), dtype="float32", device="cpu")
    ids = [5, 9, 33, 7]
    before = full_logits(network, ids)
    speed_up_linear_maps(network)
    maps = [(name.rpartition(".")[2], getattr(module, "weight", None)) for name, module in network.named_modules()]
    laid_out = {name for name, weight in maps if weight is not None and weight.is_mkldnn}
    assert "dt_proj" not in laid_out
    assert {"q_proj", "lm_head"} <= laid_out
    torch.testing.assert_close(full_logits(network, ids), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model_type", ["bert", "xlnet"])
def test_a_network_that_reads_ahead_is_refused_when_it_is_loaded(tmp_path: Path, model_type: str) -> None:
    """It would score a text by what follows, and learn an answer by reading it."""
    with pytest.raises(ModelError, match=r"reads ahead: .* choose a decoder$"):
        load_model(build_type(model_type, tmp_path / "m"), dtype="float32", device="cpu")
    load_model(build_row("bert (as decoder)", tmp_path / "d"), dtype="float32", device="cpu")


def test_a_network_that_fails_in_a_plain_pass_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = build_type("roberta", tmp_path / "m", pad_token_id=None)
    with pytest.raises(ModelError, match="RobertaForCausalLM fails in a plain pass: TypeError: ") as caught:
        load_model(folder, dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)


def test_a_network_that_fails_with_its_own_cache_is_read_without_one(tmp_path: Path) -> None:
    """BART's decoder makes a cache with as many layers as its encoder has."""
    folder = build_type("bart", tmp_path / "m", encoder_layers=1)
    codec = open_codec(folder)
    model = open_model(folder, CPU, codec, 8, "m")
    assert_exact(load_model(folder, dtype="float32", device="cpu"), model)


async def test_a_context_ends_where_positions_begin_to_turn_otherwise(tmp_path: Path) -> None:
    folder = build_row("phi3 (LongRoPE)", tmp_path / "m")
    config = load_config(folder)
    assert config.max_position_embeddings == 256
    assert context_length(config) == 50
    with pytest.raises(ModelError, match="context is 51, but the model 'phi3' holds 50 tokens"):
        context_length(config, 51)
    model = open_model(folder, CPU, open_codec(folder), 8, "m")
    with pytest.raises(ContextLengthError, match="51 tokens do not fit the context of 50 tokens"):
        await model.open(list(range(5, 56)))


async def test_one_failing_row_fails_alone(tmp_path: Path) -> None:
    """Two requests in one pass: one has a token beyond the embedding and fails, the other is answered."""
    folder = build_family("llama", tmp_path / "m")
    model = open_model(folder, CPU, open_codec(folder), 8, "the target")

    async def both(bad: list[int]) -> list[Any]:
        return await asyncio.gather(model.open([5, 6, 7]), model.open(bad), return_exceptions=True)

    good, bad = await both([5, 6, 100_000])
    assert good.top.ids_NK.shape == (1, 8)
    assert isinstance(bad, PromptError) and "its tokenizer may have more tokens than the model has rows" in str(bad)

    real = model._cached.logits

    def failing(rows: Any) -> Any:  # a row whose error only the pass itself finds
        if any(13 in row.ids for row in rows):
            raise RuntimeError("no memory for that row")
        return real(rows)

    model._cached.logits = failing  # type: ignore[method-assign]
    good, bad = await both([5, 13, 7])
    assert good.top.ids_NK.shape == (1, 8)
    assert isinstance(bad, RuntimeError)


def test_a_token_without_a_row_is_never_written(tmp_path: Path) -> None:
    folder = build_family("llama", tmp_path / "m")
    tokenizer = load_tokenizer(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["Norland"])
    tokenizer.save_pretrained(folder)
    codec = open_codec(folder)
    assert len(codec.vocab) == rows
    ids = codec.encode_bytes(b" Norland")
    assert max(ids) < rows
    assert codec.bytes_of(ids) == b" Norland"


def test_added_tokens_are_their_own_text() -> None:
    """ "ß" and "é" are also letters of GPT-2's byte alphabet."""
    tokenizer = byte_level_tokenizer()
    added = ["Straße", "café", "<think>", "東京"]
    tokenizer.add_tokens(added)
    codec = Codec(tokenizer)
    for word in added:
        assert codec.text_of(codec.encode_prompt(f"a {word} b")) == f"a {word} b"
        ids = codec.encode_bytes(f" {word}".encode())
        assert tokenizer.convert_tokens_to_ids(word) in ids
        assert codec.text_of(ids) == f" {word}"
    letter = byte_level_tokenizer()
    letter.add_tokens(["é"])  # a byte of the alphabet already: it stays that byte
    assert Codec(letter).text_of(Codec(letter).encode_bytes("café ß".encode())) == "café ß"


def test_a_vocabulary_without_spaces_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    backend = Tokenizer(tokenizer_models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.decoder = normalizers.BertNormalizer(lowercase=True), decoders.WordPiece()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="[SEP]")
    with pytest.raises(ModelError, match=r"WordPiece, 500 tokens\) does not spell spaces.*choose one with"):
        Codec(tokenizer)
    for added in ("new york", "\u2581"):  # one token that spells a space does not make the others spell theirs
        other = copy.deepcopy(tokenizer)
        other.add_tokens([added])
        with pytest.raises(ModelError, match=r"WordPiece, 501 tokens\) does not spell spaces"):
            Codec(other)
    folder = build_family("gpt2", tmp_path / "m")
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="does not spell spaces"):
        open_codec(folder)


def test_an_embedding_inside_a_wrapper_is_found(tmp_path: Path) -> None:
    folder = build_wrapped("gemma3", tmp_path / "m")
    network = load_model(folder, dtype="float32", device="cpu")
    E_VD = input_embeddings(folder)
    assert E_VD.shape == (600, WIDTH)
    assert torch.equal(E_VD, network.get_input_embeddings().weight)
    assert_exact(network, open_model(folder, CPU, open_codec(folder), 8, "m"))


class TestEnds:
    def folder(self, tmp_path: Path, generation: Any, config: Any) -> tuple[Path, list[int]]:
        folder = build_family("qwen2", tmp_path / "m")
        tokenizer = load_tokenizer(folder)
        ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>", "<|im_start|>")]
        described = json.loads((folder / "config.json").read_text())
        described["eos_token_id"] = [ends[index] for index in config] if config else None
        (folder / "config.json").write_text(json.dumps(described))
        (folder / "generation_config.json").unlink(missing_ok=True)
        if generation is not None:
            named = {"eos_token_id": [ends[index] for index in generation]} if generation else {}
            (folder / "generation_config.json").write_text(json.dumps(named))
        return folder, ends

    @pytest.mark.parametrize(
        ("generation", "config", "expected"),
        [
            (None, [0, 1], [0, 1]),  # no generation config: the model's
            ([], [1], [0, 1]),  # one that names none: the model's, beside the tokenizer's
            ([2], [1], [0, 2]),  # one that names its own: that one counts
            (None, None, [0]),
        ],
    )
    def test_ends_of_text(self, tmp_path: Path, generation: Any, config: Any, expected: list[int]) -> None:
        folder, ends = self.folder(tmp_path, generation, config)
        assert open_codec(folder).end_ids == {ends[index] for index in expected}


class TestContext:
    async def test_a_network_that_states_no_length_has_no_limit_of_its_own(self, tmp_path: Path) -> None:
        folder = build_type("bloom", tmp_path / "m")
        codec = open_codec(folder)
        assert context_length(load_config(folder), None, codec.tokenizer.model_max_length) == UNBOUNDED
        model = open_model(folder, CPU, codec, 8, "m")
        assert (await model.open([5, 9, 33], decode=2)).new_ids

    def test_the_run_file_limits_it_then_the_tokenizer(self, tmp_path: Path) -> None:
        config = load_config(build_type("bloom", tmp_path / "m"))
        assert context_length(config, 64, 128) == 64
        assert context_length(config, None, 128) == 128
        assert ModelConfig(model="m", context=64).context == 64

    def test_a_stated_length_can_be_shortened_and_not_stretched(self, tmp_path: Path) -> None:
        config = load_config(build_family("llama", tmp_path / "m"))
        assert context_length(config) == 256
        assert context_length(config, 100, 128) == 100
        with pytest.raises(ModelError, match="context is 512, but the model 'llama' holds 256 tokens"):
            context_length(config, 512)
