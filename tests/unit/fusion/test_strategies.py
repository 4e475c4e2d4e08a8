"""`draft` and `calibrated` on a world small enough to fuse by hand.

Plug-in tokens: 0 "Mich", 1 "el", 2 " a", 3 "b", 4 end.
Target tokens: 0 " a", 1 "b", 2 "Michel", 3 "c", 4 end, 5 "el".
Anchors: 0 " a" (plug-in 2, target 0), 1 "b" (3, 1), 2 end (4, 4). "Michel", "c" and "el" are private to the target.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_ray.alignment import SparseRows
from onceedit_ray.fusion.retokenise import DraftPosition, Proposal
from onceedit_ray.fusion.strategies import STRATEGIES

MICHEL, C, END = 2, 3, 4
# R_s: "Mich" lies between both anchors, "el" near the second, the others on their own.
PLUGIN_ROWS = [[0.75, 0.25, 0.0], [0.1, 0.9, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
# R_l: "Michel" lies near " a", "c" near "b"; the anchors keep most of their own mass.
TARGET_ROWS = [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.3, 0.0], [0.3, 0.7, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]
SPELLINGS = {b" a": 0, b"b": 1, b"Michel": 2, b"c": 3, b"el": 5}


def sparse(rows: list[list[float]]) -> SparseRows:
    mass_VK, columns_VK = torch.tensor(rows).sort(dim=1, descending=True)
    return SparseRows(columns_VK.int(), mass_VK, anchors=3, multiplier=1.0)


def encode_bytes(data: bytes) -> tuple[int, ...]:
    """The target's tokenizer: the longest token that fits comes first."""
    spelling = max((s for s in SPELLINGS if data.startswith(s)), key=len)
    rest = data[len(spelling) :]
    return (SPELLINGS[spelling], *(encode_bytes(rest) if rest else ()))


def strategy(name: str) -> Any:
    alignment = SimpleNamespace(
        anchors=SimpleNamespace(target_ids_A=torch.tensor([0, 1, END])),
        plugin_rows=sparse(PLUGIN_ROWS),
        target_rows=sparse(TARGET_ROWS),
        target_winners_A=torch.tensor([0, 1, END]),
    )
    pair: Any = SimpleNamespace(
        plugin=None, target=SimpleNamespace(first_token=lambda suffix: encode_bytes(suffix)[0]), alignment=alignment
    )
    return STRATEGIES.get(name)(pair)


