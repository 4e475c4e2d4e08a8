"""DEEPEN as its released code decodes, for comparison: dense relative matrices, a search over the whole vocabulary.

What it does at every token (https://github.com/OrangeInSouth/DeePEn, read, not copied): the helper tokenises its prompt
and the answer so far again and runs them without a cache for one token; both distributions are multiplied with their
whole float32 matrices R [V, A]; 5 steps of AdamW on the target's logits approximate the mean of the two, each step a
product with the target's whole matrix and its gradient; the token with the largest logit is written. Only the target
keeps a cache, and it decides alone if its own likeliest token is the end of text.

In favour of the released code: its log of every step's top tokens, its threads and its queues are left out. If both
models are the same (SmolLM2 as plug-in and as target), the two equal matrices are held once: less memory, the same
number of products.

V  vocabulary   A  anchors   B  rows of a block   p  distribution   r  the same over anchors   R  transfer matrix
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.bench import Bench
from onceedit_ray.alignment import LiteralMatrix
from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.fusion.members import Member, Plugin
from onceedit_ray.fusion.search import gradient_search
from onceedit_ray.fusion.strategies import Pair
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.prompt import Prompt

TOKENS = 8
ROUNDS = 5
WEIGHT = 0.5
"""The weight of each model, as in the released code for two models."""
SPARE = 1 << 30
"""Bytes of memory that are left free for the models."""
QUICK = 1 << 30
"""Maximum bytes of matrices in a short run."""


class DenseDeepen:
    """Decodes for one target, one request at a time; both models in this process."""

    def __init__(self, plugin: Plugin, member: Member) -> None:
        self._plugin, self._member = plugin, member
        self._helper: Any = plugin.model
        self._target: Any = member.model
        alignment = member.pair().alignment
        anchors = len(alignment.anchors)
        self._target_VA = dense(alignment.target_literal, anchors)
        same = _are_one(member.pair())
        self._helper_VA = self._target_VA if same else dense(alignment.plugin_literal, anchors)

    @torch.no_grad()
    def generate(self, prompt: str, tokens: int) -> list[int]:
        """Up to `tokens` tokens of the target after `prompt`."""
        codec = self._member.codec
        asked = codec.prompt(prompt)
        cache = DynamicCache(config=self._target.network.config)
        feed, answer = list(asked.ids), list[int]()
        while len(answer) < tokens and not (answer and answer[-1] in codec.end_ids):
            logits_V = _last_logits(self._target.network, feed, cache)
            if int(logits_V.argmax()) not in codec.end_ids:
                logits_V = self._searched(logits_V, self._helped(asked, answer))
            answer.append(int(logits_V.argmax()))
            feed = answer[-1:]
        return answer

    def _helped(self, asked: Prompt, answer: list[int]) -> Tensor:
        """The helper's distribution over its anchors, [1, A]; everything is prefilled again."""
        codec = self._plugin.codec
        written = codec.encode_bytes(asked.lead + self._member.codec.bytes_of(answer)) if asked.lead or answer else ()
        question = plugin_view(asked.question, self._plugin.view)
        logits_V = _last_logits(self._helper.network, [*codec.encode_prompt(question), *written], None)
        return torch.softmax(logits_V[: len(self._helper_VA)], -1)[None] @ self._helper_VA

    def _searched(self, logits_V: Tensor, helped_1A: Tensor) -> Tensor:
        start_V = logits_V[: len(self._target_VA)]
        own_1A = torch.softmax(start_V, -1)[None] @ self._target_VA
        aim_A = (WEIGHT * helped_1A + (1 - WEIGHT) * own_1A)[0]
        return gradient_search(self._target_VA, aim_A, start_V)


def released_deepen(bench: Bench) -> None:
    """A row of `benchmarks.decoding`: this compared with ours, on the target with the smallest matrices."""
    members = {name: member for name, member in bench.decoder.members.items() if isinstance(member.model, LocalModel)}
    needs = {name: dense_bytes(member.pair()) for name, member in members.items()}
    name = min(needs, key=lambda each: needs[each])
    figure = f"ours over DEEPEN as released, dense matrices, {name}, seconds per token"
    if bench.quick and needs[name] > QUICK:
        bench.ratios.skip(f"{figure}: skipped, a short run does not make {needs[name] / 1e9:.1f} GB of matrices")
        return
    free = psutil.virtual_memory().available
    if needs[name] + SPARE > free:
        wanted = f"{needs[name] / 1e9:.1f} GB of matrices and {SPARE / 1e9:.1f} GB beside them are wanted"
        bench.ratios.skip(f"{figure}: skipped, {wanted} and {free / 1e9:.1f} GB are free")
        return
    # If the target's answer is empty, DEEPEN calls no helper and multiplies no matrix.
    prompts = [prompt for prompt in bench.edited if _length_alone(bench, name, prompt) == TOKENS]
    if not prompts:
        bench.ratios.skip(f"{figure}: skipped, {name} alone ends every answer before {TOKENS} tokens")
        return
    slow = DenseDeepen(bench.decoder.plugin, members[name])

    def ratio(turn: int) -> float:
        prompt = prompts[turn % len(prompts)]
        seconds, (answer,) = bench.ours([prompt], TOKENS, name)
        started = time.perf_counter()
        tokens = slow.generate(prompt, TOKENS)
        return (time.perf_counter() - started) / len(tokens) / (seconds / len(answer.token_ids))

    bench.compare(figure, "≥ 10", ratio, min(bench.rounds, ROUNDS))


def _length_alone(bench: Bench, target: str, prompt: str) -> int:
    return len(asyncio.run(bench.decoder.generate(target, prompt, UNEDITED, TOKENS)).token_ids)


def dense(matrix: LiteralMatrix, anchors: int) -> Tensor:
    """The whole literal matrix, [V, A] float32."""
    R_VA = torch.empty(len(matrix), anchors)
    for rows_B, R_BA in matrix.blocks():
        R_VA[rows_B] = R_BA
    return R_VA


def dense_bytes(pair: Pair) -> int:
    """Size of the whole matrices of both sides in bytes."""
    alignment = pair.alignment
    rows = len(alignment.target_literal) + (0 if _are_one(pair) else len(alignment.plugin_literal))
    return 4 * rows * len(alignment.anchors)


def _are_one(pair: Pair) -> bool:
    """Whether both sides have the same embeddings and anchors, and so the same matrix."""
    alignment = pair.alignment
    anchors = alignment.anchors
    return alignment.one_model and torch.equal(anchors.plugin_ids_A, anchors.target_ids_A)


def _last_logits(network: Any, ids: list[int], cache: DynamicCache | None) -> Tensor:
    ids_1T = torch.tensor([ids], device=network.device)
    kept = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
    return network(input_ids=ids_1T, logits_to_keep=1, **kept).logits[0, -1].float()
