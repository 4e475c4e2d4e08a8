"""Mixed load on a served fleet, for `benchmarks.chaos`: clients that ask, some of which leave, and one that edits.

Every request ends as one of `ENDS`. Whether an answered text is right is checked afterwards, by decoding the same
request in one process with the version that the answer names.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2

from onceedit_ray.config import RunConfig
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.models.sampling import GREEDY, Sampling
from onceedit_ray.serving.generation import answer
from onceedit_ray.serving.generation_request import GenerationRequest

End = Literal["answered", "refused", "broken off", "unreadable", "hung", "left"]
ENDS: tuple[End, ...] = ("answered", "refused", "broken off", "unreadable", "hung", "left")
"""refused: one error in OpenAI's format. broken off: the connection ended without an error, as when the HTTP server
itself is killed. unreadable: an error in another format. hung: no end within the server's limit. left: by the client.
"""
SECONDS = 60.0
"""The server's limit for a request in this benchmark."""
GRACE_SECONDS = 15.0
TOKENS = (8, 24, 48)
POLL_SECONDS = 0.3
MOST_LIVE = 6
"""Edits of the run that are live at once: more would only make each version take longer."""


@dataclass(frozen=True)
class Question:
    """A completion. seed: of the sampled ones; None is greedy."""

    target: str
    prompt: str
    tokens: int
    seed: int | None
    streamed: bool

    @property
    def body(self) -> dict[str, Any]:
        """The request's JSON."""
        body: dict[str, Any] = {"model": self.target, "prompt": self.prompt, "max_tokens": self.tokens}
        sampled = {"temperature": 0} if self.seed is None else {"temperature": 0.8, "seed": self.seed}
        return body | sampled | {"stream": self.streamed}

    @property
    def asked(self) -> GenerationRequest:
        """The same request without HTTP."""
        sampling = GREEDY if self.seed is None else Sampling(0.8, 1.0, self.seed)
        return GenerationRequest(self.target, self.tokens, sampling, self.prompt)


@dataclass(frozen=True)
class Outcome:
    """How a request ended. text, version: of an answer. said: the error's code, or the fault of the connection."""

    question: Question
    end: End
    seconds: float
    text: str = ""
    version: str = ""
    said: str = ""


@dataclass
class Clients:
    """Clients that ask one question after another until `ending`.

    prompts: edited and unrelated ones. leaving: the share of streams that their client leaves. pieces: pieces of
    streams that have arrived at all clients.
    """

    address: str
    targets: Sequence[str]
    prompts: Sequence[str]
    leaving: float
    outcomes: list[Outcome] = field(default_factory=list)
    pieces: int = 0
    ending: bool = False

    async def run(self, count: int, seed: int) -> None:
        """Run `count` clients."""
        limits = httpx2.Limits(max_connections=count + 8)
        async with httpx2.AsyncClient(base_url=self.address, trust_env=False, timeout=None, limits=limits) as http:
            await asyncio.gather(*(self._client(http, random.Random(f"{seed} {number}")) for number in range(count)))

    async def _client(self, http: httpx2.AsyncClient, draw: random.Random) -> None:
        while not self.ending:
            seed = draw.randrange(1000) if draw.random() < 0.25 else None
            question = Question(
                draw.choice(list(self.targets)), draw.choice(list(self.prompts)), draw.choice(TOKENS), seed,
                draw.random() < 0.6,
            )  # fmt: skip
            leaves_after = draw.randrange(1, 6) if draw.random() < self.leaving else None
            outcome = await self.ask(http, question, leaves_after)
            self.outcomes.append(outcome)
            if outcome.end not in ("answered", "left"):
                await asyncio.sleep(0.2)

    async def ask(self, http: httpx2.AsyncClient, question: Question, leaves_after: int | None = None) -> Outcome:
        """Ask once. leaves_after: pieces after which the client leaves a stream."""
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(SECONDS + GRACE_SECONDS):
                end, text, version, said = await self._answer(http, question, leaves_after)
        except TimeoutError:
            end, text, version, said = "hung", "", "", ""
        except httpx2.TransportError as error:
            end, text, version, said = "broken off", "", "", type(error).__name__
        return Outcome(question, end, time.perf_counter() - begun, text, version, said)

    async def _answer(
        self, http: httpx2.AsyncClient, question: Question, leaves_after: int | None
    ) -> tuple[End, str, str, str]:
        if not question.streamed:
            response = await http.post("/v1/completions", json=question.body)
            if response.status_code != 200:
                return _refused(response.text)
            (choice,) = response.json()["choices"]
            return "answered", choice["text"], choice["onceedit"]["version"], ""
        text, version, pieces = "", "", 0
        async with http.stream("POST", "/v1/completions", json=question.body) as streamed:
            if streamed.status_code != 200:
                return _refused((await streamed.aread()).decode(errors="replace"))
            async for line in streamed.aiter_lines():
                if line == "data: [DONE]":
                    return "answered", text, version, ""
                if not line:
                    continue
                try:
                    event = json.loads(line.removeprefix("data: "))
                except ValueError:
                    return "unreadable", text, version, line[:80]
                if "error" in event:
                    return _refused(line.removeprefix("data: "))
                for choice in event["choices"]:
                    text += choice["text"]
                    version = choice.get("onceedit", {}).get("version", version)
                self.pieces += 1
                pieces += 1
                if leaves_after is not None and pieces >= leaves_after:
                    return "left", text, version, ""
        return "broken off", text, version, "the stream was cut"


