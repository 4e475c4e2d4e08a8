"""Asks a target at the command line, and prints its answer."""

from __future__ import annotations

import argparse

from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.knowledge.prompt_shapes import wrap
from onceedit_ray.models.sampling import GREEDY
from onceedit_ray.serving.any_target import answer
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest


async def ask(decoder: FusedDecoder, target: str, question: str, options: argparse.Namespace) -> None:
    """Ask one target one question, as `options` of `onceedit generate` say."""
    if target in decoder.servers:
        await _ask_server(decoder, target, question, options)
        return
    codec = decoder.member(target).codec
    prompt = (
        codec.chat_prompt([{"role": "user", "content": question}])
        if options.shape == "chat"
        else codec.prompt(codec.render(question, options.shape))
    )
    strategies = ["unedited", options.strategy] if options.unedited else [options.strategy]
    for strategy in strategies:
        generation = await decoder.generate(target, prompt, strategy, options.max_new_tokens)
        print(f"{target} ({_how(generation)}): {generation.text.strip()}")


async def _ask_server(decoder: FusedDecoder, target: str, question: str, options: argparse.Namespace) -> None:
    messages = ({"role": "user", "content": question},) if options.shape == "chat" else ()
    prompt = "" if messages else wrap(question, options.shape)
    tokens = options.max_new_tokens or decoder.max_new_tokens
    for unedited in (True, False) if options.unedited else (False,):
        piece, end = await answer(
            decoder, GenerationRequest(target, tokens, GREEDY, prompt, messages, unedited=unedited)
        )
        print(f"{target} ({_how(end)}): {piece.text.strip()}")


def _how(answer: Generation | GenerationEnd) -> str:
    if answer.weight is None:
        return "unedited"
    return f"edited once, w = {answer.weight:.3f}{', the target alone' if answer.alone else ''}"
