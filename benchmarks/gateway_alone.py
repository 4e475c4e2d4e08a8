"""What the gateway's own code costs a request about no edit: `python -m benchmarks.gateway_alone [--quick]`.

The gateway's ASGI application, with its screen over 10,000 edits and its metrics, runs under uvicorn in a process of
its own, without Ray, before a stand-in for an engine. The benchmark measures its processor time for whole answers of
one token and for each token of streams, and the requests a second of 32 clients. `pass_through` measures the whole
system.

`--beside FOLDER` measures the gateway of another checkout, too, round by round in turn: on a machine that does other
work, compare those two alone. Writes `gateway_alone.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx2
import psutil
import uvicorn

from benchmarks.http_load import asked_by
from benchmarks.live_edit import FILES, edits_of
from benchmarks.options import parse, parser_for
from benchmarks.pass_through import EDITS, GENERAL, PATH, RATE, TARGET, TOKENS, bodies, index_of, screened
from benchmarks.stand_in_engine import running
from onceedit_ray.cluster.telemetry import Metrics
from onceedit_ray.config import ModelConfig
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.fusion.candidates import names_a_fact
from onceedit_ray.knowledge.prompt_files import read_prompts
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.listening import free_port

CLIENTS, STREAMS = 32, 8
GATEWAY = "--gateway"
START_SECONDS = 600.0


class Screening:
    """The part of a `Backend` that requests about no edit use: the copies that a gateway's replica keeps."""

    knowledge = None

    def __init__(self, url: str, paced: str, edits: int) -> None:
        self._facts = index_of(edits_of(FILES, 1)[0][:edits])
        urls = {"fast": url, TARGET: paced}
        self._served = {name: ModelConfig(model="auto", engine="openai", url=url) for name, url in urls.items()}

    async def targets(self) -> Sequence[str]:
        return list(self._served)

    async def mentioned(self, prompt: Prompt) -> bool:
        return names_a_fact(self._facts, prompt.question, prompt.turns)

    async def served(self) -> Mapping[str, ModelConfig]:
        return self._served

    async def probe(self) -> dict[str, str]:
        return {}


def serve(port: int, url: str, paced: str, edits: int) -> None:
    """The gateway's process."""
    backend = Screening(url, paced, edits)
    api = build_ingress(backend, Limits(in_flight=512), Keys(), observers=[Metrics()], behind_proxy=True)  # type: ignore[arg-type]
    uvicorn.run(api, host="127.0.0.1", port=port, log_level="warning", access_log=False)


@contextlib.contextmanager
def gateway(folder: Path, url: str, paced: str, edits: int) -> Iterator[tuple[str, psutil.Process]]:
    """The address and process of the gateway of a checkout, while the block runs."""
    port = free_port("127.0.0.1", 0)
    command = [sys.executable, "-P", __file__, GATEWAY, str(port), url, paced, str(edits)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(folder)}, cwd=folder)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                httpx2.get(f"{address}/health", trust_env=False)
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the gateway of {folder} did not start")
            time.sleep(0.2)
        yield address, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait(30)


async def measured(
    address: str, process: psutil.Process, prompts: Sequence[str], requests: int
) -> tuple[float, float, float]:
    """Processor time of a request and of a token of a stream, in ms, and requests a second."""

    def used() -> float:
        return sum(process.cpu_times()[:2])

    begun, before = time.perf_counter(), used()
    await asked_by(address, PATH, CLIENTS, bodies(prompts, requests, "fast", max_tokens=1))
    between, seconds = used(), time.perf_counter() - begun
    streams = max(requests // 20, STREAMS)
    await asked_by(address, PATH, STREAMS, bodies(prompts, streams, TARGET, max_tokens=TOKENS, stream=True))
    return 1e3 * (between - before) / requests, 1e3 * (used() - between) / streams / TOKENS, requests / seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a stand-in and the gateways, measure, write the table."""
    parser = parser_for("gateway_alone", __doc__, "fewer requests and rounds")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="another checkout, measured in turn")
    options = parse(parser, arguments)
    rounds, requests = (2, 200) if options.quick else (5, 600)
    prompts, lookups = screened(index_of(edits_of(FILES, 1)[0][:EDITS]), list(read_prompts(GENERAL)))
    folders = {"this checkout": Path(__file__).parents[1]}
    if options.beside is not None:
        folders = {"the other checkout": options.beside.resolve(), **folders}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in folders}
    with running(0) as (url, _), running(RATE) as (paced, _), contextlib.ExitStack() as stack:
        gateways = {name: stack.enter_context(gateway(folder, url, paced, EDITS)) for name, folder in folders.items()}

        async def run() -> None:
            for number in range(rounds + 1):  # the first one warms up
                for name, (address, process) in gateways.items():
                    each = await measured(address, process, prompts, requests)
                    found[name] += [each] if number else []

        asyncio.run(run())
    header = ["gateway", "ms of CPU a request", "the least", "ms of CPU a streamed token", "requests/s", "the most"]
    rows = []
    for name, rows_found in found.items():
        whole, token, rate = zip(*rows_found, strict=True)
        medians = statistics.median(whole), min(whole), statistics.median(token)
        rows.append(
            [name, *(f"{value:.3f}" for value in medians), f"{statistics.median(rate):.0f}", f"{max(rate):.0f}"]
        )
    load = ", ".join(f"{value:.0f}" for value in os.getloadavg())
    lines = [
        f"{len(prompts)} prompts that name none of {EDITS} edits; the screen alone: {lookups:.0f} look-ups/s.",
        markdown_table(header, rows),
        f"Medians of {rounds} rounds in turn. Machine: {describe_machine()}. Other work ran beside it: {load} "
        "processes ran or waited (means of 1, 5 and 15 minutes).",
    ]
    text = "\n\n".join(lines)
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "gateway_alone.md") as path:
        path.write_text(f"# The gateway's own cost of a request about no edit\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == [GATEWAY]:
        serve(int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        main()