def _refused(body: str) -> tuple[End, str, str, str]:
    try:
        error = json.loads(body)["error"]
        readable = set(error) == {"message", "type", "param", "code"}
    except (ValueError, KeyError, TypeError):
        readable = False
    return ("refused", "", "", str(error["code"])) if readable else ("unreadable", "", "", body[:80])


async def wrong_answers(
    outcomes: Sequence[Outcome], config: RunConfig, store: KnowledgeStore
) -> list[tuple[Outcome, str]]:
    """The answers that differ from those of one process, for the version that each names; and those of that process."""
    given = [outcome for outcome in outcomes if outcome.end == "answered"]
    wrong: list[tuple[Outcome, str]] = []
    for version in sorted({outcome.version for outcome in given}):
        known = [v for v in store.versions() if v.id == version]
        if not known:
            wrong += [(outcome, "there is no such version") for outcome in given if outcome.version == version]
            continue
        decoder = open_decoder(config, known[0].path)
        texts: dict[GenerationRequest, str] = {}
        for outcome in (outcome for outcome in given if outcome.version == version):
            asked = outcome.question.asked
            if asked not in texts:
                texts[asked] = await _text(decoder, asked)
            if texts[asked] != outcome.text:
                wrong.append((outcome, texts[asked]))
    return wrong


def request_table(outcomes: Sequence[Outcome], wrong: Sequence[tuple[Outcome, str]]) -> str:
    """How many requests ended in each way, and how many answers were sampled, as Markdown."""
    ends = Counter(outcome.end for outcome in outcomes)
    differ = Counter(outcome.question.seed is None for outcome, _ in wrong)
    rows = [
        ["right", str(ends["answered"] - len(wrong))],
        ["wrong, greedy", str(differ[True])],
        ["wrong, sampled", str(differ[False])],
        *([end, str(ends[end])] for end in ENDS if end != "answered"),
    ]
    sampled = sum(outcome.question.seed is not None for outcome in outcomes if outcome.end == "answered")
    table = markdown_table(["requests", str(len(outcomes))], rows, 1)
    return f"{table}\n\n{sampled} of the answers were sampled with a seed."


async def _text(decoder: FusedDecoder, asked: GenerationRequest) -> str:
    piece, _ = await answer(decoder, asked)
    return piece.text


