"""Builds from a model folder the two objects that a decoder needs: a codec and a model with sessions."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from transformers import GenerationConfig

from onceedit_ray.config import ModelConfig, PluginConfig
from onceedit_ray.errors import ModelError
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.free_memory import cache_limit
from onceedit_ray.models.linear_maps import speed_up_linear_maps
from onceedit_ray.models.loading import (
    context_length,
    device_for,
    has_bfloat16,
    load_config,
    load_model,
    load_tokenizer,
)
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.pass_threads import PassThreads

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

SMALL = 3 * 2**28
"""Bytes of weights below which a model on a CPU decodes with one thread, unless the run file sets the number.

The matrix products of a step take less time than waking a second thread: a step of 135 M parameters in bfloat16 takes
18 ms with one thread and 28 ms with two; at 1 GB of weights both are equal. `pass_threads` is about longer passes."""


def open_codec(folder: Path) -> Codec:
    """The codec of a model folder, with every end-of-text token its configuration names.

    Raises `ModelError` where there is no tokenizer that can be used.
    """
    text = load_config(folder).get_text_config()
    try:
        return Codec(load_tokenizer(folder), _end_ids(folder), getattr(text, "vocab_size", None))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None


def open_model(folder: Path, config: ModelConfig, codec: Codec, top_k: int, name: str) -> LocalModel:
    """A model folder, loaded and ready for sessions."""
    model = load_for_decoding(folder, config)
    return LocalModel(model, codec.end_ids, codec.weight_id, top_k, name, *bounds_of(model, config, codec))


def load_for_decoding(folder: Path, config: ModelConfig) -> PreTrainedModel:
    """Load a model on the devices that `config` names, with linear maps laid out for them; for inference only."""
    model = load_placed(folder, config)
    speed_up_linear_maps(model)
    return model


class Bounds(NamedTuple):
    """The last arguments of `LocalModel`. threads: of a pass. context: tokens of a session. cache_limit: bytes of keys
    and values.
    """

    threads: PassThreads
    context: int
    cache_limit: int


def bounds_of(model: PreTrainedModel, config: ModelConfig, codec: Codec) -> Bounds:
    """What a loaded model may use, by its run file's entry and by what is free; raises as `context_length`."""
    context = context_length(model.config, config.context, codec.tokenizer.model_max_length)
    return Bounds(decoding_threads(model, config), context, cache_limit(model, config))


def decoding_threads(model: PreTrainedModel, config: ModelConfig) -> PassThreads:
    """Number of threads with which `model` decodes: the run file's, or those that suit its size."""
    small = model.device.type == "cpu" and model.get_memory_footprint() < SMALL
    wide = config.threads or torch.get_num_threads()
    return PassThreads(config.threads or (1 if small else wide), wide)


def load_placed(folder: Path, config: ModelConfig) -> PreTrainedModel:
    """Load a model on the devices that `config` names, as transformers loads it."""
    use_threads(config.threads)
    device_map = "auto" if config.num_gpus > 1 else None
    device = device_for(config.num_gpus)
    dtype: str = config.dtype
    if dtype == "auto" and isinstance(config, PluginConfig) and has_bfloat16(torch.device(device)):
        dtype = "bfloat16"
    return load_model(folder, dtype=dtype, device=device, device_map=device_map)


def use_threads(threads: int = 0) -> None:
    """Let torch use `threads` threads, 0 for every core, and let glibc keep freed memory.

    Ray starts workers with one OpenMP thread. By default glibc returns large buffers to the kernel after every step and
    gets new pages in the next one, which took half of a training step on 2 cores.
    """
    torch.set_num_threads(threads or os.cpu_count() or 1)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8  # glibc's malloc.h
            for parameter, value in ((trim_threshold, 2**31 - 1), (top_pad, 2**28), (mmap_max, 0), (arena_max, 1)):
                libc.mallopt(parameter, value)


def _end_ids(folder: Path) -> tuple[int, ...]:
    """The ends that the generation config names; where it is missing or names none, those of the model's config."""
    ids = None
    if (folder / "generation_config.json").is_file():
        ids = GenerationConfig.from_pretrained(folder).eos_token_id
    if ids is None:
        config = load_config(folder)
        ids = getattr(config, "eos_token_id", None)
        if ids is None:
            ids = getattr(config.get_text_config(), "eos_token_id", None)
    if ids is None:
        return ()
    return tuple(map(int, ids)) if isinstance(ids, list | tuple) else (int(ids),)
