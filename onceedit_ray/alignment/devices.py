"""Chooses the device on which an alignment is computed, and the block size.

Knows the size of the problem and the hardware that this process sees, but not what is computed.

V  vocabulary   A  anchors   D  embedding   E  input embeddings
"""

from __future__ import annotations

import torch
from torch import Tensor

# Entries of V x A that all workers together hold at once. On a CPU they should fit roughly into its caches (64 MiB in
# bfloat16); a GPU is faster with fewer and larger steps.
_BLOCK_ENTRIES = {"cpu": 1 << 25, "cuda": 1 << 27}
# With fewer rows the matrix product is limited by reading the anchors' embeddings from memory.
_FEWEST_ROWS = 128
# Floats gathered at once to score pairs: on a CPU few enough for one core's cache; on a GPU enough to make up for the
# launch of a kernel.
_GATHERED = {"cpu": 1 << 20, "cuda": 1 << 26}
# Bytes of GPU memory for each of them and for each number of the anchors' embeddings, copies and indices included.
_BYTES_OF_ENTRY = 12
_BYTES_OF_ANCHOR = 24


def fastest_device(E_VD: Tensor, anchors: int) -> torch.device:
    """The embeddings' own GPU; else a GPU that this process may use and that has enough free memory; else the CPU."""
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
