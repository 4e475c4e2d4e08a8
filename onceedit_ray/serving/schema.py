"""Requests in OpenAI's shape. Types are strict, unknown arguments are refused as OpenAI refuses them.

An argument of OpenAI's that is not supported is accepted with a value that has no effect, since clients send such
values by default. Any other value is refused: ignoring it would give a wrong answer. Labels and hints, which change no
answer of OpenAI's either, are accepted with any value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, field_validator, model_validator

Finite = Annotated[float, Field(allow_inf_nan=False)]
Temperature = Annotated[Finite, Field(ge=0, le=2)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Penalty = Annotated[Finite, Field(ge=-2, le=2)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]

TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Label = Annotated[str, Field(max_length=512)]

MOST_STOPS = 16
"""OpenAI takes 4; evaluation harnesses send a few more."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
    "logit_bias": (None, {}),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
    "store": (None, False),
    "service_tier": (None, "auto", "default"),
}
"""Arguments that are not supported, each with its values that have no effect."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Strict):
    """include_usage: a last event with the token counts. include_obfuscation: nothing here is obfuscated."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Extension(_Strict):
    """What only this server understands, the `onceedit` field of a request."""

    unedited: bool = Field(False, description="Let the target answer alone, as it did before any edit")


class _Request(_Strict):
    model: str = Field(min_length=1, max_length=256, description="A served model, or '*' for all of them")
    max_tokens: Count | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    seed: Seed | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Label | None = None
    metadata: Annotated[dict[str, Label], Field(max_length=16)] | None = None
    store: bool | None = None
    service_tier: str | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    onceedit: Extension | None = Field(None, description="What goes beyond OpenAI's API")

    @field_validator(*NEUTRAL, check_fields=False)
    @classmethod
    def _asks_for_nothing(cls, value: Any, info: Any) -> Any:
        neutral = NEUTRAL[info.field_name]
        if not any(value == allowed and type(value) is type(allowed) for allowed in neutral):
            raise ValueError(f"'{info.field_name}' is not supported here; leave it out")
        return value

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> _Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("'stream_options' is for streams; set 'stream' to true or leave it out")
        return self

    @property
    def unedited(self) -> bool:
        """Whether the targets are to answer alone."""
        return self.onceedit is not None and self.onceedit.unedited

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1)]
    ) = Field(description="A text, the numbers of its tokens, or several of either")
    max_tokens: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """The prompts, one at least: texts, or token ids of the model that is asked."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [tuple(token for token in self.prompt if isinstance(token, int))]
        return [each if isinstance(each, str) else tuple(each) for each in self.prompt if not isinstance(each, int)]

    @property
    def likely(self) -> int | None:
        """How many of the most likely tokens to return for each token; None returns no log probabilities."""
        return self.logprobs


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """A message to the model; `developer` is another name for `system`."""

    role: Literal["system", "developer", "user"]
    content: str | list[TextPart]
    name: Annotated[str, Field(max_length=64)] | None = None

    @property
    def plain(self) -> dict[str, str]:
        """Role and content as a chat template takes them."""
        return {"role": "system" if self.role == "developer" else self.role, "content": _text(self.content)}


class Reply(_Strict):
    """An earlier answer of the model. `model_dump()` of OpenAI's library adds the fields that are empty here."""

    role: Literal["assistant"]
    content: str | list[TextPart] | None = None
    name: Annotated[str, Field(max_length=64)] | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    reasoning_content: str | None = None

    @property
    def plain(self) -> dict[str, str]:
        """As `Message.plain`."""
        return {"role": self.role, "content": _text(self.content if self.content is not None else self.refusal or "")}


def _text(content: str | Sequence[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Annotated[Message | Reply, Discriminator("role")]], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None

    @model_validator(mode="after")
    def _top_of_logprobs(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("'top_logprobs' needs 'logprobs'; set it to true or leave both out")
        return self

    @property
    def likely(self) -> int | None:
        """As `CompletionRequest.likely`."""
        return (self.top_logprobs or 0) if self.logprobs else None
