"""An engine that is killed and started again in mid-answer: `python -m benchmarks.engine_kills [--quick]`.

A stand-in for an engine, in a process of its own, is killed before or after the first token of an answer that passes
through, streamed or whole, and started again at once on its port. The ingress runs in this process without Ray, and
calls the engine as it does in Ray Serve. Each request must end with the right text or with one clear error; one that
takes longer than `HUNG` seconds counts as hung. Afterwards the same question is asked until it is answered. Writes
`engine_kills.md`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx2

from benchmarks.options import parse, parser_for
from benchmarks.stand_in_engine import MODEL, WORD, started
from onceedit_ray.config import FusionConfig, ModelConfig
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.models.engines.openai import OpenAIEngine
from onceedit_ray.serving.in_process import InProcess
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.listening import free_port

TARGET, PATH = "engine", "/v1/chat/completions"
TOKENS, RATE = 20, 40.0
QUESTION = {"model": TARGET, "messages": [{"role": "user", "content": "Which river?"}], "max_tokens": TOKENS}
HUNG, BACK = 20.0, 60.0
"""Seconds after which a request counts as hung, and until the target must answer again."""
RIGHT, ERROR, WRONG, HANGS = "right", "one clear error", "wrong", "hung"
DELAY = 0.3
"""Seconds that the engine takes before its first token."""
MOMENTS = {"before the first token": DELAY / 2, "after the first token": DELAY + TOKENS / RATE / 2}
"""Seconds from the request to the kill."""


class Killed:
    """An engine that can be killed, and started again on its port."""

    def __init__(self) -> None:
        self.port = free_port("127.0.0.1", 0)
        self._process = started(self.port, RATE, DELAY)

    def again(self) -> None:
        """Kill it, and start it again."""
        self._process.kill()
        self._process.wait(30)
        self._process = started(self.port, RATE, DELAY)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait(30)


def verdict(status: int, text: str, streamed: bool) -> str:
    """The kind of an answer: the right text, one clear error, or neither."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.strip()] if streamed else [text]
    try:
        items = [json.loads(line) for line in lines if line != "[DONE]"]
    except ValueError:
        return WRONG
    errors = [item["error"] for item in items if "error" in item]
    if errors:
        is_one = len(errors) == 1 and "error" in items[-1] and "\n" not in errors[0]["message"]
        return ERROR if is_one and (status >= 400 or streamed) else WRONG
    choices = [choice for item in items for choice in item["choices"]]
    told = "".join((choice.get("delta") or choice.get("message") or {}).get("content") or "" for choice in choices)
    ended = choices and choices[-1]["finish_reason"] == "length"
    return RIGHT if status == 200 and told == WORD * TOKENS and ended else WRONG


async def one(client: httpx2.AsyncClient, engine: Killed, wait: float, streamed: bool) -> tuple[str, float, float]:
    """Ask while the engine is killed: the outcome, the seconds it took, and those until the target is back."""
    body = {**QUESTION, "stream": streamed}
    await answers(client)
    begun = time.monotonic()
    asking = asyncio.ensure_future(client.post(PATH, json=body))
    await asyncio.sleep(wait)
    await asyncio.to_thread(engine.again)
    restarted = time.monotonic()
    try:
        async with asyncio.timeout(HUNG):
            found = await asking
        told = verdict(found.status_code, found.text, streamed)
    except TimeoutError:
        told = HANGS
    took = time.monotonic() - begun
    await answers(client)
    return told, took, time.monotonic() - restarted


async def answers(client: httpx2.AsyncClient) -> None:
    """Return when the target answers rightly; raises `RuntimeError` if it does not within `BACK` seconds."""
    until = time.monotonic() + BACK
    while time.monotonic() < until:
        found = await client.post(PATH, json=QUESTION)
        if verdict(found.status_code, found.text, False) == RIGHT:
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"the target does not answer {BACK:.0f} s after its engine was started again: {found.text}")


async def measured(times: int) -> list[list[str]]:
    """A row for each moment and kind of answer."""
    engine = Killed()
    plugin: Any = Plugin(None, None, "short", facts=FactsAt.of([]))  # type: ignore[arg-type]  # it is never asked
    decoder = FusedDecoder(plugin, FusionConfig(strategy="selective"))
    config = ModelConfig(engine="openai", url=f"http://127.0.0.1:{engine.port}/v1", model=MODEL)
    decoder.servers[TARGET] = OpenAIEngine(TARGET, config)
    api: Any = build_ingress(InProcess(decoder), Limits(), Keys())
    rows = []
    try:
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(api), base_url="http://127.0.0.1", timeout=None
        ) as client:
            for moment, wait in MOMENTS.items():
                for streamed in (True, False):
                    ends = [await one(client, engine, wait, streamed) for _ in range(times)]
                    found = Counter(told for told, _, _ in ends)
                    rows.append([
                        moment, "streamed" if streamed else "whole",
                        *(str(found[each]) for each in (RIGHT, ERROR, WRONG, HANGS)),
                        f"{max(took for _, took, _ in ends):.1f}",
                        f"{statistics.median(back for _, _, back in ends):.1f}",
                    ])  # fmt: skip
    finally:
        engine.close()
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Kill, measure, write the table."""
    options = parse(parser_for("engine_kills", __doc__, "two kills of each kind"), arguments)
    logging.getLogger("onceedit_ray").setLevel(logging.CRITICAL)  # every failure is intended here
    rows = asyncio.run(measured(2 if options.quick else 20))
    header = ["killed", "answer", RIGHT, ERROR, WRONG, HANGS, "longest, s", "answers again after, s (median)"]
    text = f"{markdown_table(header, rows)}\n\nMachine: {describe_machine()}."
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "engine_kills.md") as path:
        path.write_text(f"# An engine that is killed and started again in mid-answer\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