def distribution(p: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and probabilities, most likely first."""
    ordered = sorted(p, key=lambda token: -p[token])
    return np.array(ordered, np.int32), np.array([p[token] for token in ordered], np.float32)


def reading(
    p: dict[int, float], proposal: Proposal | None = None, suffixes: tuple[bytes, ...] | None = None
) -> DraftPosition:
    return DraftPosition(*distribution(p), suffixes=suffixes, proposal=proposal)


def draft(said: DraftPosition, target: dict[int, float], weight: float) -> int:
    return strategy("draft").fuse(said, *distribution(target), weight).likeliest


class TestDraft:
    CERTAIN = reading({0: 1.0}, Proposal(MICHEL, 1.0, {0: 1.0}))

    def test_a_certain_plugin_at_full_weight_brings_a_private_token(self) -> None:
        assert draft(self.CERTAIN, {C: 0.99, 0: 0.01}, weight=1.0) == MICHEL

    def test_a_certain_target_at_small_weight_keeps_its_private_token(self) -> None:
        assert draft(self.CERTAIN, {C: 0.99, 0: 0.01}, weight=0.2) == C

    @pytest.mark.parametrize(("weight", "expected"), [(0.50, C), (0.53, C), (0.55, MICHEL), (0.9, MICHEL)])
    def test_the_sides_are_weighed(self, weight: float, expected: int) -> None:
        """r̄ at "Michel" is 0.6·w, at "c" 0.7·(1-w): they meet at w = 0.538. What is left at an anchor is less."""
        said = reading({0: 0.6, 4: 0.4}, Proposal(MICHEL, 0.6, {0: 0.6}))
        assert draft(said, {C: 0.7, 0: 0.2, 1: 0.1}, weight) == expected

    def test_both_sides_add_up_at_one_token(self) -> None:
        """ "Michel": 0.5·0.45 + 0.5·0.4 = 0.425; "c": 0.5·0.6 = 0.3; end: 0.5·0.55 = 0.275."""
        said = reading({0: 0.45, 4: 0.55}, Proposal(MICHEL, 0.45, {0: 0.45}))
        assert draft(said, {C: 0.6, MICHEL: 0.4}, weight=0.5) == MICHEL

    def test_the_rest_goes_through_the_plugins_rows_to_an_anchor(self) -> None:
        """Covered: 0.3. The rest: "el" 0.4 and "b" 0.2 give anchor "b" 0.4·0.9 + 0.2 = 0.56, " a" 0.04 + 0.1."""
        said = reading({0: 0.3, 1: 0.4, 3: 0.2, 2: 0.1}, Proposal(MICHEL, 0.3, {0: 0.3}))
        assert draft(said, {C: 1.0}, weight=0.9) == 1  # 0.504 against 0.27 and 0.1
        assert draft(said, {C: 1.0}, weight=0.6) == C  # 0.336 against 0.4

    def test_what_the_proposal_covers_does_not_go_through_the_rows_again(self) -> None:
        """Were "Mich" spread as well, anchor " a" would have 0.6·0.75 + 0.25 = 0.7 and win; it has 0.25 alone."""
        said = reading({0: 0.6, 2: 0.25, 4: 0.15}, Proposal(MICHEL, 0.6, {0: 0.6}))
        assert draft(said, {C: 1.0}, weight=1.0) == MICHEL

    def test_what_a_longer_path_does_not_reach_stays_with_the_first_token(self) -> None:
        """ "Mich" has 0.8, of which 0.3 goes on to "el": the other 0.5 is spread, and " a" gets 0.375 + 0.2."""
        said = reading({0: 0.8, 2: 0.2}, Proposal(MICHEL, 0.3, {0: 0.3}))
        assert draft(said, {C: 1.0}, weight=1.0) == 0

    def test_inside_a_token_the_rest_goes_where_its_text_goes(self) -> None:
        """The suffixes "b" and "el" begin with other tokens than the rows of "Mich" and " a" would give."""
        proposal = Proposal(C, 0.2, {3: 0.2})
        said = reading({0: 0.5, 2: 0.3, 3: 0.2}, proposal, suffixes=(b"b", b"elb", b"c"))
        assert draft(said, {0: 1.0}, weight=0.9) == 1  # 0.45 against 0.27, 0.18 and 0.1
        assert draft(said, {0: 1.0}, weight=0.1) == 0
        said = reading({2: 0.5, 0: 0.3, 3: 0.2}, proposal, suffixes=(b"elb", b"b", b"c"))
        assert draft(said, {0: 1.0}, weight=0.9) == 5  # the first token of "elb"

    def test_a_suffix_that_the_proposal_covers_is_not_counted_twice(self) -> None:
        """ "b" holds the proposal's 0.4 once; counted twice it would beat "el" with its 0.6."""
        said = reading({1: 0.6, 3: 0.4}, Proposal(1, 0.4, {3: 0.4}), suffixes=(b"el", b"b"))
        assert draft(said, {0: 1.0}, weight=1.0) == 5

    def test_the_end_of_the_draft_ends_the_answer(self) -> None:
        said = reading({END: 0.7, 2: 0.3}, Proposal(END, 0.7, {END: 0.7}))
        assert draft(said, {C: 1.0}, weight=0.8) == END  # 0.56 against 0.24 and 0.2
        assert draft(said, {C: 1.0}, weight=0.5) == C

    def test_an_end_that_is_not_drafted_goes_through_its_anchor(self) -> None:
        said = reading({0: 0.4, END: 0.6}, Proposal(MICHEL, 0.4, {0: 0.4}))
        assert draft(said, {C: 1.0}, weight=1.0) == END

    def test_the_lowest_token_wins_a_tie(self) -> None:
        said = reading({0: 0.5, 4: 0.5}, Proposal(MICHEL, 0.5, {0: 0.5}))
        assert draft(said, {C: 0.5, MICHEL: 0.0}, weight=0.5) == MICHEL
        assert draft(reading({0: 1.0}, Proposal(C, 1.0, {0: 1.0})), {C: 0.0, 0: 1.0}, weight=0.5) == 0

    def test_needs_a_proposal(self) -> None:
        with pytest.raises(ValueError, match="proposal"):
            draft(reading({0: 1.0}), {C: 1.0}, weight=0.5)

    @settings(max_examples=100)
    @given(
        plugin=st.lists(st.floats(0.01, 1), min_size=5, max_size=5),
        target=st.lists(st.floats(0.01, 1), min_size=6, max_size=6, unique=True),
        token=st.integers(0, 5),
    )
    def test_without_weight_the_choice_is_the_targets(
        self, plugin: list[float], target: list[float], token: int
    ) -> None:
        p_plugin = {i: p / sum(plugin) for i, p in enumerate(plugin)}
        p_target = {i: p / sum(target) for i, p in enumerate(target)}
        said = reading(p_plugin, Proposal(token, p_plugin[0], {0: p_plugin[0]}))
        assert draft(said, p_target, weight=0.0) == max(p_target, key=lambda i: np.float32(p_target[i]))


class TestCalibrated:
    def choose(self, plugin: dict[int, float], target: dict[int, float], weight: float) -> int:
        return strategy("calibrated").fuse(reading(plugin), *distribution(target), weight).likeliest

    def test_a_certain_plugin_at_full_weight(self) -> None:
        assert self.choose({3: 1.0}, {0: 1.0}, weight=1.0) == 1
        assert self.choose({END: 1.0}, {0: 1.0}, weight=1.0) == END

    def test_a_certain_target_at_small_weight(self) -> None:
        assert self.choose({3: 1.0}, {0: 1.0}, weight=0.1) == 0

    @pytest.mark.parametrize(("weight", "expected"), [(0.40, 0), (0.44, 0), (0.45, 1), (0.60, 1)])
    def test_mass_meets_at_the_anchors(self, weight: float, expected: int) -> None:
        """r̄ at " a" is 0.9·(1-w), at "b" w + 0.1·(1-w): they meet at w = 0.8 / 1.8 = 0.444…"""
        assert self.choose({3: 1.0}, {0: 1.0}, weight) == expected

    def test_a_token_without_an_anchor_speaks_through_its_neighbours(self) -> None:
        """ "Mich" 0.6 gives " a" 0.45 and "b" 0.15; "el" 0.4 gives 0.04 and 0.36: 0.49 against 0.51."""
        assert self.choose({0: 0.6, 1: 0.4}, {END: 1.0}, weight=0.9) == 1
        assert self.choose({0: 0.7, 1: 0.3}, {END: 1.0}, weight=0.9) == 0

    def test_a_targets_private_token_is_lost(self) -> None:
        """Why the target speaks alone below the threshold (algorithm.md §3.6), and why `draft` keeps coordinates."""
        assert self.choose({0: 1.0}, {C: 1.0}, weight=0.0) == 1
        assert self.choose({0: 1.0}, {MICHEL: 1.0}, weight=0.0) == 0

    def test_answers_with_the_column_winner(self) -> None:
        made = strategy("calibrated")
        made._winner_A = torch.tensor([3, 5, 1])
        assert made.fuse(reading({3: 1.0}), *distribution({0: 1.0}), 1.0).likeliest == 5


class TestLiteral:
    """The same r̄ of eq. 8 for the paper's strategies; their searches are in test_search.py."""

    @pytest.mark.parametrize("name", ["deepen", "deepen+dw", "onceedit"])
    def test_fused_is_the_weighted_sum(self, name: str) -> None:
        matrices = [SimpleNamespace(rows=torch.tensor(rows).__getitem__) for rows in (PLUGIN_ROWS, TARGET_ROWS)]
        alignment = SimpleNamespace(
            plugin_literal=matrices[0], target_literal=matrices[1], literal_winners_A=torch.tensor([0, 1, 4])
        )
        pair: Any = SimpleNamespace(alignment=alignment)
        fused: Any = STRATEGIES.get(name)(pair)
        r_A = fused.relative(reading({0: 0.8, 3: 0.2}), *distribution({0: 0.5, END: 0.5}), 0.75)
        # 0.75·(0.8·[.75 .25 0] + 0.2·[0 1 0]) + 0.25·(0.5·[.9 .1 0] + 0.5·[0 0 1])
        assert r_A.tolist() == pytest.approx([0.45 + 0.1125, 0.15 + 0.15 + 0.0125, 0.125])


def test_what_each_strategy_declares() -> None:
    declared = {name: STRATEGIES.get(name) for name in STRATEGIES.names()}
    assert sorted(declared) == [
        "calibrated",
        "deck",
        "deepen",
        "deepen+dw",
        "draft",
        "eva",
        "gac",
        "in_context",
        "onceedit",
        "retrieval",
        "selective",
        "unite",
    ]
    drafts = [name for name, made in declared.items() if getattr(made, "drafts", None)]
    fixed = {name: getattr(made, "fixed_weight", None) for name, made in declared.items()}
    assert drafts == ["draft", "selective"]
    assert {name: weight for name, weight in fixed.items() if weight is not None} == {"deepen": 0.5}
    assert [name for name, made in declared.items() if made.gated] == ["calibrated", "draft", "selective"]
    assert [name for name, made in declared.items() if made.selective] == ["selective"]
