"""`gac`, `unite` and `eva` on a world small enough to fuse by hand.

Plug-in tokens: 0 "Mich", 1 "el", 2 " a", 3 "b", 4 end, 5 a mark without text, 6 another end.
Target tokens: 0 " a", 1 "b", 2 "Michel", 3 "c", 4 end, 5 "el", 6 "Mi", 7 "ch".
Shared: "el" (plug-in 1, target 5), " a" (2, 0), "b" (3, 1), end (4, 4). "Mich" is private to the plug-in: the target
cuts it into "Mi" and "ch". "Michel", "c", "Mi" and "ch" are private to the target; the plug-in cuts "Michel" in two:
"Mich", "el"; it cannot write the others.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from onceedit_ray.errors import ModelError
from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.strategies import STRATEGIES, Fused
from onceedit_ray.fusion.strategies.eva import FAITHFUL
from onceedit_ray.fusion.strategies.unite import TOP
from onceedit_ray.fusion.token_translation import TokenTranslation

PLUGIN = {0: b"Mich", 1: b"el", 2: b" a", 3: b"b"}
TARGET = {0: b" a", 1: b"b", 2: b"Michel", 3: b"c", 5: b"el", 6: b"Mi", 7: b"ch"}
A, B, MICHEL, C, END, EL, MI = 0, 1, 2, 3, 4, 5, 6


def codec(surfaces: dict[int, bytes], ends: tuple[int, ...]) -> Any:
    by_text = {text: token for token, text in surfaces.items()}

    def encode_bytes(data: bytes) -> tuple[int, ...]:
        if not data:
            return ()
        fits = [text for text in by_text if data.startswith(text)]
        if not fits:
            raise ModelError("the vocabulary has no token for a byte")
        longest = max(fits, key=len)
        return (by_text[longest], *encode_bytes(data[len(longest) :]))

    return SimpleNamespace(
        surface=lambda token: surfaces.get(token, b""),
        encode_bytes=encode_bytes,
        end_ids=frozenset(ends),
        end_id=ends[0],
    )


def strategy(name: str, token_map: Any = None) -> Any:
    anchors = SimpleNamespace(plugin_ids_A=torch.tensor([1, 2, 3, 4]), target_ids_A=torch.tensor([EL, A, B, END]))
    alignment = SimpleNamespace(anchors=anchors, token_map=token_map)
    pair: Any = SimpleNamespace(plugin=codec(PLUGIN, (4, 6)), target=codec(TARGET, (4,)), alignment=alignment)
    return STRATEGIES.get(name)(pair)


def distribution(p: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    ordered = sorted(p, key=lambda token: -p[token])
    return np.array(ordered, np.int32), np.array([p[token] for token in ordered], np.float32)


def fused(made: Any, plugin: dict[int, float], target: dict[int, float], weight: float) -> dict[int, float]:
    outcome: Fused = made.fuse(DraftPosition(*distribution(plugin)), *distribution(target), weight)
    masses = dict(zip(outcome.ids_N.tolist(), outcome.p_N.tolist(), strict=True))
    assert len(masses) == len(outcome.ids_N)  # a token stands once
    assert outcome.likeliest in masses
    return masses


def approx(masses: dict[int, float]) -> Any:
    return pytest.approx(masses, rel=1e-5)


class TestWording:
    WORDS = TokenTranslation(codec(PLUGIN, (4, 6)), codec(TARGET, (4,)), torch.tensor([1, 2]), torch.tensor([EL, A]))

    @pytest.mark.parametrize(
        ("token", "same", "first"),
        [(1, EL, EL), (2, A, A), (3, None, B), (0, None, MI), (4, END, END), (6, END, END), (5, None, None)],
    )
    def test_a_token_in_the_others_words(self, token: int, same: int | None, first: int | None) -> None:
        assert (self.WORDS.same(token), self.WORDS.first(token)) == (same, first)

    def test_a_text_the_other_cannot_write_has_no_word(self) -> None:
        words = TokenTranslation(codec(TARGET, (4,)), codec(PLUGIN, (4, 6)), torch.tensor([A]), torch.tensor([2]))
        assert words.first(C) is None
        assert words.first(MICHEL) == 0
        assert words.same(MICHEL) is None


class TestGac:
    def test_masses_of_one_text_add_up_and_private_ones_stand_alone(self) -> None:
        masses = fused(strategy("gac"), {0: 0.5, 2: 0.3, 3: 0.2}, {A: 0.6, C: 0.4}, weight=0.25)
        # " a": 0.25·0.3 + 0.75·0.6; "b": 0.25·0.2; "c": 0.75·0.4; "Mich": 0.25·0.5, answered by "Mi".
        assert masses == approx({A: 0.525, B: 0.05, C: 0.3, MI: 0.125})

    def test_a_private_text_and_its_first_token_are_two_coordinates(self) -> None:
        masses = fused(strategy("gac"), {0: 1.0}, {MI: 0.6, C: 0.4}, weight=0.5)
        assert masses == approx({MI: 0.5, C: 0.2})  # 0.5 for "Mich" and 0.3 for "Mi" are not one 0.8

    def test_equal_weights_are_a_weight_of_one_half(self) -> None:
        masses = fused(strategy("gac"), {2: 1.0}, {B: 1.0}, weight=0.5)
        assert masses == approx({A: 0.5, B: 0.5})

    def test_every_end_of_text_is_the_targets(self) -> None:
        masses = fused(strategy("gac"), {4: 0.3, 6: 0.5, 5: 0.2}, {END: 0.5, C: 0.5}, weight=0.5)
        assert masses == approx({END: 0.65, C: 0.25})  # the mark without text is left out


class TestUnite:
    def test_each_model_is_renormalised_over_the_union(self) -> None:
        masses = fused(strategy("unite"), {2: 0.6, 3: 0.2}, {A: 0.3, C: 0.1}, weight=0.25)
        # Union: " a", "b", "c". Plug-in 0.6, 0.2, 0 -> 3/4, 1/4, 0; target 0.3, 0, 0.1 -> 3/4, 0, 1/4.
        assert masses == approx({A: 0.75, B: 0.0625, C: 0.1875})

    def test_a_text_outside_a_vocabulary_has_the_mass_of_its_first_token(self) -> None:
        masses = fused(strategy("unite"), {0: 0.6, 2: 0.4}, {MICHEL: 0.5, MI: 0.3, A: 0.2}, weight=0.5)
        # Union: "Michel", "Mi", " a", and the plug-in's "Mich".
        # Plug-in: "Michel" is cut "Mich|el" -> 0.6; "Mi" cannot be written -> 0; 0.4; 0.6. Sum 1.6.
        # Target: 0.5, 0.3, 0.2, and "Mich" is cut "Mi|ch" -> 0.3. Sum 1.3.
        mich, mi = 0.5 * 0.6 / 1.6 + 0.5 * 0.3 / 1.3, 0.5 * 0.3 / 1.3
        expected = {MICHEL: 0.5 * 0.6 / 1.6 + 0.5 * 0.5 / 1.3, A: 0.5 * 0.4 / 1.6 + 0.5 * 0.2 / 1.3, MI: max(mich, mi)}
        assert masses == approx(expected)

    def test_what_neither_has_among_its_top_is_out_of_the_union(self) -> None:
        plugin = {2: 0.5, 3: 0.01} | {100 + n: 0.04 for n in range(TOP - 1)}
        masses = fused(strategy("unite"), plugin, {A: 1.0}, weight=0.5)
        assert masses == approx({A: 1.0})  # "b" is eleventh; the others have no text

    def test_of_several_ends_the_likeliest_counts(self) -> None:
        masses = fused(strategy("unite"), {6: 0.6, 4: 0.1, 2: 0.2}, {END: 0.5, A: 0.5}, weight=1.0)
        assert masses == approx({END: 0.75, A: 0.25})


def token_map(rows: dict[int, dict[int, float]]) -> Any:
    columns, score = torch.zeros(7, 2, dtype=torch.int32), torch.zeros(7, 2)
    for row, entries in rows.items():
        for place, (column, value) in enumerate(entries.items()):
            columns[row, place], score[row, place] = column, value
    return SimpleNamespace(columns_SK=columns, score_SK=score)


class TestEva:
    MAP = token_map({0: {MICHEL: 0.8, MI: 0.4}, 2: {A: 1.0}, 3: {B: 0.9, A: 0.2}})

    def test_the_plugins_mass_goes_where_the_map_says(self) -> None:
        masses = fused(strategy("eva", self.MAP), {0: 0.3, 3: 0.5, 2: 0.0}, {B: 0.4, A: 0.4, C: 0.0}, weight=0.5)
        # Renormalised: "Mich" 0.375, "b" 0.625. q_s: "Michel" 0.3, "Mi" 0.15, "b" 0.5625, " a" 0.125; q_l: 0.5, 0.5.
        assert masses == approx({MICHEL: 0.15, MI: 0.075, B: 0.28125 + 0.25, A: 0.0625 + 0.25, C: 0.0})

    def test_a_model_that_the_other_does_not_bear_out_is_left_out(self) -> None:
        crowd = {10 + n: 0.1 for n in range(FAITHFUL)}
        # The plug-in's "b" is not among the target's first; the target's first, " a", is among the plug-in's (0.2).
        masses = fused(strategy("eva", self.MAP), {3: 1.0}, {A: 0.4, **crowd, B: 0.05}, weight=0.9)
        assert masses[A] == pytest.approx(0.4 / 0.95, rel=1e-5)
        assert masses[B] == pytest.approx(0.05 / 0.95, rel=1e-5)  # nothing of the plug-in's

    def test_where_neither_is_borne_out_both_are_kept(self) -> None:
        masses = fused(strategy("eva", self.MAP), {3: 1.0}, {C: 1.0}, weight=0.25)
        assert masses == approx({B: 0.225, A: 0.05, C: 0.75})

    def test_a_plugin_whose_tokens_are_not_mapped_leaves_the_target_alone(self) -> None:
        masses = fused(strategy("eva", self.MAP), {1: 1.0}, {C: 0.5, A: 0.3}, weight=0.9)
        assert masses == approx({C: 0.625, A: 0.375})
