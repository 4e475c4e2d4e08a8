"""Runs pieces of work on all CPU cores, one piece on each core.

By default torch splits every operation between the cores. Its threads then wait for each other hundreds of times in a
block, spinning. If other processes compete for the cores, this takes two to four times as long; on an idle machine it
makes no difference. This module does not know what a piece is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Barrier
from typing import TypeVar

import torch

Piece = TypeVar("Piece")


def cores(device: torch.device) -> int:
    """How many pieces `device` works on at once: torch's threads on a CPU, one elsewhere."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def in_parallel(work: Callable[[Piece], None], pieces: Sequence[Piece], workers: int) -> Iterator[Piece]:
    """Does `work` on every piece, `workers` at a time, in inference mode; yields each piece when it is done.

    The first error ends it: pieces not begun are dropped, and the error is raised here.
    """
    workers = min(workers, len(pieces))

    def unrecorded(piece: Piece) -> Piece:
        with torch.inference_mode():
            work(piece)
        return piece

    if workers <= 1:
        for piece in pieces:
            yield unrecorded(piece)
        return
    threads, started = torch.get_num_threads(), Barrier(workers + 1)

    def take_one_core() -> None:
        torch.get_num_threads()  # initialise: otherwise the first operation resets the number
        torch.set_num_threads(1)
        started.wait()

    with ThreadPoolExecutor(workers, "alignment", take_one_core) as pool:
        try:
            done = [pool.submit(unrecorded, piece) for piece in pieces]
            started.wait()
        except BaseException:
            started.abort()  # otherwise workers that wait at the barrier would wait for ever
            raise
        torch.set_num_threads(threads)  # restore: a worker's number has become the default of new threads
        try:
            for future in as_completed(done):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
