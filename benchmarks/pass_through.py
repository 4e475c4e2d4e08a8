"""What the gateway costs a request about no edit: `python -m benchmarks.pass_through [--quick]`.

A stand-in for an engine runs in a process of its own, and is asked directly and through a server with 10,000 edits,
round by round in turn: the time to the first token, tokens a second, requests a second for answers that cost the engine
nothing, and the processor time of each part. Requests that name an edit are left out; they are for other benchmarks.

Nobody else should use the machine; read the differences of one run. With `--direct` the replicas of the gateway take
the requests themselves, without the proxy of Ray Serve. Writes `pass_through.md`, or `pass_through_direct.md`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.http_load import Timed, asked_by
from benchmarks.live_edit import FILES, edits_of, empty_home
from benchmarks.options import parse, parser_for
from benchmarks.stand_in_engine import MODEL, running
from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.config import parse_config
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.prompt_files import read_prompts
from onceedit_ray.knowledge.readers.parquet import write_edits
from onceedit_ray.knowledge.revision import StoredEdit
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.serving.listening import free_port

EDITS, TARGET = 10_000, "engine"
PATH = "/v1/chat/completions"
CLIENTS = (1, 8, 32)
TOKENS, RATE = 32, 50.0
GENERAL = Path("data/mixed_prompts.parquet")
PARTS = {"gateway": "ServeReplica:onceedit:Gateway", "Serve's proxy": "ProxyActor", "coordinator": "SpeakingDecoder"}


def index_of(edits: Sequence[Edit]) -> FactsAt:
    """The index in which the screen looks."""
    return FactsAt.of(StoredEdit(f"edit_{number}", edit, 1) for number, edit in enumerate(edits))


def screened(facts: FactsAt, prompts: Sequence[str]) -> tuple[list[str], float]:
    """The prompts that name no edit, and the look-ups a second."""
    begun = time.process_time()
    passed = [prompt for prompt in prompts if not facts.find(prompt, 1)]
    return passed, len(prompts) / (time.process_time() - begun)


def bodies(prompts: Sequence[str], count: int, model: str, **more: Any) -> list[dict[str, Any]]:
    """Requests, with the prompts in turn."""
    asked = (prompts[number % len(prompts)] for number in range(count))
    return [{"model": model, "messages": [{"role": "user", "content": prompt}], **more} for prompt in asked]


def processor_seconds(engine: int) -> dict[str, float]:
    """Processor time so far of each part of the system, by the names that Ray gives its processes."""
    found = dict.fromkeys([*PARTS, "engine"], 0.0)
    for process in psutil.Process().children(recursive=True):
        try:
            name, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:
            continue
        part = "engine" if process.pid == engine else next((part for part, of in PARTS.items() if of in name), "")
        if part:
            found[part] += times.user + times.system
    return found


async def streams(
    ways: Mapping[str, tuple[str, str]], prompts: Sequence[str], clients: int, rounds: int
) -> dict[str, tuple[list[Timed], float]]:
    """The answers of each way, streamed, and their seconds. ways: the address and the model's name there."""
    found: dict[str, tuple[list[Timed], float]] = {way: ([], 0.0) for way in ways}
    for _ in range(rounds):
        for way, (address, model) in ways.items():
            asked = bodies(prompts, max(clients * 2, 8), model, stream=True, max_tokens=TOKENS)
            answers, seconds = await asked_by(address, PATH, clients, asked)
            found[way] = found[way][0] + answers, found[way][1] + seconds
    return found


