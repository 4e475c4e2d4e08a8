"""Forward passes over sessions. Only this module calls a network while decoding.

Three ways, one interface. `SlotPasses` serves many sessions in one pass, over slots of one cache. `SinglePasses` gives
each session a cache of its own, for networks whose state is more than keys and values (linear attention, state spaces)
or which do not take a mask of ours. `WholePasses` reads a session from its beginning every time, for networks whose
results change when they are fed piece by piece. `passes_for` tries which way works: a batch must give the same results
as its rows alone, and a session fed in pieces the same as the whole text. No model names, no text, no threads.

Shapes: B rows of a pass, N tokens fed to a row, T positions attended, D width, M chosen positions, V vocabulary.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from onceedit_ray.models.agreement import NOT_MADE_FOR_IT, agree
from onceedit_ray.models.head_positions import logits_of
from onceedit_ray.models.kv_cache import SlotCache
from onceedit_ray.models.loading import has_window_of_its_own
from onceedit_ray.models.stated_window import NARROW, stated_window, uses_stated_window

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

ATTENTION = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True)
class PassRow:
    """One session's part of a pass.

    place: its place in the cache. held: number of positions that it holds. ids: tokens fed. rows: number of last
        positions whose logits are returned, at least 1.
    """

    place: int
    held: int
    ids: Sequence[int]
    rows: int


class Passes(Protocol):
    """States of sessions and passes over them.

    batches: whether one pass may have several rows. token_bytes, session_bytes: size of a position, and of a session
    without its positions; known after `measure`.
    """

    batches: bool
    token_bytes: int
    session_bytes: int

    def measure(self) -> None:
        """Measure, by passes over one or two tokens, the memory of positions and sessions."""

    def bound(self, limit: int) -> None:
        """Keep the buffers within `limit` bytes, for sessions that fit by `bytes_for`."""

    def bytes_for(self, lengths: Sequence[int]) -> int:
        """The least bytes in which sessions of these lengths can be held together."""

    def holds(self, place: int, length: int) -> bool:
        """Whether a place has room for `length` positions now."""

    def fit(self, lengths: Mapping[int, int]) -> None:
        """Make room in every place that is taken, for the positions that it needs."""

    def may_reach(self, end: int) -> bool:
        """Whether a pass may write padding up to position `end`."""

    def take(self) -> int:
        """A place for a new session."""

    def give_back(self, place: int) -> None:
        """Free a place."""

    def copy(self, place: int, length: int) -> tuple[int, int]:
        """A new place with the first `length` positions of `place`, and how many of them it really holds; (-1, 0) where
        there is no memory for it.
        """

    def cut(self, place: int, held: int, keep: int) -> int:
        """Cut `place` from `held` positions back to `keep`; returns how many it holds then: `keep`, or 0."""

    def logits(self, rows: Sequence[PassRow]) -> list[Tensor]:
        """One pass; for each row the logits of its last `rows` positions, [N, V]."""

    def nbytes(self) -> int:
        """Size of the held keys and values in bytes."""


def passes_for(model: PreTrainedModel) -> Passes:
    """The implementation that works for `model`, found by a test, in which a stated sliding window is narrow."""
    for make in _ways(model):
        with stated_window(model, NARROW):
            # The result of a row alone must also be right: a network may silently ignore our cache.
            works = (not make().batches or _agrees(make(), model)) and _continues(make(), model)
        if works:
            return make()
    return WholePasses(model)


def _ways(model: PreTrainedModel) -> Iterator[Callable[[], Passes]]:
    """The implementations to try, the fastest first."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ATTENTION)
    if kinds <= ATTENTION and not has_window_of_its_own(config):
        windowed = uses_stated_window(model)
        if windowed is not None:
            yield from (partial(SlotPasses, model, masks, windowed) for masks in ("mapping", "tensor"))
        yield partial(SlotPasses, model, "tensor", batches=False)
    yield partial(SinglePasses, model)


