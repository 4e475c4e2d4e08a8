"""How a request is written: the shapes people send, and the plug-in's own view of them.

The gate only works in the prompt shape it was trained on (algorithm.md §3.7). So the plug-in never sees the shape a
target sees: the user's question is taken out of it (`unwrap`) and put into the plug-in's one view (`plugin_view`).
This module knows strings only: no tokenizer, no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from onceedit_ray.errors import ConfigError

Message = Mapping[str, str]

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

_WRAPPED = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\s*Answer this question:\s*\[Question\]:\s*(.*?)\s*\[Answer\]:\s*",
        r"\s*Complete this half sentence\.\s*\[Half Sentence\]:\s*(.*?)\s*\[Answer\]:\s*",
        r"\s*(?:Q|Question):\s*(.*?)\s*\n\s*(?:A|Answer):\s*",
    )
]

# The last user turn of the chat markups in common use: ChatML, Gemma, Llama 3, Llama 2 / Mistral, Phi, plain text.
_LAST_USER_TURN = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r".*<\|im_start\|>user\s*\n(.*?)(?:<\|im_end\|>.*)?",
        r".*<start_of_turn>user\s*\n(.*?)(?:<end_of_turn>.*)?",
        r".*<\|start_header_id\|>user<\|end_header_id\|>\s*(.*?)(?:<\|eot_id\|>.*)?",
        r".*\[INST\]\s*(?:<<SYS>>.*?<</SYS>>)?\s*(.*?)\s*(?:\[/INST\].*)?",
        r".*<\|user\|>\s*(.*?)(?:<\|end\|>.*|</s>.*|<\|assistant\|>.*)?",
        r"(?:.*\n)?(?:User|Human):\s*(.*?)\s*\n\s*(?:Assistant|AI):\s*",
    )
]


def wrap(question: str, shape: str) -> str:
    """`question` written in a named shape; raises `ConfigError` for an unknown one."""
    try:
        return SHAPES[shape].replace("{x}", question)
    except KeyError:
        raise ConfigError(f"unknown prompt shape '{shape}': known are {', '.join(SHAPES)}") from None


def unwrap(prompt: str) -> str:
    """The user's question inside a prompt of any known shape; a prompt of no known shape is its own question."""
    for pattern in (*_LAST_USER_TURN, *_WRAPPED):
        match = pattern.fullmatch(prompt)
        if match and match[1].strip():
            return unwrap(match[1]) if match[1] != prompt else prompt
    return prompt.strip()


def last_question(messages: Sequence[Message]) -> str:
    """The user's last message of a chat, unwrapped; "" if the user has said nothing."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return unwrap(message.get("content", ""))
    return ""


def plugin_view(question: str, view: str = "short") -> str:
    """The prompt the plug-in sees for a question; raises `ConfigError` for an unknown view.

    The view ends where the answer begins, so an answer is appended with its leading space.
    """
    try:
        template = VIEWS[view]
    except KeyError:
        raise ConfigError(f"unknown plug-in view '{view}': known are {', '.join(VIEWS)}") from None
    return template.replace("{x}", question.strip())
