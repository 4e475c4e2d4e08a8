"""The sliding window that a network's configuration states: whether the network uses it, and how its end is tried.

Many configurations state a `sliding_window` that their network ignores, and no name tells which. A trial of as many
tokens as a real window has (4,096 and more) takes too long at load. But networks read the window from the configuration
when they make their mask, so a window of `NARROW` tokens is stated while a trial runs: a dozen tokens reach beyond it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from onceedit_ray.models.agreement import NOT_MADE_FOR_IT

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel

NARROW, WIDE = 3, 1 << 20
_TRIED = 12


@contextlib.contextmanager
def stated_window(model: PreTrainedModel, window: int) -> Iterator[None]:
    """While the block runs, each configuration of `model` with a sliding window states one of `window` tokens."""
    held: list[tuple[Any, int]] = []
    try:
        for config in _configs(model):
            stated = getattr(config, "sliding_window", None)
            if isinstance(stated, int) and stated > 0:
                with contextlib.suppress(AttributeError):  # derived from another entry, and not to be changed
                    config.sliding_window = window
                    held.append((config, stated))
        yield
    finally:
        for config, stated in held:
            config.sliding_window = stated


@torch.inference_mode()
def uses_stated_window(model: PreTrainedModel) -> bool | None:
    """Whether the masks of a network have the sliding window that its configuration states; None if it is not known.

    Two passes over a dozen tokens, with a narrow window and with a wide one. A network that ignores the window computes
    the same twice, so its logits are equal to the last bit. It is not known for layers that hold a window themselves:
    they may use it in another way.
    """
    if not getattr(model.config.get_text_config(), "sliding_window", None):
        return False
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    ids_1T = torch.tensor([[token * 7 % vocabulary for token in range(3, 3 + _TRIED)]], device=model.device)
    found = []
    try:
        for window in (NARROW, WIDE):
            with stated_window(model, window):
                found.append(model(ids_1T, use_cache=False).logits)
    except NOT_MADE_FOR_IT:
        return None
    if not torch.equal(*found):
        return True
    return None if any(type(getattr(each, "sliding_window", None)) is int for each in model.modules()) else False


def _configs(model: PreTrainedModel) -> list[Any]:
    """The configurations that the network and its parts read, each once."""
    parts = (getattr(module, "config", None) for module in model.modules())
    found = [model.config.get_text_config(), *(config for config in parts if config is not None)]
    return list({id(config): config for config in found}.values())
