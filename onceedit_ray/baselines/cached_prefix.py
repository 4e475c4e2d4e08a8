"""Runs the ends of a batch's rows repeatedly while their beginnings are cached.

An optimised vector that is added at one token changes nothing before it. Each row is therefore cut there: its head is
run once into a key-value cache, and its tail as often as needed. Heads are padded on the left, so that all tails begin
in the same column. A network with other state than keys and values (recurrent or linear-attention layers) changes that
state in place, and one that numbers its positions itself (BART) numbers those of padded heads wrongly. Neither can be
cached: for such a network, found by its cache and by one loss, the whole rows are run every time.

Shapes: B rows, H columns of heads, T columns of tails, N positions at which a label is predicted, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from onceedit_ray.baselines.teacher_forcing import OUTSIDE, AnswerBatch, answer_loss
from onceedit_ray.models.agreement import AGREEMENT, NOT_MADE_FOR_IT, ROUGH_AGREEMENT


class CachedPrefix:
    """Rows cut at one token each. All labels come after the cut; the token at the cut is column 0 of its tail.

    Args:
        batch: the rows. starts: the column of each row at which it is cut.

    cut_B: the column of each row's cut in what `loss` runs.
    """

    def __init__(self, model: PreTrainedModel, batch: AnswerBatch, starts: Sequence[int]) -> None:
        self._model = model
        self._batch = batch
        self._cache = DynamicCache(config=model.config)
        self._kept = _has_keys_and_values_alone(model, self._cache)
        if self._kept:
            try:
                self._cut(batch, starts)
                self._kept = self._is_whole()
            except NOT_MADE_FOR_IT:
                self._kept = False
        self.cut_B = torch.tensor([0 if self._kept else start for start in starts], device=batch.ids_BT.device)

    def _cut(self, batch: AnswerBatch, starts: Sequence[int]) -> None:
        heads = max(starts)
        lengths = batch.attention_mask_BT.sum(1).tolist()
        tails = max(length - start for length, start in zip(lengths, starts, strict=True))
        shape = (len(starts), heads + tails)
        columns = torch.arange(heads + tails, device=batch.ids_BT.device)
        start_B1 = torch.tensor(starts, device=batch.ids_BT.device)[:, None]
        # Column c of the new rows is column c - (heads - start) of the old ones: each row moves to the right.
        from_BC = columns.expand(shape) - (heads - start_B1)
        inside_BC = (from_BC >= 0) & (from_BC < batch.ids_BT.shape[1])
        from_BC = from_BC.clamp(0, batch.ids_BT.shape[1] - 1)
        labels_BC = batch.labels_BT.gather(1, from_BC).masked_fill(~inside_BC, OUTSIDE)
        self._predicting_N = (labels_BC[:, heads + 1 :] != OUTSIDE).any(0).nonzero().flatten()
        self._labels_BN = labels_BC[:, heads + 1 :][:, self._predicting_N]
        end = heads + int(self._predicting_N[-1]) + 1  # the last label is predicted but not fed
        self._ids_BC = batch.ids_BT.gather(1, from_BC)[:, :end]
        self._mask_BC = (batch.attention_mask_BT.gather(1, from_BC) * inside_BC)[:, :end]
        self._positions_BC = from_BC[:, :end]
        self._heads = heads
        if heads:
            self._run_heads()

    @torch.no_grad()
    def _is_whole(self) -> bool:
        """Whether the loss over cached heads is that of the whole rows, within the precision of the model's dtype."""
        cached, whole = float(self.loss()), float(answer_loss(self._model, self._batch))
        return abs(cached - whole) < AGREEMENT.get(self._model.dtype, ROUGH_AGREEMENT) * max(1.0, whole)

    def loss(self) -> Tensor:
        """-log P(label | tokens before it), the mean over all labels; a float32 scalar, see `answer_loss`."""
        if not self._kept:
            return answer_loss(self._model, self._batch)
        logits_BNV = self._model(
            input_ids=self._ids_BC[:, self._heads :],
            attention_mask=self._mask_BC,
            position_ids=self._positions_BC[:, self._heads :],
            past_key_values=self._fresh_cache(),
            logits_to_keep=self._predicting_N,
            use_cache=True,
        ).logits
        return F.cross_entropy(logits_BNV.flatten(0, 1).float(), self._labels_BN.flatten(), ignore_index=OUTSIDE)

    @torch.no_grad()
    def _run_heads(self) -> None:
        self._model(
            input_ids=self._ids_BC[:, : self._heads],
            attention_mask=self._mask_BC[:, : self._heads],
            position_ids=self._positions_BC[:, : self._heads],
            past_key_values=self._cache,
            logits_to_keep=1,
            use_cache=True,
        )

    def _fresh_cache(self) -> DynamicCache:
        """A copy of the heads' cache; extending it leaves the original unchanged, since tensors are replaced."""
        fresh = copy.copy(self._cache)
        fresh.layers = [copy.copy(layer) for layer in self._cache.layers]
        return fresh


def _has_keys_and_values_alone(model: PreTrainedModel, cache: DynamicCache) -> bool:
    """Whether a network takes a cache, and its layers hold keys and values and nothing else."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    return all(
        isinstance(layer, DynamicLayer) and not isinstance(layer, LinearAttentionCacheLayerMixin)
        for layer in cache.layers
    )