class SlotPasses:
    """Passes over the slots of one cache.

    Args:
        model: the network. masks: form of its attention masks: "mapping" for one mask per kind of layer, "tensor" for a
            single mask. windowed: whether its masks have the window that its configuration states. batches: whether a
            pass may have several rows.
    """

    def __init__(self, model: PreTrainedModel, masks: str, windowed: bool = True, batches: bool = True) -> None:
        config = model.config.get_text_config()
        self.batches = batches
        self._model = model
        self._masks = masks
        self._window = (getattr(config, "sliding_window", None) or None) if windowed else None
        self._mixed = "full_attention" in (getattr(config, "layer_types", None) or ())
        self._last = int(getattr(config, "max_position_embeddings", None) or 2**31) - 1
        self._cache = SlotCache(int(config.num_hidden_layers))
        self.token_bytes = self.session_bytes = 0

    def measure(self) -> None:
        place = self.take()
        self.logits([PassRow(place, 0, [0], 1)])
        self.give_back(place)
        self.token_bytes = self._cache.token_bytes()
        self._cache.clear()

    def bound(self, limit: int) -> None:
        self._cache.capacity = limit // max(self.token_bytes, 1)

    def bytes_for(self, lengths: Sequence[int]) -> int:
        return len(lengths) * max(lengths, default=0) * self.token_bytes

    def holds(self, place: int, length: int) -> bool:
        return self._cache.holds(place, length)

    def fit(self, lengths: Mapping[int, int]) -> None:
        self._cache.fit(lengths)

    def may_reach(self, end: int) -> bool:
        return self._cache.may_reach(end)

    def take(self) -> int:
        return self._cache.take()

    def give_back(self, place: int) -> None:
        self._cache.give_back(place)

    def copy(self, place: int, length: int) -> tuple[int, int]:
        return (self._cache.copy(place, length), length) if self._cache.may_add() else (-1, 0)

    def cut(self, place: int, held: int, keep: int) -> int:
        return keep

    def nbytes(self) -> int:
        return self._cache.nbytes()

    def logits(self, rows: Sequence[PassRow]) -> list[Tensor]:
        tokens = max(len(row.ids) for row in rows)
        device = self._model.device
        ids_BN = torch.tensor([[*row.ids, *[row.ids[-1]] * (tokens - len(row.ids))] for row in rows], device=device)
        positions_BN = self._cache.select([row.place for row in rows], [row.held for row in rows], tokens, device)
        which = [(index, len(row.ids) - row.rows + n) for index, row in enumerate(rows) for n in range(row.rows)]
        rows_M, columns_M = torch.tensor(which, device=device).T
        with logits_of(self._model, rows_M, columns_M):
            logits_1MV = self._model(
                ids_BN,
                attention_mask=self._attended(positions_BN) if len(rows) > 1 else None,
                position_ids=positions_BN.clamp(max=self._last),
                past_key_values=self._cache,
                use_cache=True,
            ).logits
        return list(logits_1MV[0].split([row.rows for row in rows]))

    def _attended(self, positions_BN: Tensor) -> Tensor | dict[str, Tensor]:
        """What each fed token attends to: its past, and only its window in sliding-window layers."""
        keys_T = torch.arange(int(positions_BN.max()) + 1, device=positions_BN.device)
        queries_BN1 = positions_BN[:, :, None]
        full = keys_T <= queries_BN1
        sliding = full & (keys_T > queries_BN1 - self._window) if self._window else full
        if self._masks == "mapping":
            return {"full_attention": self._mask(full), "sliding_attention": self._mask(sliding)}
        return self._mask(full if self._mixed else sliding)

    def _mask(self, attended_BNT: Tensor) -> Tensor:
        mask_B1NT = attended_BNT.unsqueeze(1)
        if self._model.config._attn_implementation == "sdpa":
            return mask_B1NT
        dtype = self._model.dtype
        return torch.zeros_like(mask_B1NT, dtype=dtype).masked_fill(~mask_B1NT, torch.finfo(dtype).min)


class _OwnCaches:
    """What `SinglePasses` and `WholePasses` share: no buffer is common to several sessions."""

    batches = False
    token_bytes = session_bytes = 0

    def bound(self, limit: int) -> None:
        """Nothing to do: a session takes what it needs."""

    def may_reach(self, end: int) -> bool:
        return True


