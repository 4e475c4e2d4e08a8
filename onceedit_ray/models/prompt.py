"""A prompt for the decoder: the target's tokens, and the question for the plug-in.

The gate only works in the prompt shape it was trained on, so target and plug-in get different texts. `Codec` makes
prompts; this module knows no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onceedit_ray.knowledge.prompt_shapes import unwrap

QUESTION_CHARS = 2048
"""Maximum number of characters of a user's text that the plug-in gets."""
LONG_REQUEST = 800
"""Number of characters from which a message counts as long: it holds a text beside the question."""

ENDED = ("?", "!", ":", "？", "。")
"""Endings of a text that is a question to answer, not a text to continue."""
PLAIN_CHAT_STOPS = ("\n\nQuestion:", "\nQuestion:", "\nAnswer:")
"""Texts that a model writes after its reply when it continues a `plain_chat` by itself."""

Message = Mapping[str, str]
"""A message of a chat: `role` ("system", "user" or "assistant") and `content`."""


@dataclass(frozen=True)
class Exchange:
    """An earlier request of the user in a chat, and its reply; each is "" if the chat lacks it."""

    request: str
    reply: str


@dataclass(frozen=True)
class Prompt:
    """A prompt for one target.

    question: the question for the plug-in. ids: the target's tokens, none for a target that a server has. lead: the
    bytes with which an answer starts for the plug-in only (`answer_lead`). turns: the exchanges of a chat before the
    question, the oldest first. system: the chat's system messages. continued: the text that the answer continues, "" if
    a question is answered. is_chat: whether it was made of a chat's messages. known: tokens with which an answer that
    is made again probably begins; they change no answer. source: the messages or the text that it was made of, None for
    tokens; `Codec.with_note` needs it, and two prompts with the same tokens are equal without it. has_markup: whether
    the markup of that text became control tokens.
    """

    question: str
    ids: tuple[int, ...]
    lead: bytes = b""
    turns: tuple[Exchange, ...] = ()
    system: str = ""
    continued: str = ""
    is_chat: bool = False
    known: tuple[int, ...] = ()
    source: tuple[Message, ...] | str | None = field(default=None, compare=False, repr=False)
    has_markup: bool = field(default=False, compare=False, repr=False)


def messages_with_note(messages: Sequence[Message], note: str) -> list[Message]:
    """A chat with `note` before the user's last request; without a request the note is the user's first message."""
    at = last_request(messages)
    if at is None:
        return [*messages, {"role": "user", "content": note}]
    noted = {**messages[at], "content": f"{note}\n\n{messages[at]['content']}"}
    return [*messages[:at], noted, *messages[at + 1 :]]


def text_with_note(text: str, question: str, note: str) -> str:
    """A text in any shape with `note` before the question in it; before all of it if there is no question."""
    at = max(text.rfind(question), 0) if question else 0
    return f"{text[:at]}{note}\n\n{text[at:]}"


def asking_part(text: str) -> str:
    """The part of a user's message in which a question may stand.

    Of a long message these are its first and its last paragraph and those with a question mark: a question stands
    before or after a text that is pasted, and a small plug-in does not find it among 2,000 characters of other text.
    """
    if len(text) > LONG_REQUEST:
        paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
        last = len(paragraphs) - 1
        asking = [part for at, part in enumerate(paragraphs) if at in (0, last) or re.search("[?？]", part)]
        text = "\n".join(asking)
    if len(text) > QUESTION_CHARS:
        half = QUESTION_CHARS // 2
        text = f"{text[:half]}\n{text[-half:]}"
    return text


def text_to_continue(text: str) -> str:
    """The text itself if an answer continues it, as for a half sentence of no known shape; "" for a question."""
    if unwrap(text) != text.strip() or text.rstrip().endswith(ENDED):
        return ""
    return text[-QUESTION_CHARS:]


def text_for_server(text: str) -> Prompt:
    """A text to continue, for a target whose server encodes it."""
    return Prompt(question_in(text), (), answer_lead(text), continued=text_to_continue(text))


def chat_for_server(messages: Sequence[Message]) -> Prompt:
    """A chat for a target whose server has the chat template."""
    at = last_request(messages)
    question = "" if at is None else asking_part(unwrap(messages[at]["content"]))
    return Prompt(question, (), b" ", exchanges(messages), system_text(messages), is_chat=True)


def question_in(text: str) -> str:
    """The user's question in a text of any known shape: its last `QUESTION_CHARS` characters."""
    return unwrap(text)[-QUESTION_CHARS:]


def question_of(prompt: str | Prompt) -> str:
    """The question for the plug-in: the user's question in a text of any known shape."""
    return prompt.question if isinstance(prompt, Prompt) else unwrap(prompt)


def answer_lead(prompt: str) -> bytes:
    """The bytes with which an answer starts for the plug-in only: a space if this prompt already ends with one."""
    return b" " if prompt[-1:].isspace() else b""


def last_request(messages: Sequence[Message]) -> int | None:
    """The index of the user's last message in a chat; None if there is none."""
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
    """The system messages of a chat, one per paragraph."""
    return "\n\n".join(message["content"] for message in messages if message["role"] == "system")


def plain_chat(messages: Sequence[Message]) -> str:
    """A chat as plain text, for a model without a chat template, which was trained on plain text and not on markup."""
    forms = {"system": "{}\n\n", "user": "Question: {}\n", "assistant": "Answer: {}\n\n"}
    return "".join(forms[message["role"]].format(message["content"]) for message in messages) + "Answer:"


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop strings in a text begins; None if none occurs."""
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=None)
