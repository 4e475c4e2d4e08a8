"""Draws: by hand where the distribution is small, by frequency where it is not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from onceedit_ray.models.sampling import Sampling, draw, draw_from_logits

IDS = np.array([7, 3, 5, 9])
P = np.array([0.4, 0.3, 0.2, 0.1])


def shares(sampling: Sampling, draws: int = 4000) -> dict[int, float]:
    counts = Counter(draw(IDS, P, sampling, position) for position in range(draws))
    return {token: count / draws for token, count in counts.items()}


def test_frequencies_are_the_probabilities() -> None:
    found = shares(Sampling(1.0, seed=1))
    assert found == pytest.approx({7: 0.4, 3: 0.3, 5: 0.2, 9: 0.1}, abs=0.03)


def test_temperature_is_a_power() -> None:
    """At temperature 0.5 probabilities are squared: 16, 9, 4, 1 of 30."""
    found = shares(Sampling(0.5, seed=2))
    assert found == pytest.approx({7: 16 / 30, 3: 9 / 30, 5: 4 / 30, 9: 1 / 30}, abs=0.03)


def test_top_p_keeps_the_tokens_that_reach_it() -> None:
    """0.4 + 0.3 reaches 0.6: two tokens, 4 to 3."""
    assert shares(Sampling(1.0, 0.6, seed=3)) == pytest.approx({7: 4 / 7, 3: 3 / 7}, abs=0.03)
    assert set(shares(Sampling(1.0, 0.4, seed=3), 200)) == {7}
    assert set(shares(Sampling(1.0, 0.01, seed=3), 200)) == {7}


def test_masses_need_not_sum_to_one() -> None:
    sampling = Sampling(0.9, 0.8, seed=4)
    assert [draw(IDS, P * 0.3, sampling, n) for n in range(200)] == [draw(IDS, P, sampling, n) for n in range(200)]


def test_what_has_no_mass_is_never_drawn() -> None:
    assert {draw(IDS, np.array([0.5, 0.0, 0.5, 0.0]), Sampling(5.0, seed=5), n) for n in range(300)} == {7, 5}


def test_a_draw_hangs_on_seed_and_position_alone() -> None:
    first = [draw(IDS, P, Sampling(1.0, seed=6), n) for n in range(50)]
    assert first == [draw(IDS[::-1], P[::-1], Sampling(1.0, seed=6), n) for n in range(50)]
    assert first != [draw(IDS, P, Sampling(1.0, seed=7), n) for n in range(50)]


@pytest.mark.parametrize("top_p", [1.0, 0.75, 0.3])
def test_over_a_vocabulary(top_p: float) -> None:
    logits = torch.full((3000,), -30.0)
    logits[[70, 30, 50, 90]] = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    sampling = Sampling(1.0, top_p, seed=8)
    counts = Counter(draw_from_logits(logits, sampling, n) for n in range(3000))
    kept = {1.0: [4, 3, 2, 1], 0.75: [4, 3, 2], 0.3: [4]}[top_p]
    expected = {token: share / sum(kept) for token, share in zip([70, 30, 50, 90], kept, strict=False)}
    assert {token: count / 3000 for token, count in counts.items()} == pytest.approx(expected, abs=0.03)


def test_a_flat_distribution_is_sorted_whole_for_top_p() -> None:
    drawn = {draw_from_logits(torch.zeros(5000), Sampling(1.0, 0.9, seed=9), n) for n in range(300)}
    assert max(drawn) > 1024
