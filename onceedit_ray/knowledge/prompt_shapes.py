"""Prompt templates: the shapes that users send, and the plug-in's own view of them.

The gate only works in the prompt shape it was trained on (algorithm.md §3.7). So the plug-in does not get the prompt of
the target: the user's question is extracted from it (`unwrap`) and put into the plug-in's view (`plugin_view`). This
module knows strings only: no tokenizer, no model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from onceedit_ray.errors import ConfigError

SHAPES: dict[str, str] = {
    "raw": "{x}",
    "qa": "Q: {x}\nA:",
    "template": "Answer this question:\n[Question]: {x}\n[Answer]:",
    "chat": "<|im_start|>user\n{x}<|im_end|>\n<|im_start|>assistant\n",
}
"""Prompt shapes by name. `chat` is ChatML, for models that bring no chat template of their own."""

VIEWS: dict[str, str] = {
    "short": "Question: {x}\nAnswer:",
    "question": "Answer this question:\n[Question]: {x}\n[Answer]:",
    "completion": "Complete this half sentence.\n [Half Sentence]: {x}\n[Answer]:",
}
"""The plug-in's views. `question` and `completion` are the paper's (Appendix A) for ZsRE and CounterFact."""

MOST_LAYERS = 8
"""Shapes inside shapes that `unwrap` takes off one after another."""

# Each expression below is anchored or begins with a literal word, and none has two repetitions that can match the same
# characters. So the search takes time linear in any prompt.

# A shape around the whole prompt: what it begins with, what it ends with, and whether the end has a line of its own.
_AROUND = (
    (re.compile(r"Answer this question:\s*\[Question\]:"), ("[Answer]:",), False),
    (re.compile(r"Complete this half sentence\.\s*\[Half Sentence\]:"), ("[Answer]:",), False),
    (re.compile(r"Q:|Question:"), ("A:", "Answer:"), True),
)
# A chat template writes markup first: a begin-of-text, a system turn or the user's.
_MARKUP = re.compile(r"<[^<>\s]+>|\[\w+\]")
# The user's turn in the chat markups in common use, and what ends it: ChatML, Gemma, Llama 3, Llama 2 / Mistral, Phi.
_TURNS = (
    (re.compile(r"<\|im_start\|>user\s*\n"), re.compile(r"<\|im_end\|>")),
    (re.compile(r"<start_of_turn>user\s*\n"), re.compile(r"<end_of_turn>")),
    (re.compile(r"<\|start_header_id\|>user<\|end_header_id\|>"), re.compile(r"<\|eot_id\|>")),
    (re.compile(r"\[INST\](?:\s*<<SYS>>)?"), re.compile(r"\[/INST\]")),
    (re.compile(r"<\|user\|>"), re.compile(r"<\|end\|>|</s>|<\|assistant\|>")),
)
_OPENS_ANSWER = ("[/INST]", "<|assistant|>")
_SYSTEM_END = "<</SYS>>"
_SPEAKER = re.compile(r"^(?:User|Human):", re.MULTILINE)
_ANSWERERS = ("Assistant:", "AI:")


def wrap(question: str, shape: str) -> str:
    """`question` written in a named shape; raises `ConfigError` for an unknown one."""
    try:
        return SHAPES[shape].replace("{x}", question)
    except KeyError:
        raise ConfigError(f"unknown prompt shape '{shape}': known are {', '.join(SHAPES)}") from None


def unwrap(prompt: str) -> str:
    """The user's question inside a prompt of any known shape; a prompt of no known shape is its own question.

    Only a shape around the whole prompt is taken off: markup that a sentence mentions is a part of the question. Takes
    time linear in the prompt.
    """
    for _ in range(MOST_LAYERS):
        inside = next((found for found in _insides(prompt) if found.strip()), None)
        if inside is None:
            break
        prompt = inside
    return prompt.strip()


def _insides(prompt: str) -> Iterator[str]:
    """The content of each known shape that the prompt has."""
    if (turn := _last_turn(prompt.strip())) is not None:
        yield turn
    if (body := _before_line(prompt, _ANSWERERS)) is not None and (speaker := _last(_SPEAKER, body)):
        yield body[speaker.end() :].strip()
    text = prompt.strip()
    for head, tails, own_line in _AROUND:
        begun = head.match(text)
        if begun and own_line:
            body = _before_line(text, tails)
        else:
            body = next((text.removesuffix(tail) for tail in tails if text.endswith(tail)), None)
        if begun and body is not None:
            yield body[begun.end() :].strip()


def _last_turn(text: str) -> str | None:
    """The user's last turn in a chat; None where the text is no chat in one of the known markups.

    A chat begins with markup, closes its first turn, and has only markup or an answer behind its last one.
    """
    begun = [(found.start(), turn) for turn in _TURNS if (found := turn[0].search(text))] if _MARKUP.match(text) else []
    if not begun:
        return None
    opening, closing = min(begun, key=lambda each: each[0])[1]
    last, rest, at = None, "", 0
    while found := opening.search(text, at):
        start = _after_system(found, text)
        end = closing.search(text, start)
        if end is None:
            return None if last is None else text[start:].strip()
        last, at = text[start : end.start()].strip(), end.end()
        rest = "" if end[0] in _OPENS_ANSWER else text[at:].lstrip()
    return last if not rest or _MARKUP.match(rest) else None


def _after_system(opening: re.Match[str], text: str) -> int:
    """Where a turn's own text begins: behind the system prompt at its beginning."""
    if not opening[0].endswith("<<SYS>>"):
        return opening.end()
    end = text.find(_SYSTEM_END, opening.end())
    return end + len(_SYSTEM_END) if end >= 0 else opening.start() + len("[INST]")


def _before_line(text: str, endings: Sequence[str]) -> str | None:
    """What comes before the last line, if the line is one of `endings`; None where it is not."""
    text = text.rstrip()
    for ending in endings:
        before = text.removesuffix(ending)
        body = before.rstrip()
        if before != text and "\n" in before[len(body) :]:
            return body
    return None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for last in pattern.finditer(text):  # noqa: B007
        pass
    return last


def plugin_view(question: str, view: str = "short") -> str:
    """The prompt the plug-in sees for a question; raises `ConfigError` for an unknown view.

    The view ends where the answer begins, so an answer is appended with its leading space. The question is composed
    (NFC), as edits are: spellings that look alike are one question.
    """
    try:
        template = VIEWS[view]
    except KeyError:
        raise ConfigError(f"unknown plug-in view '{view}': known are {', '.join(VIEWS)}") from None
    return template.replace("{x}", unicodedata.normalize("NFC", question.strip()))
