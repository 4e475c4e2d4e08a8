"""Loads a model, a tokenizer, or only the input embeddings from a model folder.

Works for every causal language model of transformers with its built-in classes: nothing in a folder is ever executed or
unpickled. This module does not know where the folder came from.

Shape legend: V vocabulary (rows of the embedding, which may be more than the tokenizer has tokens), D hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers import modeling_gguf_pytorch_utils as gguf_conversion
from transformers.utils import logging

from onceedit_ray.errors import ModelError
from onceedit_ray.models.agreement import is_causal
from onceedit_ray.models.sources.folder import one_line, weight_files

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CONTEXT_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_NO_WINDOW_OF_ITS_OWN = frozenset({"sliding_window", "max_window_layers"})
UNBOUNDED = 2**31 - 1
"""The context length of a network without one."""
_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)


def load_model(
    folder: Path, dtype: str = "auto", device: str = "auto", device_map: str | None = None
) -> PreTrainedModel:
    """The causal language model in `folder`, in evaluation mode, with scaled-dot-product attention if it supports it.

    Args:
        dtype: "float32", "bfloat16", "float16"; "auto" is float32 on a CPU and bfloat16 on a GPU.
        device: "cpu", "cuda", "cuda:1", "mps"; "auto" is the first GPU that this process may use, or the CPU.
        device_map: accelerate's placement over several GPUs ("auto", "balanced", "sequential") instead of `device`.

    Raises:
        ModelError: no such dtype or device, the folder holds no model that transformers can load and run, or its
            network is not causal.
    """
    place = _device("auto" if device_map else device)
    if dtype != "auto" and dtype not in _DTYPES:
        raise ModelError(f"unknown dtype '{dtype}'; give auto, {', '.join(_DTYPES)}")
    chosen = _DTYPES[dtype] if dtype != "auto" else torch.float32 if place.type == "cpu" else torch.bfloat16
    weight_files(folder)
    try:
        with without_progress_bars():
            model = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=chosen,
                device_map=device_map,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
            model = model.eval() if device_map else model.eval().to(place)
    except _LOADING_ERRORS as error:
        raise _explained(folder, error) from error
    _check(model, folder)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`; raises `ModelError` if there is none that transformers can load."""
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (*_LOADING_ERRORS, TypeError, AttributeError) as error:
        raise _explained(folder, error) from error


def load_config(folder: Path) -> PretrainedConfig:
    """The configuration in `folder`; raises `ModelError` if there is none that transformers knows."""
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except _LOADING_ERRORS as error:
        raise _explained(folder, error) from error


def input_embeddings(folder: Path) -> Tensor:
    """`E_VD`: the input embedding as stored, (V, D) float32 on the CPU.

    A factor that the model applies to its embeddings (Gemma: the root of D) is not in the stored weight. No other
    weight is read, unless the folder stores the embedding under a name that only transformers' loading knows (models
    inside a multimodal wrapper): then the model is loaded for it.

    Raises:
        ModelError: the folder cannot be loaded, or the weight is stored quantised.
    """
    names = _embedding_names(folder)
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt") as weights:
                for name in names & set(weights.keys()):
                    return _as_float(weights.get_tensor(name), name, folder)
        except (OSError, SafetensorError) as error:
            raise _explained(folder, error) from error
    E_VD = load_model(folder, device="cpu", dtype="float32").get_input_embeddings().weight.detach()
    return _as_float(E_VD, "its input embedding", folder)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware supports bfloat16 products (AVX512-BF16, or a GPU since Ampere)."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()


def context_length(config: PretrainedConfig, limit: int | None = None, of_tokenizer: float = UNBOUNDED) -> int:
    """The number of tokens that the model's window holds.

    The configuration states it, or else the tokenizer. If neither does, a network without a limit of its own (ALiBi,
    state spaces) is `UNBOUNDED`. If a network rotates positions in another way beyond some length (LongRoPE: Phi-3's
    128k models beyond 4,096 tokens), the window ends there: the cache, and the other sessions of a batch, would still
    hold keys that were rotated in the first way.

    Args:
        limit: the run file's `context`, which may shorten the window. of_tokenizer: its `model_max_length`.

    Raises:
        ModelError: `limit` is more than the configuration states.
    """
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in _CONTEXT_LENGTH_NAMES)
    known: list[int | None] = [next(filter(_is_length, lengths), None), _turned_alike(text)]
    stated = min((length for length in known if length is not None), default=None)
    if limit is not None and stated is not None and limit > stated:
        raise ModelError(f"context is {limit}, but the model '{config.model_type}' holds {stated} tokens; lower it")
    return limit or stated or int(min(max(of_tokenizer, 1), UNBOUNDED))


