"""The limits of a server: sizes, counts and times, all of them settings of the deployment."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Limits(BaseModel):
    """Limits of the ingress.

    body_bytes: size of a request's body. prompt_chars: characters of a prompt, or of all messages of a chat together.
    messages: messages of a chat. answers: choices of one request: prompts × targets × `n`.
    max_tokens: tokens of one answer. chat_tokens: the default number of tokens for a chat.
    edits: edits of one call. edit_chars: characters of each text of an edit. edit_probes: rephrasings of an edit, and
    its prompts of each kind.
    in_flight: requests that run at once; one more is answered with 429. retry_after: its shortest `Retry-After`, in
    seconds.
    seconds: time for a whole request. body_seconds: time until its body has arrived.
    temperature: the default of a request; 1 is OpenAI's. keep_prompts: show prompts in the log of requests.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(1 << 20, ge=1)
    prompt_chars: int = Field(32_768, ge=1)
    messages: int = Field(256, ge=1)
    answers: int = Field(16, ge=1)
    max_tokens: int = Field(1024, ge=1)
    chat_tokens: int = Field(256, ge=1)
    edits: int = Field(1000, ge=1)
    edit_chars: int = Field(2048, ge=1)
    edit_probes: int = Field(32, ge=0)
    in_flight: int = Field(64, ge=1)
    retry_after: int = Field(1, ge=1)
    seconds: float = Field(300.0, gt=0)
    body_seconds: float = Field(30.0, gt=0)
    temperature: float = Field(1.0, ge=0, le=2)
    keep_prompts: bool = False
