"""Where an alignment is computed, and how much of it at once.

Knows the size of the problem and what this process can see of the machine, nothing about what is computed.

V  vocabulary   A  anchors   D  embedding   E  input embeddings
"""

from __future__ import annotations

import torch
from torch import Tensor

# Entries of V x A that are held at once, by all workers together. On a CPU they should stay near its caches (64 MiB in
# bfloat16); a GPU wants fewer and larger steps.
_BLOCK_ENTRIES = {"cpu": 1 << 25, "cuda": 1 << 27}
# With fewer rows a product waits for the anchors' embeddings to come from memory.
_FEWEST_ROWS = 128
# Floats gathered at once to score pairs: few enough for one core's cache; on a GPU enough to be worth a launch.
_GATHERED = {"cpu": 1 << 20, "cuda": 1 << 26}
# Bytes of GPU memory for each of them and for each number of the anchors' embeddings, copies and indices included.
_BYTES_OF_ENTRY = 12
_BYTES_OF_ANCHOR = 24


def fastest_device(E_VD: Tensor, anchors: int) -> torch.device:
    """The embeddings' own GPU; else a GPU that this process may use and that has the memory free; else the CPU."""
    if E_VD.device.type != "cpu" or not torch.cuda.is_available():
        return E_VD.device
    free, _ = torch.cuda.mem_get_info()
    needed = _BYTES_OF_ENTRY * _BLOCK_ENTRIES["cuda"] + _BYTES_OF_ANCHOR * anchors * E_VD.shape[1]
    return torch.device("cuda", torch.cuda.current_device()) if free > needed else E_VD.device


def block_rows(device: torch.device, anchors: int, workers: int) -> int:
    """How many rows of the matrix each of `workers` should hold at once."""
    entries = _BLOCK_ENTRIES.get(device.type, _BLOCK_ENTRIES["cpu"])
    return max(_FEWEST_ROWS, entries // anchors // workers)


def gathered_at_once(device: torch.device) -> int:
    """How many floats to gather at once."""
    return _GATHERED.get(device.type, _GATHERED["cpu"])
