"""The alignment of a plug-in with a target: their anchors, and each matrix on first use.

Only the parts that a strategy reads are built; later uses load them from the cache. This module knows a model only by
its vocabulary and a function that returns its input embeddings.

V  vocabulary   A  anchors   D  embedding   N  rows that are tokens   E  input embeddings
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from onceedit_ray.alignment import token_map
from onceedit_ray.alignment.anchors import Anchors, Rule, find_anchors
from onceedit_ray.alignment.cache import Entry, cache_key, load_or_build
from onceedit_ray.alignment.calibrated_matrix import KEEP, OWN_MASS, build_sparse
from onceedit_ray.alignment.literal_matrix import MULTIPLIER, LiteralMatrix
from onceedit_ray.alignment.sparse_rows import SparseRows
from onceedit_ray.alignment.token_map import TokenMap
from onceedit_ray.errors import AlignmentError
from onceedit_ray.models.surface import vocabulary_surfaces
from onceedit_ray.progress import Count, Progress

PARTS = frozenset({"calibrated", "literal", "token map"})


@dataclass(frozen=True, eq=False)
class Side:
    """What the alignment needs to know about a model.

    name: for messages. vocab: token -> id. eos_id: its end-of-text; None or negative: none.
    embeddings: returns the input embeddings E_VD; called only if something has to be computed.
    digest: identifies those embeddings in the cache's keys (`embedding_digest`, or the weights' checksum).
    special: tokens known to represent no text. literal: tokens added to the vocabulary as text.
    """

    name: str
    vocab: Mapping[str, int]
    eos_id: int | None
    embeddings: Callable[[], Tensor]
    digest: str
    special: Collection[str] = field(default=())
    literal: Collection[str] = field(default=())


class Alignment:
    """Anchors and, from their first use on, the matrices of both sides; make one with `build_alignment`.

    Every part raises `AlignmentError` if the alignment was made without it.
    """

    def __init__(
        self,
        plugin: Side,
        target: Side,
        anchors: Anchors,
        *,
        keep: int,
        own_mass: float,
        parts: Collection[str],
        progress: Progress | None,
    ) -> None:
        self.anchors = anchors
        self._plugin, self._target = plugin, target
        self._keep, self._own_mass = keep, own_mass
        self._parts = parts
        self._progress = progress

    @property
    def one_model(self) -> bool:
        """Whether both sides are the same weights."""
        return self._plugin.digest == self._target.digest

    @cached_property
    def plugin_rows(self) -> SparseRows:
        """The plug-in's calibrated matrix."""
        return self._sparse_rows(self._plugin_calibrated)

    @cached_property
    def target_rows(self) -> SparseRows:
        """The target's calibrated matrix."""
        return self._sparse_rows(self._target_calibrated)

    @cached_property
    def target_winners_A(self) -> Tensor:
        """Closed form of the search over the target's calibrated matrix: a target token for each anchor, int64.

        Rows beyond the vocabulary, with which some models pad their embeddings, cannot win.
        """
        return self._target_calibrated.tensors["winner_A"]

    @cached_property
    def plugin_literal(self) -> LiteralMatrix:
        """The plug-in's literal matrix, for rows on demand; holds the embeddings from now on."""
        return self._literal(self._plugin, self.anchors.plugin_ids_A)

    @cached_property
    def target_literal(self) -> LiteralMatrix:
        """The target's literal matrix, for rows on demand; holds the embeddings from now on."""
        return self._literal(self._target, self.anchors.target_ids_A)

    @cached_property
    def literal_winners_A(self) -> Tensor:
        """Closed form of the search over the target's literal matrix: a target token for each anchor, int64."""
        self._need("literal")
        side, ids_A = self._target, self.anchors.target_ids_A
        tokens_N = _token_ids(side.vocab)
        key = cache_key(
            "literal winners", side.digest, {"anchors": ids_A, "rows": tokens_N}, {"multiplier": MULTIPLIER}
        )

        def build() -> Entry:
            matrix = self.target_literal
            winner_A, mass_A = matrix.column_winners(
                tokens_N[tokens_N < len(matrix)], on_block=self._lines(side, "literal column winners")
            )
            return Entry({"winner_A": winner_A, "mass_A": mass_A})

        return load_or_build(key, build, self._about(side, "literal column winners")).tensors["winner_A"]

    @cached_property
    def token_map(self) -> TokenMap:
        """EVA's learnt map of the plug-in's tokens [S] to the target's; end of text goes to end of text alone."""
        self._need("token map")
        plugin, target = self._plugin, self._target
        rows_S, rows_T = (_texts(side) for side in (plugin, target))
        key = cache_key(
            "token map",
            f"{plugin.digest} {target.digest}",
            {"plugin": self.anchors.plugin_ids_A, "target": self.anchors.target_ids_A, "S": rows_S, "T": rows_T},
            {"keep": token_map.KEEP, "threshold": token_map.THRESHOLD},
        )

        def build() -> Entry:
            X_VD, Z_VD = plugin.embeddings(), target.embeddings()
            at_S, at_T = (_places(rows_S, len(X_VD)), _places(rows_T, len(Z_VD)))
            shared_S_A, shared_T_A = at_S[self.anchors.plugin_ids_A], at_T[self.anchors.target_ids_A]
            both_A = (shared_S_A >= 0) & (shared_T_A >= 0)  # all but end of text
            learnt = token_map.learn_token_map(
                X_VD[rows_S], Z_VD[rows_T], shared_S_A[both_A], shared_T_A[both_A], self._lines(plugin, "token map")
            )
            columns_VK = torch.zeros(len(X_VD), learnt.columns_SK.shape[1], dtype=torch.int32)
            score_VK = torch.zeros(columns_VK.shape)
            columns_VK[rows_S], score_VK[rows_S] = rows_T[learnt.columns_SK.long()].int(), learnt.score_SK
            end = ~both_A
            columns_VK[self.anchors.plugin_ids_A[end], 0] = self.anchors.target_ids_A[end].int()
            score_VK[self.anchors.plugin_ids_A[end], 0] = 1.0
            return Entry({"columns_SK": columns_VK, "score_SK": score_VK})

        return TokenMap(**load_or_build(key, build, self._about(plugin, "token map")).tensors)

    def prepare(self) -> None:
        """Build or load every part now, so that later uses do not wait."""
        if "calibrated" in self._parts:
            _ = self.plugin_rows, self.target_rows, self.target_winners_A
        if "literal" in self._parts:
            _ = self.plugin_literal, self.target_literal, self.literal_winners_A
        if "token map" in self._parts:
            _ = self.token_map

    @cached_property
    def _plugin_calibrated(self) -> Entry:
        return self._calibrated(self._plugin, self.anchors.plugin_ids_A)

    @cached_property
    def _target_calibrated(self) -> Entry:
        return self._calibrated(self._target, self.anchors.target_ids_A)

    def _calibrated(self, side: Side, ids_A: Tensor) -> Entry:
        self._need("calibrated")
        tokens_N = _token_ids(side.vocab)
        settings = {"keep": self._keep, "own_mass": self._own_mass}
        key = cache_key("calibrated", side.digest, {"anchors": ids_A, "rows": tokens_N}, settings)

        def build() -> Entry:
            on_block = self._lines(side, "calibrated rows")
            rows = build_sparse(side.embeddings(), ids_A, self._keep, self._own_mass, on_block=on_block)
            winner_A, _ = rows.column_winners(tokens_N[tokens_N < len(rows)])
            tensors = {"columns_VK": rows.columns_VK, "mass_VK": rows.mass_VK, "winner_A": winner_A}
            return Entry(tensors, {"multiplier": rows.multiplier})

        return load_or_build(key, build, self._about(side, "calibrated rows and column winners"))

    def _sparse_rows(self, entry: Entry) -> SparseRows:
        tensors = entry.tensors
        return SparseRows(tensors["columns_VK"], tensors["mass_VK"], len(self.anchors), entry.values["multiplier"])

    def _literal(self, side: Side, ids_A: Tensor) -> LiteralMatrix:
        self._need("literal")
        return LiteralMatrix(side.embeddings(), ids_A)

    def _need(self, part: str) -> None:
        if part not in self._parts:
            raise AlignmentError(
                f"the alignment of {self._plugin.name} with {self._target.name} was made without its {part} part; "
                f"add '{part}' to its parts"
            )

    def _about(self, side: Side, what: str) -> dict[str, str]:
        return {
            "what": what,
            "model": side.name,
            "plugin": self._plugin.name,
            "target": self._target.name,
            "anchors": str(len(self.anchors)),
        }

    def _lines(self, side: Side, what: str) -> Callable[[int, int], None] | None:
        """Report finished blocks as counts, so that a long build shows progress."""
        progress = self._progress
        if progress is None:
            return None
        return lambda done, rows: progress(Count(f"aligning {side.name}: {what}", done, rows))


