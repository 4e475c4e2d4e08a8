"""A second implementation of `draft`, directly from its equations: tests compare the decoder with it.

Every step runs both models anew over their whole input by plain transformers forward passes: no KV cache, no session,
no speculation, no sparse arithmetic. A step depends on the answer so far, and on the place where the plug-in's draft
was last restarted (drafter.py: while the answer follows the draft, its tokens stay as they are).

Shapes: V a vocabulary (S the plug-in's, L the target's), A anchors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from onceedit_ray.alignment import SparseRows
from onceedit_ray.fusion.strategies import Pair
from tests.small_system import full_logits

LOOKAHEAD = 4


@dataclass
class PlainModel:
    """Next-token distributions by whole forward passes, cut to the `top_k` most likely tokens as the protocol is."""

    model: Any
    top_k: int
    weight_id: int | None = None
    _known: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def p_NV(self, ids: Sequence[int], rows: int) -> Tensor:
        """Distributions after each of the last `rows` tokens."""
        key = tuple(ids)
        if key not in self._known:
            if len(self._known) > 256:
                self._known.clear()
            logits_NV = full_logits(self.model, ids)
            if self.weight_id is not None:
                logits_NV[:, self.weight_id] = -torch.inf
            p_NV = torch.softmax(logits_NV, -1)
            least_N1 = p_NV.topk(min(self.top_k, p_NV.shape[1]), -1).values[:, -1:]
            self._known[key] = torch.where(p_NV >= least_N1, p_NV, 0.0)
        return self._known[key][-rows:]

    def greedy(self, ids: Sequence[int]) -> int:
        """The most likely next token."""
        return int(self.p_NV(ids, 1)[0].argmax())


@dataclass
class PlainDraft:
    """One request.

    plugin_ids, target_ids: the two prompts. lead: the space that only the plug-in still writes.
    inside_tokens: number of steps that began inside one of the plug-in's tokens.
    """

    plugin: PlainModel
    target: PlainModel
    pair: Pair
    plugin_ids: list[int]
    target_ids: list[int]
    lead: bytes
    weight: float
    inside_tokens: int = 0
    _begun: list[int] = field(default_factory=list)

    def answer(self, budget: int) -> list[int]:
        """Up to `budget` target tokens, its end-of-text included."""
        emitted: list[int] = []
        while len(emitted) < budget and not (emitted and emitted[-1] in self.pair.target.end_ids):
            emitted.append(self.next_token(emitted))
        return emitted

    def next_token(self, emitted: Sequence[int]) -> int:
        """argmax of r̄ = w·(P(t*)·1_t* + (p_s - covered)·R_s) + (1-w)·p_l."""
        p_L = self.target.p_NV([*self.target_ids, *emitted], 1)[0]
        token, probability, rest_L = self._plugin_side(self.lead + self.pair.target.bytes_of(emitted), len(p_L))
        r_L = (1.0 - self.weight) * p_L.double() + self.weight * rest_L
        r_L[token] += self.weight * probability
        return int(r_L.argmax())

    def _plugin_side(self, answer: bytes, target_size: int) -> tuple[int, float, Tensor]:
        """t*, P(t*), and where the plug-in's remaining mass goes among the target's tokens."""
        codec, target = self.pair.plugin, self.pair.target
        draft = self._draft_covering(answer)
        while (place := self._place(draft, len(answer))) is None or (
            len(draft) < place[0] + LOOKAHEAD and not self._ended(draft)
        ):
            draft = self._longer(draft)
        index, inside = place
        self.inside_tokens += inside > 0
        p_NS = self.plugin.p_NV([*self.plugin_ids, *draft], len(draft) + 1)
        p_S = self._given_written(p_NS[index].double(), codec.surface(draft[index])[:inside])
        window = draft[index : index + LOOKAHEAD]
        if window[0] in codec.end_ids:
            token = target.end_id
            covered_S = torch.zeros_like(p_S)
            for end in codec.end_ids:
                covered_S[end] = p_S[end]
            probability = float(covered_S.sum())
        else:
            token = target.encode_bytes(codec.bytes_of(window)[inside:])[0]
            probability, covered_S = self._cover(window, inside, target.surface(token), p_S, p_NS[index:])
        rest_S = p_S - covered_S
        return token, probability, self._spread(rest_S.clamp_min(0.0), inside, draft[index], target_size)

    def _cover(
        self, window: Sequence[int], inside: int, wanted: bytes, p_S: Tensor, p_NS: Tensor
    ) -> tuple[float, Tensor]:
        """The product of the probabilities along the draft until `wanted` is written, and the first token's share."""
        surface = self.pair.plugin.surface
        first = torch.zeros_like(p_S)
        pieces = [surface(window[0])[inside:], *[surface(token) for token in window[1:]]]
        if len(wanted) < len(pieces[0]):
            for token in range(len(p_S)):
                if p_S[token] > 0 and surface(token)[inside:].startswith(wanted):
                    first[token] = p_S[token]
            return float(first.sum()), first
        probability = float(p_S[window[0]])
        wanted = wanted[len(pieces[0]) :]
        for at in range(1, len(window)):
            if not wanted:
                break
            if len(wanted) >= len(pieces[at]):
                probability *= float(p_NS[at, window[at]])
            else:
                begins = [t for t in range(p_NS.shape[1]) if surface(t).startswith(wanted)]
                probability *= float(p_NS[at, begins].sum())
            wanted = wanted[len(pieces[at]) :]
        first[window[0]] = probability
        return probability, first

    def _given_written(self, p_S: Tensor, written: bytes) -> Tensor:
        """p_S given that the token begins with `written` and goes on."""
        if not written:
            return p_S
        surface = self.pair.plugin.surface
        goes_on = [len(surface(t)) > len(written) and surface(t).startswith(written) for t in range(len(p_S))]
        fits_S = p_S * torch.tensor(goes_on)
        return fits_S / fits_S.sum()

    def _spread(self, rest_S: Tensor, inside: int, drafted: int, target_size: int) -> Tensor:
        """The rest through R_s to the anchors; inside a token, to the first target token of what is left of it."""
        r_L = torch.zeros(target_size, dtype=torch.float64)
        if inside:
            for token in torch.nonzero(rest_S).flatten().tolist():
                left = self.pair.plugin.surface(token)[inside:]
                r_L[self.pair.target.encode_bytes(left)[0]] += rest_S[token]
            return r_L
        r_L[self.pair.alignment.anchors.target_ids_A] = rest_S @ _dense(self.pair.alignment.plugin_rows, len(rest_S))
        return r_L

    def _draft_covering(self, answer: bytes) -> list[int]:
        """The draft if the answer follows it, else a new draft after the answer."""
        draft = self._begun
        text = self.pair.plugin.bytes_of
        while answer.startswith(text(draft)) and len(text(draft)) < len(answer) and not self._ended(draft):
            draft = self._longer(draft)
        if not text(draft).startswith(answer):
            draft = self._begun = list(self.pair.plugin.encode_bytes(answer))
        return draft

    def _place(self, draft: list[int], offset: int) -> tuple[int, int] | None:
        """The token of the draft that byte `offset` lies in, and how many of its bytes come before; None beyond it."""
        start = 0
        for index, token in enumerate(draft):
            length = len(self.pair.plugin.surface(token))
            if offset < start + length or token in self.pair.plugin.end_ids:
                return index, offset - start
            start += length
        return None

    def _longer(self, draft: list[int]) -> list[int]:
        return [*draft, self.plugin.greedy([*self.plugin_ids, *draft])]

    def _ended(self, draft: list[int]) -> bool:
        return bool(draft) and draft[-1] in self.pair.plugin.end_ids


@lru_cache(maxsize=16)
def _dense(rows: SparseRows, size: int) -> Tensor:
    """R_SA in full, with rows of zeros for tokens that the alignment does not know (`[WEIGHT]`)."""
    R_SA = torch.zeros(size, rows.anchors, dtype=torch.float64)
    R_SA[: len(rows)].scatter_(1, rows.columns_VK.long(), rows.mass_VK.double())
    return R_SA
