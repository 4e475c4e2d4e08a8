"""Responses in OpenAI's format, whole and as chunks of a stream.

Each choice has an `onceedit` field in addition to OpenAI's: the target, the plug-in's version, the gate's weight, and
whether the target answered alone; in a stream it is in the chunk that ends the choice. If every target is asked, those
that failed are named in an `onceedit` field of the response, or of a last chunk without choices.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from onceedit_ray.serving.every_target import Failed
from onceedit_ray.serving.generation_request import GenerationEnd
from onceedit_ray.serving.logprobs import Piece, of_chat, of_completion
from onceedit_ray.serving.requests import EVERY


class ResponseWriter:
    """Writes one response.

    Args:
        model: as the request named it. chat: whether it is a chat; else a completion. likely: how many of the most
            likely tokens it asks for at each position; None if it asks for no log probabilities.
    """

    def __init__(self, model: str, chat: bool, likely: int | None = None) -> None:
        self.chat = chat
        self.every = model == EVERY
        self._likely = likely
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answers: Sequence[tuple[Piece, GenerationEnd] | Failed]) -> dict[str, Any]:
        """The response of a request that does not stream."""
        given = [(index, *each) for index, each in enumerate(answers) if not isinstance(each, Failed)]
        choices = [
            self._choice(index, {"message": {"role": "assistant", "content": piece.text}}, piece, ending)
            for index, piece, ending in given
        ]
        kind = "chat.completion" if self.chat else "text_completion"
        counts = usage([ending for _, _, ending in given])
        named = _named([each for each in answers if isinstance(each, Failed)])
        return {**self._head, "object": kind, "choices": choices, "usage": counts, **named}

    def opening(self, index: int) -> dict[str, Any]:
        """The first chunk of a chat's choice, which gives the role."""
        return self._chunk([self._choice(index, {"delta": {"role": "assistant", "content": ""}}, None, None)])

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        """A chunk with more of a choice's text."""
        return self._chunk([self._choice(index, {"delta": {"content": piece.text}}, piece, None)])

    def ending(self, index: int, ending: GenerationEnd) -> dict[str, Any]:
        """The chunk that ends a choice."""
        return self._chunk([self._choice(index, {"delta": {}}, None, ending)])

    def failures(self, failed: Sequence[Failed]) -> dict[str, Any]:
        """The chunk that names the targets that did not answer."""
        return {**self._chunk([]), **_named(failed)}

    def counts(self, endings: Sequence[GenerationEnd]) -> dict[str, Any]:
        """The chunk with the token counts of the whole stream."""
        return {**self._chunk([]), "usage": usage(endings)}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk" if self.chat else "text_completion", "choices": choices}

    def _choice(
        self, index: int, in_chat: dict[str, Any], piece: Piece | None, ending: GenerationEnd | None
    ) -> dict[str, Any]:
        text = in_chat if self.chat else {"text": piece.text if piece else ""}
        choice: dict[str, Any] = {"index": index, **text, "logprobs": self._logprobs(piece)}
        choice["finish_reason"] = ending.reason if ending else None
        if ending:
            choice["onceedit"] = {
                "target": ending.target,
                "version": ending.version,
                "weight": ending.weight,
                "alone": ending.alone,
                "edits": list(ending.edits),
            }
        return choice

    def _logprobs(self, piece: Piece | None) -> dict[str, Any] | None:
        if self._likely is None or piece is None:
            return None
        return of_chat(piece.tokens) if self.chat else of_completion(piece.tokens, self._likely)


def _named(failed: Sequence[Failed]) -> dict[str, Any]:
    if not failed:
        return {}
    return {"onceedit": {"failed": [{"target": each.target, **each.error.body} for each in failed]}}


def usage(endings: Sequence[GenerationEnd]) -> dict[str, int]:
    """Token counts. A prompt is counted once for each of its answers, because each of them reads it."""
    prompt = sum(ending.prompt_tokens for ending in endings)
    completion = sum(ending.completion_tokens for ending in endings)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def model_card(name: str) -> dict[str, Any]:
    """A model as `GET /v1/models` lists it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "onceedit"}
