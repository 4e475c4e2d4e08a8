"""A KV cache of slots: many sessions of different lengths in one buffer, so that one pass can serve all of them.

Each session has a slot, a row of every layer's buffer. A session is cut back by setting its length: positions beyond it
are never attended, and the next pass overwrites them. A single session is read as a view of its row, without a copy.

transformers sees an ordinary `Cache`; `SlotCache.select` sets the slots of a pass before it.

Shapes: S slots, B rows of a pass, H key-value heads, T positions, N tokens fed to each row, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

SMALLEST_LENGTH = 64


@dataclass
class _Pass:
    """One forward pass: its slots, the number of positions that each holds before it, and the new positions."""

    slots: list[int] = field(default_factory=lambda: [0])
    lengths: list[int] = field(default_factory=lambda: [0])
    slots_B: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))
    positions_BN: Tensor = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.long))
    end: int = 0


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [S, H, T, D] each. A sliding-window layer keeps all positions and masks them."""

    is_sliding = False
    is_croppable = True

    def __init__(self, current: _Pass) -> None:
        super().__init__()
        self._current = current

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys = key_states.new_zeros((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_zeros((0, value_states.shape[1], 0, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        now = self._current
        self.keys = _grown(self.keys, max(now.slots) + 1, now.end)
        self.values = _grown(self.values, max(now.slots) + 1, now.end)
        return _written(self.keys, key_states, now), _written(self.values, value_states, now)

    def copy_slot(self, source: int, to: int, length: int) -> None:
        """Make slot `to` hold the first `length` positions of `source`."""
        if self.is_initialized and length:
            for name in ("keys", "values"):
                buffer = _grown(getattr(self, name), to + 1, length)
                buffer[to, :, :length] = buffer[source, :, :length]
                setattr(self, name, buffer)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return max(self._current.lengths)

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The cache of one model for all of its sessions; `layers` is the model's number of layers."""

    def __init__(self, layers: int) -> None:
        self._current = _Pass()
        super().__init__(layers=[_SlotLayer(self._current) for _ in range(layers)])
        self._free: list[int] = []
        self._slots = 0

    def take(self) -> int:
        """The lowest free slot, so that the buffers have no more slots than the largest number of open sessions."""
        if self._free:
            self._free.sort(reverse=True)
            return self._free.pop()
        self._slots += 1
        return self._slots - 1

    def give_back(self, slot: int) -> None:
        """Free a slot."""
        self._free.append(slot)

    def copy(self, source: int, length: int) -> int:
        """A new slot that holds the first `length` positions of `source`."""
        to = self.take()
        for layer in self.layers:
            layer.copy_slot(source, to, length)
        return to

    def select(self, slots: Sequence[int], lengths: Sequence[int], tokens: int, device: torch.device) -> Tensor:
        """Set up the next pass: over `slots`, which hold `lengths` positions, with `tokens` fed to each. Returns the
        positions of the fed tokens, int64 [B, N].
        """
        now = self._current
        now.slots, now.lengths = list(slots), list(lengths)
        now.slots_B = torch.tensor(now.slots, device=device)
        now.positions_BN = torch.tensor(now.lengths, device=device)[:, None] + torch.arange(tokens, device=device)
        now.end = max(now.lengths) + tokens
        return now.positions_BN

    def nbytes(self) -> int:
        """Size of the buffers in bytes."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers if layer.is_initialized)


def _grown(buffer: Tensor, slots: int, length: int) -> Tensor:
    """`buffer` with room for `slots` and `length` at least; grows by doubling."""
    if slots <= buffer.shape[0] and length <= buffer.shape[2]:
        return buffer
    room = (
        max(slots, 2 * buffer.shape[0] if slots > buffer.shape[0] else buffer.shape[0]),
        buffer.shape[1],
        max(length, SMALLEST_LENGTH, 2 * buffer.shape[2] if length > buffer.shape[2] else buffer.shape[2]),
        buffer.shape[3],
    )
    larger = buffer.new_zeros(room)
    larger[: buffer.shape[0], :, : buffer.shape[2]] = buffer
    return larger


def _written(buffer: Tensor, new_BHND: Tensor, now: _Pass) -> Tensor:
    """Write a pass's keys or values into their slots; returns what its rows attend to, [B, H, T, D]."""
    if len(now.slots) == 1:
        slot, start = now.slots[0], now.lengths[0]
        buffer[slot, :, start : now.end] = new_BHND[0]
        return buffer[slot : slot + 1, :, : now.end]
    slots_B = now.slots_B.to(buffer.device)
    buffer[slots_B[:, None], :, now.positions_BN.to(buffer.device)] = new_BHND.transpose(1, 2)
    return buffer[slots_B, :, : now.end]
