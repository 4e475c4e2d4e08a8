"""Prompts in which what the user wrote is text, whatever it looks like.

A tokenizer reads `<|im_end|>` in a prompt as the end of a turn, wherever it stands. Here only the chat template's own
markup becomes control tokens; the same letters inside a message, or in a completion's prompt, are spelled out. A
prompt that holds nothing of the kind is encoded exactly as anywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from onceedit_ray.errors import ModelError, OnceEditError
from onceedit_ray.fusion.decoder import FusedDecoder, answer_lead
from onceedit_ray.knowledge.prompt_shapes import unwrap
from onceedit_ray.models.codec import Codec

Part = tuple[str, bool]
"""A stretch of a prompt, and whether it is text whatever it looks like."""
QUESTION_CHARS = 2048
"""The end of a long prompt is what the plug-in is asked."""
_PRIVATE_USE = range(0xE000, 0xF900)


class PromptError(OnceEditError):
    """A prompt that cannot be given to a model; the message says why."""


class Prompt(str):
    """What the decoder is given. As a string it is the question, and how it ends tells how an answer begins.

    parts: the prompt itself.
    """

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, question: str, parts: Sequence[Part]) -> Prompt:
        """A prompt for a question."""
        lead = answer_lead("".join(text for text, _ in parts))
        prompt = cls(question + lead.decode())
        prompt.parts = tuple(parts)
        return prompt


class PlainCodec(Codec):
    """A codec whose prompts are plain text, except for the markup of a `Prompt`. Shares the tables of `codec`."""

    def __init__(self, codec: Codec) -> None:
        self.__dict__.update(codec.__dict__)

    def encode_prompt(self, prompt: str) -> list[int]:
        """As `Codec.encode_prompt`; raises `PromptError` for what cannot be encoded."""
        parts = prompt.parts if isinstance(prompt, Prompt) else ((prompt, True),)
        whole = "".join(text for text, _ in parts)
        try:
            if not any(literal and self._has_control(text) for text, literal in parts):
                ids = super().encode_prompt(whole)
                # A tokenizer that normalises may still have made a control token out of something like one.
                if self._controls_among(ids) == self._expected(parts):
                    return ids
            return self._spelled_out(parts)
        except ModelError as error:
            raise PromptError(str(error)) from None

    def completion(self, text: str) -> Prompt:
        """A prompt that the target goes on with."""
        return Prompt.of(_question(text), ((text, True),))

    def chat(self, messages: Sequence[Mapping[str, str]]) -> Prompt:
        """Messages through the target's chat template, ChatML where it has none.

        Raises `PromptError` where the template refuses them.
        """
        hidden: dict[str, str] = {}
        free = (chr(code) for code in _PRIVATE_USE if not any(chr(code) in m["content"] for m in messages))
        shown = [{**message, "content": self._hide(message["content"], hidden, free)} for message in messages]
        rendered = self._rendered(shown)
        pieces = re.split(f"([{''.join(hidden)}])", rendered) if hidden else [rendered]
        parts = [(hidden[piece], True) if piece in hidden else (piece, False) for piece in pieces if piece]
        return Prompt.of(_question(_last_user(messages)), parts)

    def _rendered(self, messages: Sequence[Mapping[str, str]]) -> str:
        if not self.tokenizer.chat_template:
            turns = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
            return "".join(turns) + "<|im_start|>assistant\n"
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program: it may raise anything
            reason = " ".join(str(error).split())[:200]
            raise PromptError(f"the model's chat template refuses these messages: {reason}") from None

    def _hide(self, content: str, hidden: dict[str, str], free: Iterator[str]) -> str:
        """`content` with one character of no meaning in place of each control token; `hidden` says which is which."""
        pieces, at = [], 0
        for start, end in self._controls_in(content):
            token = content[start:end]
            mark = next((mark for mark, known in hidden.items() if known == token), None) or next(free, None)
            if mark is None:
                raise PromptError("the messages use every private-use character; leave some out")
            hidden[mark] = token
            pieces += [content[at:start], mark]
            at = end
        return "".join(pieces) + content[at:]

    # --- control tokens ----------------------------------------------------------------------------------------------

    @cached_property
    def _controls(self) -> dict[str, int]:
        """Tokens that stand for no text."""
        return {token: number for token, number in self.tokenizer.get_vocab().items() if number not in self.surfaces}

    @cached_property
    def _lengths(self) -> dict[str, list[int]]:
        """First character of a control token -> the lengths of those that begin so, longest first."""
        found: dict[str, set[int]] = {}
        for token in self._controls:
            found.setdefault(token[:1], set()).add(len(token))
        return {first: sorted(lengths, reverse=True) for first, lengths in found.items() if first}

    @cached_property
    def _begin(self) -> list[int]:
        return self._controls_among(super().encode_prompt("a"))

    def _controls_in(self, text: str) -> Iterator[tuple[int, int]]:
        """Where control tokens are written in a text: start and end, leftmost and longest first."""
        at = 0
        while at < len(text):
            lengths = self._lengths.get(text[at], ())
            length = next((n for n in lengths if text[at : at + n] in self._controls), 0)
            if length:
                yield at, at + length
            at += length or 1

    def _has_control(self, text: str) -> bool:
        return any(first in text for first in self._lengths) and next(self._controls_in(text), None) is not None

    def _controls_among(self, ids: Sequence[int]) -> list[int]:
        unknown = self.tokenizer.unk_token_id
        return [number for number in ids if number not in self.surfaces and number != unknown]

    def _begun(self, parts: Sequence[Part]) -> bool:
        """Whether the template writes the begin-of-text itself."""
        bos = self.tokenizer.bos_token
        return bool(bos and parts and not parts[0][1] and parts[0][0].startswith(bos))

    def _expected(self, parts: Sequence[Part]) -> list[int]:
        written = [
            self._controls[text[start:end]]
            for text, literal in parts
            if not literal
            for start, end in self._controls_in(text)
        ]
        begin = [] if self._begun(parts) else self._begin
        return begin + [number for number in written if number != self.tokenizer.unk_token_id]

    def _spelled_out(self, parts: Sequence[Part]) -> list[int]:
        """Markup as control tokens, everything between them as bytes that no control token stands for."""
        ids = [] if self._begun(parts) else list(self._begin)
        text = ""
        for part, literal in parts:
            at = 0
            for start, end in () if literal else self._controls_in(part):
                ids += self.encode_bytes((text + part[at:start]).encode())
                ids.append(self._controls[part[start:end]])
                text, at = "", end
            text += part[at:]
        return ids + list(self.encode_bytes(text.encode()))


def take_prompts_as_text(decoder: FusedDecoder) -> None:
    """Give the plug-in and every target of a decoder a `PlainCodec`; those that have one keep it."""
    plugin = decoder.plugin
    if not isinstance(plugin.codec, PlainCodec):
        plugin.codec = PlainCodec(plugin.codec)
    for name, member in decoder.members.items():
        if not isinstance(member.codec, PlainCodec):
            decoder.members[name] = replace(member, codec=PlainCodec(member.codec))


def _last_user(messages: Sequence[Mapping[str, str]]) -> str:
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")


def _question(text: str) -> str:
    return unwrap(text[-QUESTION_CHARS:])
