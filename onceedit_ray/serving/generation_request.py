"""What passes between the ingress and the decoder: a request for an answer as text, and the summary of the answer.

It needs no model, so that the ingress imports neither PyTorch nor transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onceedit_ray.models.sampling import Sampling

BUSY = "busy"
"""What `probe` reports for a model that did not answer in time: it may be loading, or have much work queued."""
PLUGIN = "plug-in"


@dataclass(frozen=True)
class GenerationRequest:
    """A request to one target.

    prompt: a text to continue, or the target's token ids. messages: a chat, each `{"role", "content"}`, instead of a
    prompt. stop: strings that end the answer. unedited: the target answers without the plug-in. logprobs: how many of
    the most likely tokens to return for each token of the answer; None returns no log probabilities. echo: the prompt
    is returned before the answer. known: the beginning of the answer, if it is made again; it saves time and changes
    nothing.
    """

    target: str
    max_tokens: int
    sampling: Sampling
    prompt: str | tuple[int, ...] = ""
    messages: tuple[Mapping[str, str], ...] = ()
    stop: tuple[str, ...] = ()
    unedited: bool = False
    logprobs: int | None = None
    echo: bool = False
    known: str = ""


@dataclass(frozen=True)
class GenerationEnd:
    """The summary of an answer that has ended.

    reason: "stop" at an end of text or a stop string, "length" at the limit of tokens or context. The other fields
    are as in `Generation`.
    """

    target: str
    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    version: str
    weight: float | None
    alone: bool
    drafted: int = 0
    accepted: int = 0
    edits: tuple[str, ...] = ()
