"""EVA's learnt map: CSLS by hand, its three thresholds, and a rotation between two vocabularies that must be found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from onceedit_ray.alignment import Side, build_alignment
from onceedit_ray.alignment import token_map as module
from onceedit_ray.alignment.token_map import FEW, KEEP, learn_token_map, shared_space, truncated


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_scores_are_csls_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    X = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    Z = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    monkeypatch.setattr(module, "shared_space", lambda *_: (X, Z))
    found = learn_token_map(X, Z, torch.tensor([0]), torch.tensor([0]))
    # Cosines: [1, 0.6, -1], [0.8, 0.96, -0.8]; each column's largest: 1, 0.96, -0.8, taken as 0.
    dense = torch.zeros(2, 3).scatter_(1, found.columns_SK.long(), found.score_SK)
    expected = torch.tensor([[1.0, 2 * 0.6 - 0.96, 0.0], [2 * 0.8 - 1.0, 0.96, 0.0]])
    torch.testing.assert_close(dense, expected, rtol=1e-5, atol=1e-5)
    assert found.columns_SK[0].tolist() == [0, 1, 2]  # the largest first


def test_rows_are_cut_by_threshold_and_by_spread() -> None:
    columns = torch.arange(7).expand(4, 7)
    even = torch.linspace(0.30, 0.31, 7)
    scores = torch.stack(
        [
            torch.tensor([0.9, 0.5, 0.1, 0.0999, 0.05, 0.0, -0.3]),
            even,  # near everything: dropped
            torch.cat([even[:FEW], torch.tensor([0.05, 0.05])]),  # as still, but few
            torch.tensor([0.9, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]),
        ]
    )
    kept = truncated(columns, scores).score_SK
    assert kept[0].tolist() == pytest.approx([0.9, 0.5, 0.1, 0, 0, 0, 0])
    assert kept[1].tolist() == [0.0] * 7
    assert kept[2].tolist() == pytest.approx([*even[:FEW].tolist(), 0, 0])
    assert torch.equal(kept[3], scores[3])


@pytest.mark.parametrize("widths", [(12, 12), (12, 20), (20, 12)])
def test_a_vocabulary_turned_into_another_space_is_found_again(widths: tuple[int, int]) -> None:
    """Half of the tokens are shared, and teach the map; the others must find their partners by it."""
    narrow = min(widths)
    meaning = random(300, narrow)
    turns = [torch.linalg.qr(random(width, width, seed=width + 1))[0][:narrow] for width in widths]
    X, Z = meaning @ turns[0], (meaning @ turns[1])[torch.arange(299, -1, -1)]
    shared = torch.arange(0, 300, 2)
    found = learn_token_map(X, Z, shared, 299 - shared)
    assert found.columns_SK.shape == (300, KEEP)
    best = found.columns_SK[:, 0]
    assert (best[1::2] == 299 - torch.arange(1, 300, 2)).float().mean() > 0.95
    space_X, space_Z = shared_space(X, Z, shared, 299 - shared)
    assert space_X.shape[1] == space_Z.shape[1] == narrow


def test_a_pair_maps_words_that_are_not_shared_and_ends_to_ends() -> None:
    E = random(61, 8)
    plugin_vocab = {f"Ġw{i}": i for i in range(60)} | {"<|endoftext|>": 60}
    # The target spells the last ten words differently; its embeddings are the plug-in's, turned, in another order.
    target_vocab = {"<eos>": 0} | {f"▁{'w' if i < 50 else 'x'}{i}": i + 1 for i in range(60)}
    turned = torch.cat([E[60:], E[:60]]) @ torch.linalg.qr(random(8, 8, seed=3))[0]
    asked: list[str] = []

    def embeddings(name: str, E_VD: Tensor) -> Tensor:
        asked.append(name)
        return E_VD

    def pair() -> Tensor:
        alignment = build_alignment(
            Side("small", plugin_vocab, 60, lambda: embeddings("small", E), "token-map-a"),
            Side("large", target_vocab, 0, lambda: embeddings("large", turned), "token-map-b"),
            parts={"token map"},
        )
        found = alignment.token_map
        return torch.where(found.score_SK[:, 0] > 0, found.columns_SK[:, 0], -1)

    first = pair()
    assert first[:60].tolist() == [i + 1 for i in range(60)]
    assert first[60] == 0
    assert torch.equal(pair(), first)
    assert asked == ["small", "large"]  # the second pair read the cache