def build_alignment(
    plugin: Side,
    target: Side,
    rule: Rule = "text",
    keep: int = KEEP,
    own_mass: float = OWN_MASS,
    parts: Collection[str] = PARTS,
    progress: Progress | None = None,
) -> Alignment:
    """Find the anchors now; build the matrices on first use.

    Args:
        rule: see `find_anchors`. keep, own_mass: see `build_sparse`.
        parts: the parts that may be used, "calibrated", "literal" and "token map".
        progress: called with a line every few seconds of a long build.

    Raises `AlignmentError` if the two have no token in common or a part is unknown.
    """
    unknown = set(parts) - PARTS
    if unknown:
        raise AlignmentError(f"unknown part '{min(unknown)}' of an alignment; expected {' or '.join(sorted(PARTS))}")
    ends = tuple(side.eos_id for side in (plugin, target) if side.eos_id is not None and side.eos_id >= 0)
    end = (ends[0], ends[1]) if len(ends) == 2 else None
    try:
        anchors = find_anchors(
            plugin.vocab,
            target.vocab,
            rule,
            plugin_special=plugin.special,
            target_special=target.special,
            plugin_literal=plugin.literal,
            target_literal=target.literal,
            end=end,
        )
    except AlignmentError as error:
        raise AlignmentError(f"{plugin.name} and {target.name}: {error}") from None
    return Alignment(plugin, target, anchors, keep=keep, own_mass=own_mass, parts=parts, progress=progress)


def _token_ids(vocab: Mapping[str, int]) -> Tensor:
    return torch.tensor(list(vocab.values()), dtype=torch.int64).unique()


def _texts(side: Side) -> Tensor:
    """The tokens of a model that represent text, int64, ascending."""
    return torch.tensor(list(vocabulary_surfaces(side.vocab, side.special, side.literal)), dtype=torch.int64)


def _places(rows_N: Tensor, rows: int) -> Tensor:
    """The position of each of `rows` rows in `rows_N`; -1 if it is not in `rows_N`."""
    places = torch.full((rows,), -1)
    places[rows_N] = torch.arange(len(rows_N))
    return places
