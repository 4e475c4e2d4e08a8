"""A system whose speed is measured: its prompts, and the seconds that the system and the target alone need for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.ratios import Ratios
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Member
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.knowledge.edit import Edit

OURS = ", alone with our products"
UNRELATED_TOKENS = 32
CERTAIN = 0.9
"""Minimum gate weight of the edited prompts, so that the draft decides even with a random target."""


class Bench:
    """A system to measure, and its measurements.

    references: each target as transformers loads it. rounds: how often each pair is timed. products: the linear layers
        with which the target alone is timed, "" for those of transformers. tokens: length of an unrelated answer.
        edited, unrelated: prompts.
    """

    def __init__(
        self,
        decoder: FusedDecoder,
        target: str,
        reference: PreTrainedModel,
        edits: Sequence[Edit],
        general: Sequence[str],
        quick: bool = False,
    ) -> None:
        self.decoder = decoder
        self.target = target
        self.quick = quick
        self.rounds = 2 if quick else 7
        self.products = [""] if quick else ["", OURS]
        self.tokens = UNRELATED_TOKENS // 2 if quick else UNRELATED_TOKENS
        self.references = {target: reference}
        self.ratios = Ratios()
        self.edited = [e.prompt for e in edits[:32] if asyncio.run(decoder.gate(e.prompt)) >= CERTAIN]
        self.unrelated = self._long_answers(general)

    @property
    def member(self) -> Member:
        """The target."""
        return self.decoder.members[self.target]

    def _long_answers(self, prompts: Sequence[str]) -> list[str]:
        """Prompts that the target alone answers at full length, so that both sides write the same number of tokens."""

        async def ask() -> list[Generation]:
            jobs = (self.decoder.generate(self.target, p, None, self.tokens) for p in prompts[:24])
            return list(await asyncio.gather(*jobs))

        answers = asyncio.run(ask())
        return [p for p, a in zip(prompts, answers, strict=False) if len(a.token_ids) == self.tokens and a.alone]

    def network(self, target: str, products: str = "") -> Any:
        """The target as transformers loads it, or with our products."""
        model: Any = self.decoder.members[target].model
        return model.network if products == OURS else self.references[target]

    def own(self, prompts: Sequence[str], tokens: int, target: str = "", products: str = "", **options: Any) -> float:
        """Seconds of the target's own `generate` for exactly `tokens` tokens after each prompt, in one batch."""
        member = self.decoder.members[target or self.target]
        network = self.network(target or self.target, products)
        rows = [member.codec.encode_prompt(prompt) for prompt in prompts]
        width = max(map(len, rows))
        fill = max(member.codec.end_id, 0)
        ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows])
        seen = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        limits = {"max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": fill, "do_sample": False}
        started = time.perf_counter()
        with torch.inference_mode():
            network.generate(ids, attention_mask=seen, **limits, **options)
        return time.perf_counter() - started

    def ours(self, prompts: Sequence[str], tokens: int, target: str = "") -> tuple[float, list[Generation]]:
        """Seconds in which the system answers all prompts at once, and the answers."""

        async def ask() -> list[Generation]:
            jobs = (self.decoder.generate(target or self.target, p, None, tokens) for p in prompts)
            return list(await asyncio.gather(*jobs))

        started = time.perf_counter()
        answers = asyncio.run(ask())
        return time.perf_counter() - started, answers

    def first_token(self, prompt: str) -> float:
        """Seconds to the first piece of a streamed answer."""

        async def wait() -> float:
            started = time.perf_counter()
            stream = self.decoder.stream(self.target, prompt)
            await anext(stream)
            took = time.perf_counter() - started
            await stream.aclose()
            return took

        return asyncio.run(wait())

    def compare(self, figure: str, goal: str, ratio: Callable[[int], float], rounds: int | None = None) -> None:
        """Measure a ratio in several rounds, after a warm-up round."""
        ratio(0)
        self.ratios.record(figure, goal, [ratio(turn) for turn in range(rounds or self.rounds)])
