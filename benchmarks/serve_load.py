"""The cost of HTTP: `python -m benchmarks.serve_load [--quick]`, with the active version and the run file's models.

Clients ask every target one question after another, edited and unrelated ones alternately. For every number of clients
they use HTTP and, in the same rounds, call the same coordinator directly, so that both are measured under the same
load. Prints a table; writes `serve_load.parquet` and `serve_load.md`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.options import parse, parser_for
from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.config import load_config
from onceedit_ray.editing.run import version_for
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.sampling import GREEDY
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.listening import free_port
from onceedit_ray.serving.logprobs import Piece

CLIENTS = (1, 4, 16)
TOKENS = 16
GOAL_MS = 15.0
"""The goal for the time that HTTP adds to a first token with one client, on two cores."""

Speak = Callable[[GenerationRequest], AsyncGenerator[Piece | GenerationEnd]]


@dataclass(frozen=True)
class Answered:
    """One answer: seconds to its first piece, and to its end; its tokens."""

    first: float
    whole: float
    tokens: int


@dataclass(frozen=True)
class Round:
    """Answers to several concurrent clients, in the order of the questions, and the total seconds."""

    answers: list[Answered]
    seconds: float


def questions(edits: Sequence[Edit], targets: Sequence[str]) -> Iterator[GenerationRequest]:
    """An endless stream of edited and unrelated prompts, alternately, target by target."""
    edited = itertools.cycle(edit.prompt for edit in edits)
    unrelated = itertools.cycle(probe.prompt for edit in edits for probe in edit.locality)
    for number, target in enumerate(itertools.cycle(targets)):
        prompt = next(edited) if number // len(targets) % 2 == 0 else next(unrelated)
        yield GenerationRequest(target, TOKENS, GREEDY, prompt)


async def answered(speak: Speak, asked: GenerationRequest) -> Answered:
    """Ask one question and read its streamed answer."""
    started, first = time.perf_counter(), 0.0
    async with aclosing(speak(asked)) as pieces:
        async for piece in pieces:
            first = first or time.perf_counter() - started
            if isinstance(piece, GenerationEnd):
                return Answered(first, time.perf_counter() - started, piece.completion_tokens)
    raise RuntimeError("an answer was cut off")


async def load(speak: Speak, asked: Sequence[GenerationRequest], clients: int) -> Round:
    """Ask all questions, `clients` at a time."""
    waiting = iter(range(len(asked)))
    found: dict[int, Answered] = {}

    async def client() -> None:
        for number in waiting:
            found[number] = await answered(speak, asked[number])

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Round([found[number] for number in range(len(asked))], time.perf_counter() - started)


def over_http(http: Any, address: str) -> Speak:
    """Ask over HTTP as a client does; parses only the necessary parts of an event."""

    async def speak(asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
        body = {
            "model": asked.target, "prompt": asked.prompt, "max_tokens": asked.max_tokens, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        tokens, reason, told = 0, "length", {}
        async with http.stream("POST", f"{address}/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if not line or line == "data: [DONE]":
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                tokens = chunk.get("usage", {}).get("completion_tokens", tokens)
                for choice in chunk["choices"]:
                    told, reason = choice.get("onceedit", told), choice["finish_reason"] or reason
                    if choice["text"]:
                        yield Piece(choice["text"])
        yield GenerationEnd(reason=reason, prompt_tokens=0, completion_tokens=tokens, **told)

    return speak


async def measure(
    ways: dict[str, Speak], asked: Iterator[GenerationRequest], rounds: int, each: int
) -> list[dict[str, Any]]:
    """The table's lines: both ways for every number of clients, alternately."""
    await load(ways["http"], list(itertools.islice(asked, 8)), 2)
    lines = []
    for clients in CLIENTS:
        found: dict[str, list[Round]] = {way: [] for way in ways}
        for turn in range(rounds):
            put = list(itertools.islice(asked, max(each, 2 * clients)))
            for way in sorted(ways, reverse=bool(turn % 2)):
                found[way].append(await load(ways[way], put, clients))
        lines += [line(way, clients, done, found["direct"]) for way, done in found.items()]
    return lines


def line(way: str, clients: int, rounds: Sequence[Round], direct: Sequence[Round]) -> dict[str, Any]:
    """Figures of one way at one number of clients; the time added to a first token is the median over the questions."""
    answers = [answer for each in rounds for answer in each.answers]
    beside = [answer for each in direct for answer in each.answers]
    firsts = [1e3 * answer.first for answer in answers]
    tokens = [1e3 * (a.whole - a.first) / (a.tokens - 1) for a in answers if a.tokens > 1]
    seconds = sum(each.seconds for each in rounds)
    return {
        "way": way,
        "clients": clients,
        "answers": len(answers),
        "answers_per_second": len(answers) / seconds,
        "tokens_per_second": sum(answer.tokens for answer in answers) / seconds,
        "first_p50_ms": statistics.median(firsts),
        "first_p95_ms": percentile(firsts, 95),
        "added_p50_ms": statistics.median(1e3 * (a.first - b.first) for a, b in zip(answers, beside, strict=True)),
        "token_p50_ms": statistics.median(tokens),
        "token_p95_ms": percentile(tokens, 95),
        "machine": describe_machine(),
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile: `percent` of the values do not exceed it."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The lines as Markdown, and what HTTP added."""
    columns = {
        "answers/s": "answers_per_second", "tokens/s": "tokens_per_second", "first token p50, ms": "first_p50_ms",
        "p95": "first_p95_ms", "per token p50, ms": "token_p50_ms", "p95 ": "token_p95_ms",
    }  # fmt: skip
    rows = [[str(each["clients"]), each["way"], *(f"{each[name]:.1f}" for name in columns.values())] for each in lines]
    added = [f"{each['added_p50_ms']:+.1f} ms at {each['clients']}" for each in lines if each["way"] == "http"]
    said = (
        f"HTTP adds to the first token of the same question (p50): {', '.join(added)} clients; "
        f"the goal is under {GOAL_MS:.0f} ms at 1."
    )
    return "\n".join(
        [markdown_table(["clients", "asked", *columns], rows), "", said, "", f"Machine: {lines[0]['machine']}."]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a Ray and the server, measure, write the table."""
    options = parse(parser_for("serve_load", __doc__, "fewer rounds"), arguments)
    prepare_environment()
    import ray  # after the environment that it reads is set
    from ray import serve

    from onceedit_ray.cluster.remote_backend import RemoteBackend
    from onceedit_ray.cluster.serve import APP_NAME, application
    from onceedit_ray.cluster.serve_args import ServeArgs

    config = load_config(options.config)
    asked = questions(version_for(config).edits(), list(config.targets))
    port = free_port("127.0.0.1", 0)
    rounds, each = (2, 8) if options.quick else (4, 16)
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(ServeArgs(config=options.config.resolve())), name=APP_NAME)

        async def run() -> list[dict[str, Any]]:
            import httpx2

            backend = RemoteBackend(serve.get_deployment_handle("Models", APP_NAME))
            async with httpx2.AsyncClient(trust_env=False, timeout=300) as http:
                ways = {"direct": backend.speak, "http": over_http(http, f"http://127.0.0.1:{port}")}
                return await measure(ways, asked, rounds, each)

        lines = asyncio.run(run())
    finally:
        serve.shutdown()
        ray.shutdown()
    print(table(lines))
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "serve_load.parquet") as path:
        pq.write_table(pa.Table.from_pylist(lines), path)
    with replacing(options.results / "serve_load.md") as path:
        path.write_text(f"# HTTP beside the same coordinator called directly\n\n{table(lines)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