def has_window_of_its_own(config: PretrainedConfig) -> bool:
    """Whether layers attend to a window that only the network knows (GPT-Neo's `window_size`): our masks cannot contain
    it, and the short passes of a test do not reach its end.
    """
    if getattr(config, "layer_types", None):
        return False
    return any(
        type(value) is int and value > 0
        for name, value in config.to_dict().items()
        if re.search("window|local_attention|attention_chunk", name) and name not in _NO_WINDOW_OF_ITS_OWN
    )


def _is_length(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _turned_alike(config: PretrainedConfig) -> int | None:
    """The length up to which LongRoPE rotates all positions by its short factors; None without LongRoPE."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    name = "original_max_position_embeddings"
    turned = [kind for kind in kinds if kind.get("rope_type") == "longrope"]
    lengths: list[int] = [kind[name] for kind in turned if _is_length(kind.get(name))]
    return min(lengths, default=None)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' own progress bars; progress is shown by `onceedit_ray.progress` only."""
    shown, bar = logging.is_progress_bar_enabled(), gguf_conversion.tqdm
    logging.disable_progress_bar()
    gguf_conversion.tqdm = _without_bar  # a plain tqdm bar, which transformers' switch does not control
    try:
        yield
    finally:
        gguf_conversion.tqdm = bar
        if shown:
            logging.enable_progress_bar()


def _without_bar(items: Iterable[Any], **_: object) -> Iterable[Any]:
    return items


def device_for(num_gpus: float) -> str:
    """The device, in the form of `load_model`, for a model that reserves `num_gpus` GPUs."""
    return "cuda" if num_gpus and torch.cuda.is_available() else "cpu"


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        raise ModelError(f"unknown device '{device}'; give auto, cpu, cuda, cuda:N or mps") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ModelError(f"device '{device}' is not there: this process sees {found} GPUs; give another, or cpu")
    return place


def _embedding_names(folder: Path) -> set[str]:
    """The names under which the folder's files may store the input embedding.

    Tied weights may be stored under any of their names; the oldest files of the hub (GPT-2) omit the base prefix.
    """
    config = load_config(folder)
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except _LOADING_ERRORS as error:
        raise _explained(folder, error) from error
    weight = model.get_input_embeddings().weight
    names = {name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is weight}
    return names | {name.removeprefix(f"{model.base_model_prefix}.") for name in names}


def _as_float(stored: Tensor, name: str, folder: Path) -> Tensor:
    if stored.dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ModelError(f"{folder} stores {name} as {stored.dtype}; give a copy of the model that is not quantised")
    return stored.float()


def _check(model: PreTrainedModel, folder: Path) -> None:
    """Raise `ModelError` for a network that fails in a plain pass, or that reads ahead (BERT and its kind)."""
    try:
        causal = is_causal(model)
    except torch.OutOfMemoryError as error:
        raise _explained(folder, error) from error
    except Exception as error:  # whatever the network's own code raises
        raise ModelError(
            f"{folder}: {type(model).__name__} fails in a plain pass: {type(error).__name__}: {one_line(error)}; "
            "check the model's config.json"
        ) from error
    if not causal:
        raise ModelError(
            f"{folder}: {type(model).__name__} reads ahead: what follows a token changes what it predicts there, so "
            "it writes no text from left to right; choose a decoder"
        )


def _explained(folder: Path, error: Exception) -> ModelError:
    if not folder.is_dir():
        return ModelError(f"there is no model folder {folder}; fetch the model again")
    if isinstance(error, torch.OutOfMemoryError):
        return ModelError(f"{folder} does not fit into the GPU's memory; give it more GPUs or a shorter dtype")
    return ModelError(f"{folder} cannot be loaded: {one_line(error)}; check that transformers supports this model")
