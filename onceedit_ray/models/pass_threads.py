"""How many of torch's threads a pass of a model uses."""

from __future__ import annotations

from typing import NamedTuple

import torch

WIDE = 64
"""Number of tokens from which on a pass is wide. On 2 cores a pass of 280 tokens through 135 M parameters takes 0.6 to
0.75 of the time with two threads, one of 16 to 24 tokens as long as with one thread, and one of a single token longer.
"""


class PassThreads(NamedTuple):
    """Number of threads of a pass. narrow: of one with fewer than `WIDE` tokens. wide: of the others."""

    narrow: int
    wide: int

    def set_for(self, tokens: int) -> None:
        """Give the calling thread the number for a pass of `tokens` tokens."""
        wanted = self.wide if tokens >= WIDE else self.narrow
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)