class SinglePasses(_OwnCaches):
    """Passes over one session at a time, each with a cache of its own as transformers makes it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        taken = inspect.signature(model.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in taken else "cache_params"
        self._takes_positions = "position_ids" in taken
        self._window = getattr(model.config.get_text_config(), "sliding_window", None) or None
        self._caches: dict[int, DynamicCache] = {}
        self._floors: dict[int, int] = {}  # lower limit of further cuts, for a sliding-window cache that was cut
        self._next = 0
        self._rooms: dict[int, int] = {}

    def measure(self) -> None:
        place, before = self.take(), self.nbytes()
        self.logits([PassRow(place, 0, [0, 0], 1)])
        two = self.nbytes() - before
        self.logits([PassRow(place, 2, [0], 1)])
        self.token_bytes = max(self.nbytes() - before - two, 0)
        self.session_bytes = max(two - 2 * self.token_bytes, 0)
        self.give_back(place)

    def bytes_for(self, lengths: Sequence[int]) -> int:
        return len(lengths) * self.session_bytes + sum(lengths) * self.token_bytes

    def holds(self, place: int, length: int) -> bool:
        return length <= self._rooms.get(place, 0)

    def fit(self, lengths: Mapping[int, int]) -> None:
        self._rooms = dict(lengths)

    def take(self) -> int:
        self._next += 1
        self._renew(self._next)
        return self._next

    def give_back(self, place: int) -> None:
        self._caches.pop(place, None)
        self._floors.pop(place, None)

    def copy(self, place: int, length: int) -> tuple[int, int]:
        return self.take(), 0

    def cut(self, place: int, held: int, keep: int) -> int:
        if keep == held:
            return keep
        if keep < self._floors[place] or not all(layer.is_croppable for layer in self._caches[place].layers):
            self._renew(place)
            return 0
        self._caches[place].crop(keep - held)
        if self._window is not None and held >= self._window:
            self._floors[place] = keep
        return keep

    def nbytes(self) -> int:
        tensors = [
            tensor
            for cache in self._caches.values()
            for layer in cache.layers
            for tensor in vars(layer).values()
            if isinstance(tensor, Tensor)
        ]
        return sum(tensor.nbytes for tensor in tensors)

    def logits(self, rows: Sequence[PassRow]) -> list[Tensor]:
        (row,) = rows
        ids_1N = torch.tensor([list(row.ids)], device=self._model.device)
        given: dict[str, Any] = {self._cache_name: self._caches[row.place]}
        if self._takes_positions:  # some networks number positions from 0 in every pass by themselves
            given["position_ids"] = torch.arange(row.held, row.held + len(row.ids), device=ids_1N.device)[None]
        out: Any = self._model(ids_1N, **given, use_cache=True, logits_to_keep=row.rows)
        return [out.logits[0, -row.rows :]]

    def _renew(self, place: int) -> None:
        cache = DynamicCache(config=self._model.config)
        cache.activate_past_recording()
        self._caches[place], self._floors[place] = cache, 0


class WholePasses(_OwnCaches):
    """Passes over one session at a time, without a cache: exact for every network, and slower with every token."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._ids: dict[int, list[int]] = {}
        self._next = 0

    def measure(self) -> None:
        """Nothing to do: token ids are all that is kept."""

    def bytes_for(self, lengths: Sequence[int]) -> int:
        return 0

    def holds(self, place: int, length: int) -> bool:
        return True

    def fit(self, lengths: Mapping[int, int]) -> None:
        """Nothing to do, as there is no cache."""

    def take(self) -> int:
        self._next += 1
        self._ids[self._next] = []
        return self._next

    def give_back(self, place: int) -> None:
        self._ids.pop(place, None)

    def copy(self, place: int, length: int) -> tuple[int, int]:
        copied = self.take()
        self._ids[copied] = self._ids[place][:length]
        return copied, length

    def cut(self, place: int, held: int, keep: int) -> int:
        return keep

    def nbytes(self) -> int:
        return 0

    def logits(self, rows: Sequence[PassRow]) -> list[Tensor]:
        (row,) = rows
        ids = [*self._ids[row.place][: row.held], *row.ids]
        out: Any = self._model(torch.tensor([ids], device=self._model.device), use_cache=False)
        self._ids[row.place] = ids
        return [out.logits[0, -row.rows :]]


def _agrees(passes: Passes, model: PreTrainedModel) -> bool:
    """Whether two sessions of different lengths get the same results in one pass as alone."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    prompts = [[token % vocabulary for token in range(start, start + length)] for start, length in ((11, 7), (29, 4))]
    try:
        with torch.inference_mode():
            alone = [passes.logits([PassRow(passes.take(), 0, ids, 2)])[0] for ids in prompts]
            places = [passes.take() for _ in prompts]
            together = passes.logits([PassRow(place, 0, ids, 2) for place, ids in zip(places, prompts, strict=True)])
            next_alone = [passes.logits([PassRow(i, len(ids), [5, 6], 1)])[0] for i, ids in enumerate(prompts)]
            next_together = passes.logits(
                [PassRow(place, len(ids), [5, 6], 1) for place, ids in zip(places, prompts, strict=True)]
            )
    except NOT_MADE_FOR_IT:
        return False
    pairs = zip([*alone, *next_alone], [*together, *next_together], strict=True)
    return all(agree(one, other) for one, other in pairs)


def _continues(passes: Passes, model: PreTrainedModel) -> bool:
    """Whether two sessions that are fed in pieces, in turn, get the same results as for the whole text without a cache.

    The pieces are those of decoding: a prompt, one token, several drafted ones, one again. The sessions take turns,
    since a network may keep a state of its own beside the cache.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    sequences = [[token * step % vocabulary for token in range(3, 15)] for step in (7, 11)]
    found: list[list[Tensor]] = [[], []]
    try:
        with torch.inference_mode():
            places = [passes.take() for _ in sequences]
            for start, end in itertools.pairwise(_PIECES):
                for place, ids, rows in zip(places, sequences, found, strict=True):
                    rows += passes.logits([PassRow(place, start, ids[start:end], 1)])
            whole_BNV = model(torch.tensor(sequences, device=model.device), use_cache=False).logits
    except NOT_MADE_FOR_IT:
        return False
    ends = [end - 1 for end in _PIECES[1:]]
    return all(agree(torch.cat(rows), whole_NV[ends]) for rows, whole_NV in zip(found, whole_BNV, strict=True))


_PIECES = (0, 7, 8, 11, 12)
