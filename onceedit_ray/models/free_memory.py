"""Computes how much memory a model's keys and values may take if the run file does not say so.

It is a share of the memory that is free once the weights have been loaded: memory of the machine, or of its container
if that has a limit, or of the GPUs that hold the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from onceedit_ray.config import ModelConfig

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

CPU_SHARE = 0.2
"""Of a machine's free memory, for each model on it: up to four models, and room for what else grows."""
GPU_SHARE = 0.8
"""Of a GPU's free memory, for the models on it together: each gets a part in proportion to the GPU share it reserves.
"""
CGROUP = Path("/sys/fs/cgroup")


def cache_limit(model: PreTrainedModel, config: ModelConfig) -> int:
    """Bytes of keys and values for all sessions of a loaded model: `kv_cache_bytes`, or a share of what is free."""
    if config.kv_cache_bytes is not None:
        return int(config.kv_cache_bytes)
    gpus = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    if gpus:
        free = sum(torch.cuda.mem_get_info(gpu)[0] for gpu in gpus)
        return int(GPU_SHARE * min(config.num_gpus or 1.0, 1.0) * free)
    return int(CPU_SHARE * free_memory())


def free_memory() -> int:
    """Bytes that this machine, or the container that this process is in, has free or can free at once."""
    free = int(psutil.virtual_memory().available)
    try:
        most = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    return free if most == "max" else min(free, max(int(most) - used + int(stat.get("inactive_file", 0)), 0))