@dataclass
class Editor:
    """One client that makes and deletes edits until `ending`, one call after another.

    pool: the edits to make. accepted: by id of an accepted edit, the state that it should have: "live", "deleted", or
    "refused" as the server said. settled: calls whose edits have reached a final state. stuck: calls that have not
    within `wait` seconds. busy: whether a call is under way.
    """

    address: str
    pool: Sequence[Edit]
    seed: int
    wait: float = 600.0
    accepted: dict[str, str] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    settled: int = 0
    stuck: int = 0
    busy: bool = False
    ending: bool = False

    async def run(self) -> None:
        """Edit."""
        draw, waiting = random.Random(f"{self.seed} edits"), list(self.pool)
        async with httpx2.AsyncClient(base_url=self.address, trust_env=False, timeout=30) as http:
            while not self.ending:
                live = [id for id, state in self.accepted.items() if state == "live"]
                deletes = len(live) > 1 and (not waiting or len(live) > MOST_LIVE or draw.random() < 0.4)
                if not deletes and not waiting:
                    return
                self.busy = True
                try:
                    async with asyncio.timeout(self.wait):
                        await (self._delete(http, draw.choice(live)) if deletes else self._make(http, waiting.pop()))
                    self.settled += 1
                except TimeoutError:
                    self.stuck += 1
                self.busy = False

    async def _make(self, http: httpx2.AsyncClient, edit: Edit) -> None:
        batch = await _taken(lambda: http.post("/v1/edits", json=edit.model_dump()))
        for made in batch["data"]:
            self.accepted[made["id"]] = "live"
            if (found := await _final(http, made["id"], ("live", "refused")))["status"] == "refused":
                self.accepted[made["id"]] = "refused"
                self.reasons.append(found["reason"])

    async def _delete(self, http: httpx2.AsyncClient, id: str) -> None:
        await _taken(lambda: http.delete(f"/v1/edits/{id}"))
        self.accepted[id] = "deleted"
        await _final(http, id, ("deleted",))

    async def settled_all(self) -> None:
        """Wait until the edits that were given up while processes died have a final state."""
        async with httpx2.AsyncClient(base_url=self.address, trust_env=False, timeout=30) as http:
            for id in self.accepted:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.wait):
                        await _final(http, id, ("live", "refused", "deleted"))

    async def verdict(self, active: Sequence[Edit], before: Sequence[Edit]) -> Counter[str]:
        """How many accepted edits ended "live", "deleted", "refused" or "lost".

        active: the edits of the active version. before: those that were live at the start. An edit is lost if the
        server's list or the active version does not show the state that it should have, after `settled_all`.
        """
        found: Counter[str] = Counter()
        async with httpx2.AsyncClient(base_url=self.address, trust_env=False, timeout=30) as http:
            for id, state in self.accepted.items():
                view = await _taken(lambda id=id: http.get(f"/v1/edits/{id}"))  # type: ignore[misc]
                if state == "live" and view["status"] == "refused":  # after the editor had given it up
                    self.reasons.append(view["reason"])
                    state = "refused"
                if view["status"] != state:
                    print(f"{view} is to be {state}")
                is_known = any(edit.prompt == view["prompt"] for edit in active)
                found[state if view["status"] == state and is_known == (state == "live") else "lost"] += 1
        found["lost"] += sum(edit not in active for edit in before)
        return found


async def _taken(call: Callable[[], Awaitable[httpx2.Response]]) -> dict[str, Any]:
    """The answer of a call that is made again until it succeeds."""
    while True:
        try:
            response = await call()
            if response.status_code < 300:
                taken: dict[str, Any] = response.json()
                return taken
        except httpx2.TransportError:
            pass
        await asyncio.sleep(POLL_SECONDS)


async def _final(http: httpx2.AsyncClient, id: str, states: Sequence[str]) -> dict[str, Any]:
    while (found := await _taken(lambda: http.get(f"/v1/edits/{id}")))["status"] not in states:
        await asyncio.sleep(POLL_SECONDS)
    return found
