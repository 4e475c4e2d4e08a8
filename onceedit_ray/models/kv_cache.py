"""A KV cache of slots: many sessions of different lengths in one buffer, so that one pass can serve all of them.

Each session has a slot, and each slot a row of every layer's buffer. A session is cut back by setting its length:
positions beyond it are never attended, and the next pass overwrites them. A single session is read as a view of its
row, without a copy. All rows have the same length, so the buffers take (slots × longest session) positions: they double
while that is within `capacity`, and are packed anew where it is not.

transformers sees an ordinary `Cache`; `SlotCache.select` sets the slots of a pass before it.

Shapes: S slots, B rows of a pass, H key-value heads, T positions, N tokens fed to each row, D head width.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

SMALLEST_LENGTH = 64


@dataclass
class _Pass:
    """One forward pass: its rows, the number of positions that each holds before it, and the new positions."""

    rows: list[int] = field(default_factory=lambda: [0])
    lengths: list[int] = field(default_factory=lambda: [0])
    rows_B: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))
    positions_BN: Tensor = field(default_factory=lambda: torch.zeros(1, 1, dtype=torch.long))
    end: int = 0


@dataclass
class _Size:
    """The size of every layer's buffers: S rows of T positions."""

    rows: int = 0
    length: int = 0


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [S, H, T, D] each. A sliding-window layer keeps all positions and masks them."""

    is_sliding = False
    is_croppable = True

    def __init__(self, current: _Pass, size: _Size) -> None:
        super().__init__()
        self._current = current
        self._size = size

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        size = self._size
        self.keys = key_states.new_zeros((size.rows, key_states.shape[1], size.length, key_states.shape[3]))
        self.values = value_states.new_zeros((size.rows, value_states.shape[1], size.length, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return _written(self.keys, key_states, self._current), _written(self.values, value_states, self._current)

    def pack(self, rows: Sequence[int]) -> None:
        """Make buffers of the size that is set; their first rows are the rows `rows` of the buffers before."""
        if self.is_initialized:
            self.keys, self.values = (_packed(each, rows, self._size) for each in (self.keys, self.values))

    def copy_row(self, source: int, to: int, length: int) -> None:
        """Make row `to` hold the first `length` positions of `source`."""
        if self.is_initialized and length:
            for buffer in (self.keys, self.values):
                buffer[to, :, :length] = buffer[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return max(self._current.lengths)

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """The cache of one model for all of its sessions; `layers` is the model's number of layers.

    capacity: positions that all rows together may take; a caller that needs more has freed slots before.
    """

    def __init__(self, layers: int) -> None:
        self._current = _Pass()
        self._size = _Size()
        super().__init__(layers=[_SlotLayer(self._current, self._size) for _ in range(layers)])
        self.capacity = sys.maxsize
        self._rows: dict[int, int] = {}  # of each slot that is taken

    def clear(self) -> None:
        """Drop the buffers; no slot is taken."""
        self._size.rows = self._size.length = 0
        for layer in self.layers:
            layer.keys = layer.values = None
            layer.is_initialized = False

    def take(self) -> int:
        """The lowest free slot, so that the buffers have no more rows than the largest number of open sessions."""
        slot = _lowest_free(self._rows)
        self._rows[slot] = _lowest_free(self._rows.values())
        return slot

    def give_back(self, slot: int) -> None:
        """Free a slot."""
        del self._rows[slot]

    def copy(self, source: int, length: int) -> int:
        """A new slot that holds the first `length` positions of `source`."""
        to = self.take()
        self.fit({to: length})
        for layer in self.layers:
            layer.copy_row(self._rows[source], self._rows[to], length)
        return to

    def holds(self, slot: int, length: int) -> bool:
        """Whether the slot has room for `length` positions as the buffers are."""
        return self._rows[slot] < self._size.rows and length <= self._size.length

    def fit(self, lengths: Mapping[int, int]) -> None:
        """Make room for the positions that slots need; other slots keep their room."""
        size, slots = self._size, len(self._rows)
        if all(self.holds(slot, length) for slot, length in lengths.items()):
            return
        kept = size.length if self._rows.keys() - lengths.keys() else 0
        length = max(*lengths.values(), kept, 1)
        row = max(self._rows.values()) + 1
        for rows, wide in (
            (_doubled(size.rows, row), max(_doubled(size.length, length), SMALLEST_LENGTH)),
            (max(size.rows, row), max(size.length, length)),
            (slots, max(size.length, length)),
            (slots, length),
        ):
            if rows * wide <= self.capacity:
                break
        size.rows, size.length = rows, wide
        taken = sorted(self._rows, key=self._rows.__getitem__)
        for layer in self.layers:
            layer.pack([self._rows[slot] for slot in taken])
        self._rows = {slot: row for row, slot in enumerate(taken)}

    def may_add(self) -> bool:
        """Whether one more row is within the capacity."""
        rows = len(self._rows) + 1
        return rows <= self._size.rows or rows * self._size.length <= self.capacity

    def may_reach(self, end: int) -> bool:
        """Whether rows of `end` positions are within the capacity."""
        return end <= self._size.length or len(self._rows) * end <= self.capacity

    def select(self, slots: Sequence[int], lengths: Sequence[int], tokens: int, device: torch.device) -> Tensor:
        """Set up the next pass: over `slots`, which hold `lengths` positions, with `tokens` fed to each. Returns the
        positions of the fed tokens, int64 [B, N].
        """
        now = self._current
        now.end = max(lengths) + tokens
        self.fit(dict.fromkeys(slots, now.end))
        now.rows, now.lengths = [self._rows[slot] for slot in slots], list(lengths)
        now.rows_B = torch.tensor(now.rows, device=device)
        now.positions_BN = torch.tensor(now.lengths, device=device)[:, None] + torch.arange(tokens, device=device)
        return now.positions_BN

    def nbytes(self) -> int:
        """Size of the buffers in bytes."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.layers if layer.is_initialized)

    def token_bytes(self) -> int:
        """Bytes of one position, in all layers; 0 before the first pass."""
        return self.nbytes() // max(self._size.rows * self._size.length, 1)


def _lowest_free(taken: Collection[int]) -> int:
    return next(number for number in itertools.count() if number not in taken)


def _doubled(now: int, needed: int) -> int:
    return now if needed <= now else max(needed, 2 * now)


def _packed(buffer: Tensor, rows: Sequence[int], size: _Size) -> Tensor:
    packed = buffer.new_zeros((size.rows, buffer.shape[1], size.length, buffer.shape[3]))
    kept = min(buffer.shape[2], size.length)
    for to, row in enumerate(rows):
        if row < buffer.shape[0]:
            packed[to, :, :kept] = buffer[row, :, :kept]
    return packed


def _written(buffer: Tensor, new_BHND: Tensor, now: _Pass) -> Tensor:
    """Write a pass's keys or values into their rows; returns what its rows attend to, [B, H, T, D]."""
    if len(now.rows) == 1:
        row, start = now.rows[0], now.lengths[0]
        buffer[row, :, start : now.end] = new_BHND[0]
        return buffer[row : row + 1, :, : now.end]
    rows_B = now.rows_B.to(buffer.device)
    buffer[rows_B[:, None], :, now.positions_BN.to(buffer.device)] = new_BHND.transpose(1, 2)
    return buffer[rows_B, :, : now.end]
