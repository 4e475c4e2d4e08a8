"""Requests for targets that servers have: bodies of OpenAI's API that are passed on, and not checked field by field.

Only what the plug-in reads along is taken from a body: its prompt. The server checks all other fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onceedit_ray.errors import PromptError
from onceedit_ray.models.prompt import Prompt, chat_for_server, text_for_server
from onceedit_ray.serving.generation_request import GenerationRequest

EXTENSION = "onceedit"
"""The field of a body that is for this system only."""
CHAT_PATH, TEXT_PATH = "chat/completions", "completions"
ROUTES = {f"/v1/{path}": path for path in (CHAT_PATH, TEXT_PATH)}
"""The routes of requests that a server's target may get, with their path below its address."""
ROLES = {"developer": "system", "function": "tool"}
MOST_CHOICES = 128
"""OpenAI's limit of `n`."""
SEEDS = 2**31
"""Seeds are below this number: servers hold them in 32 bits."""


@dataclass(frozen=True)
class EngineRequest:
    """A request for one choice. target: who answers. body: as the client sent it. unedited: answered without edits."""

    target: str
    body: Mapping[str, Any]
    unedited: bool = False

    @property
    def path(self) -> str:
        """Below the server's url."""
        return CHAT_PATH if "messages" in self.body else TEXT_PATH

    @property
    def prompt(self) -> Prompt | None:
        """What the plug-in reads; None for a request that it cannot read along."""
        return prompt_of(self.body)


def prompt_of(body: Mapping[str, Any]) -> Prompt | None:
    """The prompt of a request for one choice. None where the plug-in cannot read along: token ids, an echo, a text to
    fill in, or messages without a known form.
    """
    if "messages" in body:
        messages = body["messages"]
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return None
        plain = [_plain(message) for message in messages]
        return chat_for_server([message for message in plain if message["role"] in ("system", "user", "assistant")])
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt or body.get("echo") or body.get("suffix"):
        return None
    return text_for_server(prompt)


def choices_of(asked: EngineRequest) -> list[EngineRequest]:
    """A request for each choice: prompt by prompt, `n` of each."""
    body = {key: value for key, value in asked.body.items() if key not in ("n", "best_of")}
    prompt, n, seed = body.get("prompt"), asked.body.get("n"), body.get("seed")
    several = isinstance(prompt, list) and all(isinstance(each, str | list) for each in prompt)
    prompts = prompt if several and isinstance(prompt, list) else [prompt]
    out = []
    for each in prompts:
        for number in range(min(max(n, 1), MOST_CHOICES) if isinstance(n, int) else 1):
            own = body if "messages" in body else {**body, "prompt": each}
            if number and isinstance(seed, int):
                own = {**own, "seed": seed + number}
            out.append(replace(asked, body=own))
    return out


def body_of(asked: GenerationRequest) -> dict[str, Any]:
    """The body of a request to all targets, whose fields were checked here.

    Raises `PromptError` for what a server gives only if its target is asked by name.
    """
    if asked.logprobs is not None or asked.echo or not isinstance(asked.prompt, str):
        raise PromptError(f"'{asked.target}' gives log probabilities, echoes and token ids only if asked by its name")
    sampling = asked.sampling
    body: dict[str, Any] = {
        "max_tokens": asked.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if not sampling.greedy:
        body["seed"] = sampling.seed % SEEDS
    if asked.stop:
        body["stop"] = list(asked.stop)
    if asked.messages:
        return {"messages": [dict(message) for message in asked.messages], **body}
    return {"prompt": asked.prompt, **body}


def _plain(message: Mapping[str, Any]) -> dict[str, str]:
    """Role and text of a message; only the server reads images and tool calls."""
    content = message.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        parts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
        content = "\n".join(text for text in parts if isinstance(text, str))
    role = str(message.get("role"))
    return {"role": ROLES.get(role, role), "content": content if isinstance(content, str) else ""}
