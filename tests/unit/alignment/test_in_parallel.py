"""Pieces of work on a CPU's cores."""

from __future__ import annotations

import threading

import pytest
import torch

from onceedit_ray.alignment.in_parallel import cores, in_parallel


@pytest.mark.parametrize("workers", [1, 3])
def test_every_piece_is_done_once(workers: int) -> None:
    squares = torch.zeros(20)

    def square(piece: int) -> None:
        assert torch.is_inference_mode_enabled()
        squares[piece] = piece * piece

    assert sorted(in_parallel(square, range(20), workers)) == list(range(20))
    assert torch.equal(squares, torch.arange(20.0) ** 2)
    assert list(in_parallel(square, [], workers)) == []


def test_a_worker_has_one_core_and_leaves_the_process_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    inside: list[int] = []
    later: list[int] = []
    try:
        list(in_parallel(lambda _: inside.append(torch.get_num_threads()), range(8), 2))
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert inside == [1] * 8
        assert (torch.get_num_threads(), later) == (2, [2])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_error_ends_it(workers: int) -> None:
    done: list[int] = []
    lock = threading.Lock()

    def work(piece: int) -> None:
        if piece == 2:
            raise MemoryError("piece 2")
        with lock:
            done.append(piece)
        threading.Event().wait(0.001)

    with pytest.raises(MemoryError, match="piece 2"):
        list(in_parallel(work, range(2000), workers))
    assert len(done) < 2000


def test_a_gpu_takes_one_piece_at_a_time() -> None:
    assert cores(torch.device("cuda")) == 1
    assert cores(torch.device("cpu")) == torch.get_num_threads()