async def rates(
    ways: Mapping[str, tuple[str, str]], prompts: Sequence[str], clients: int, requests: int, engine: int
) -> dict[str, dict[str, float]]:
    """Requests a second of each way, and the processor time a request of each part, in ms."""
    found = {}
    for way, (address, model) in ways.items():
        await asked_by(address, PATH, clients, bodies(prompts, requests // 10, model, max_tokens=1))
        before = processor_seconds(engine)
        _, seconds = await asked_by(address, PATH, clients, bodies(prompts, requests, model, max_tokens=1))
        after = processor_seconds(engine)
        used = {part: 1e3 * (after[part] - before[part]) / requests for part in before}
        found[way] = {"rate": requests / seconds, **used}
    return found


def stream_row(clients: int, found: Mapping[str, tuple[list[Timed], float]]) -> list[str]:
    """A row: first-token times, what is added, and tokens a second."""
    firsts = {way: 1e3 * statistics.median(each.first for each in answers) for way, (answers, _) in found.items()}
    speeds = {way: sum(each.events for each in answers) / seconds for way, (answers, seconds) in found.items()}
    ratio = speeds["through us"] / speeds["directly"]
    return [
        str(clients), f"{firsts['directly']:.1f}", f"{firsts['through us']:.1f}",
        f"{firsts['through us'] - firsts['directly']:+.1f}", f"{speeds['directly']:.0f}", f"{ratio:.3f}",
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a Ray, the stand-in and the server, measure, write the tables."""
    parser = parser_for("pass_through", __doc__, "fewer edits and rounds")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="of the gateway")
    parser.add_argument(
        "--direct", action="store_true", help="replicas take requests themselves, without Serve's proxy"
    )
    options = parse(parser, arguments)
    prepare_environment()
    port = free_port("127.0.0.1", 0)
    if options.direct:
        os.environ |= {"RAY_SERVE_ENABLE_DIRECT_INGRESS": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port)}
        os.environ["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] = str(port + options.replicas)
        os.environ["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "1"  # nobody asks any more when it ends
    import ray  # after the environment that it reads is set
    from ray import serve

    from onceedit_ray.cluster.serve import APP_NAME, ServeArgs, application
    from onceedit_ray.serving.limits import Limits

    many, rounds, requests = (200, 1, 300) if options.quick else (EDITS, 4, 3000)
    edits = edits_of(FILES, 1)[0][:many]
    prompts, lookups = screened(index_of(edits), list(read_prompts(GENERAL)))
    lines = [f"{len(prompts)} prompts of {GENERAL.name} name no edit; the screen alone: {lookups:.0f} look-ups/s."]
    with empty_home() as folder, running(RATE) as (paced, _), running(0) as (fast, engine):
        write_edits(edits, folder / "edits.parquet")
        targets = {name: {"engine": "openai", "url": url} for name, url in ((TARGET, paced), ("fast", fast))}
        values = {
            "name": "pass_through", "knowledge": {"path": str(folder / "edits.parquet"), "on_conflict": "first"},
            "plugin": "smollm2-135m", "targets": targets, "editing": {"editor": "reader"},
            "fusion": {"strategy": "selective"},
        }  # fmt: skip
        edit_plugin(parse_config(values, "the benchmark"), open_store())
        (folder / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
        try:
            elsewhere = free_port("127.0.0.1", 0) if options.direct else port
            serve.start(http_options={"host": "127.0.0.1", "port": elsewhere})
            args = ServeArgs(
                config=folder / "run.yaml", replicas=options.replicas, limits=Limits(in_flight=512), request_log=False
            )
            serve.run(application(args), name=APP_NAME)
            here = f"http://127.0.0.1:{port}"

            async def run() -> None:
                await asked_by(here, PATH, 4, bodies(prompts, 40, TARGET, max_tokens=1))
                await asyncio.sleep(5 if options.quick else 20)  # each replica has its copy of the facts
                ways = {"directly": (paced, MODEL), "through us": (here, TARGET)}
                rows = [stream_row(n, await streams(ways, prompts, n, rounds)) for n in CLIENTS]
                header = ["clients", "first token directly, ms", "through us", "added", "tokens/s directly", "ratio"]
                lines.append(markdown_table(header, rows))
                found = await rates(
                    {"directly": (fast, MODEL), "through us": (here, "fast")}, prompts, 32, requests, engine.pid
                )
                header = ["way", "requests/s", *(f"{part}, ms of CPU a request" for part in [*PARTS, "engine"])]
                rows = [
                    [way, f"{of.pop('rate'):.0f}", *(f"{used:.2f}" for used in of.values())]
                    for way, of in found.items()
                ]
                lines.append(markdown_table(header, rows))

            asyncio.run(run())
        finally:
            serve.shutdown()
            ray.shutdown()
    lines.append(f"{len(edits)} edits, {options.replicas} replica(s). Machine: {describe_machine()}.")
    text = "\n\n".join(lines)
    print(text)
    options.results.mkdir(parents=True, exist_ok=True)
    name, way = ("pass_through_direct", " without Serve's proxy") if options.direct else ("pass_through", "")
    with replacing(options.results / f"{name}.md") as path:
        path.write_text(f"# An engine asked directly, and through the gateway{way}\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
