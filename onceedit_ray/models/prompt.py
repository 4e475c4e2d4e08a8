"""A prompt as the decoder takes it: what the target reads, and what the plug-in is asked.

The gate only works in the prompt shape it was trained on, so target and plug-in never see the same text. `Codec` makes
prompts; this module knows no tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onceedit_ray.knowledge.prompt_shapes import unwrap

QUESTION_CHARS = 2048
"""The end of a user's long text is what the plug-in is asked."""

ENDED = ("?", "!", ":", "？", "。")
"""How a text ends that is answered, not gone on with."""
PLAIN_CHAT_STOPS = ("\n\nQuestion:", "\nQuestion:", "\nAnswer:")
"""What a model writes that goes on with a `plain_chat` by itself after its reply."""

Message = Mapping[str, str]
"""A message of a chat: `role` ("system", "user" or "assistant") and `content`."""


@dataclass(frozen=True)
class Exchange:
    """What the user asked earlier in a chat, and what was replied; each is "" where the chat lacks it."""

    request: str
    reply: str


@dataclass(frozen=True)
class Prompt:
    """A prompt for one target.

    question: what the plug-in is asked. ids: the target's tokens. lead: the bytes that an answer starts with for the
    plug-in alone (`answer_lead`). turns: the exchanges of a chat before the question, the oldest first. system: the
    chat's system messages. continued: the text that the answer goes on with, "" where a question is answered.
    is_chat: whether it was made of a chat's messages.
    """

    question: str
    ids: tuple[int, ...]
    lead: bytes = b""
    turns: tuple[Exchange, ...] = ()
    system: str = ""
    continued: str = ""
    is_chat: bool = False


def text_to_continue(text: str) -> str:
    """The text itself where an answer goes on with it: a half sentence of no known shape; "" for a question."""
    tail = text[-QUESTION_CHARS:]
    return tail if unwrap(tail) == tail.strip() and not tail.rstrip().endswith(ENDED) else ""


def question_of(prompt: str | Prompt) -> str:
    """What the plug-in is asked: of a text in any known shape, the user's question in it."""
    return prompt.question if isinstance(prompt, Prompt) else unwrap(prompt)


def answer_lead(prompt: str) -> bytes:
    """What an answer starts with for the plug-in alone: the space that this prompt already ends with."""
    return b" " if prompt[-1:].isspace() else b""


def last_request(messages: Sequence[Message]) -> int | None:
    """Where in a chat the user's last message stands; None where the user has said nothing."""
    return next((at for at in reversed(range(len(messages))) if messages[at]["role"] == "user"), None)


def exchanges(messages: Sequence[Message]) -> tuple[Exchange, ...]:
    """The exchanges before the user's last message, each request with the reply that follows it."""
    found: list[Exchange] = []
    request: str | None = None
    for message in messages[: last_request(messages) or 0]:
        if message["role"] == "user":
            if request is not None:
                found.append(Exchange(request, ""))
            request = message["content"]
        elif message["role"] == "assistant":
            found.append(Exchange(request or "", message["content"]))
            request = None
    return tuple(found) if request is None else (*found, Exchange(request, ""))


def system_text(messages: Sequence[Message]) -> str:
    """The system messages of a chat, one a paragraph."""
    return "\n\n".join(message["content"] for message in messages if message["role"] == "system")


def plain_chat(messages: Sequence[Message]) -> str:
    """A chat as plain text, for a model without a chat template: it has seen questions with answers, and no markup."""
    forms = {"system": "{}\n\n", "user": "Question: {}\n", "assistant": "Answer: {}\n\n"}
    return "".join(forms[message["role"]].format(message["content"]) for message in messages) + "Answer:"
