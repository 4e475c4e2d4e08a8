"""Control tokens in a text: their positions, and texts in which placeholders replace them.

A tokenizer reads `<|im_end|>` anywhere in a prompt as the end of a turn. User text must stay text, so only the markup
of a chat template may become control tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from onceedit_ray.errors import PromptError
from onceedit_ray.models.prompt import Message

Part = tuple[str, bool]
"""A part of a prompt, and whether it is user text, in which markup has no meaning."""
_PRIVATE_USE = range(0xE000, 0xF900)


class ControlTokens:
    """Tokens that represent no text.

    Args:
        numbers: the tokens' names and numbers.
    """

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self.numbers = numbers
        lengths: dict[str, set[int]] = {}
        for token in numbers:
            lengths.setdefault(token[:1], set()).add(len(token))
        # First character -> the lengths of the tokens that begin so, longest first.
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items() if first}

    def places(self, text: str) -> Iterator[tuple[int, int]]:
        """The positions of control tokens in a text: start and end, leftmost and longest first."""
        at = 0
        while at < len(text):
            lengths = self._lengths.get(text[at], ())
            length = next((n for n in lengths if text[at : at + n] in self.numbers), 0)
            if length:
                yield at, at + length
            at += length or 1

    def occur(self, text: str) -> bool:
        """Whether a text contains the spelling of a control token."""
        return any(first in text for first in self._lengths) and next(self.places(text), None) is not None

    def written(self, parts: Sequence[Part]) -> list[int]:
        """The control tokens of the parts that are markup."""
        return [
            self.numbers[text[start:end]] for text, literal in parts if not literal for start, end in self.places(text)
        ]


def rendered(
    messages: Sequence[Message], render: Callable[[Sequence[Message]], str], controls: ControlTokens
) -> list[Part]:
    """A chat rendered by its template, as parts: markup of the template, and user text.

    Raises `PromptError` if the messages use every private-use character.
    """
    hidden: dict[str, str] = {}
    free = (chr(code) for code in _PRIVATE_USE if not any(chr(code) in m["content"] for m in messages))
    shown = [{**message, "content": _hide(message["content"], hidden, free, controls)} for message in messages]
    text = render(shown)
    pieces = re.split(f"([{''.join(hidden)}])", text) if hidden else [text]
    return [(hidden[piece], True) if piece in hidden else (piece, False) for piece in pieces if piece]


def _hide(content: str, hidden: dict[str, str], free: Iterator[str], controls: ControlTokens) -> str:
    """`content` with a private-use character in place of each control token; `hidden` maps them back."""
    pieces, at = [], 0
    for start, end in controls.places(content):
        token = content[start:end]
        mark = next((mark for mark, known in hidden.items() if known == token), None) or next(free, None)
        if mark is None:
            raise PromptError("the messages use every private-use character; leave some out")
        hidden[mark] = token
        pieces += [content[at:start], mark]
        at = end
    return "".join(pieces) + content[at:]
