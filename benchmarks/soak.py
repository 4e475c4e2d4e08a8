"""Serve for half an hour and watch the memory: `python -m benchmarks.soak [--minutes 30] [--clients 32] [--quick]`.

Clients ask a served fleet of small random models (streaming and not, greedy and sampled, some leaving) while another
one makes and deletes edits. The resident memory of every process is read every few seconds; it is flat if it is no
higher in the last third of the time than in the middle third. Afterwards every answer is compared with that of one
process, and the sessions that the models still hold are counted. Prints tables; writes `soak.md`. `--quick` takes one
minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.chaos import Findings, versions
from benchmarks.chaos_load import SECONDS, TOKENS, Clients, Editor, request_table, wrong_answers
from benchmarks.options import parse, parser_for
from benchmarks.small_system import small_system
from onceedit_ray.config import RunConfig
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.store import open_store

if TYPE_CHECKING:  # Ray reads the environment, which is prepared first
    from onceedit_ray.cluster.model_actor import Load

SAMPLES = 180
"""How often the memory is read in the whole time."""
FLAT = 0.05
"""Growth from the middle third to the last third that counts as flat: allocators and indices round up."""
DRAIN_SECONDS = 30.0
SHORT = {"ray::SpeakingDecoder": "coordinator", "ray::HostedModel": "model actors", "ray::Trainer": "trainers"}
"""Names of kinds of processes, by the beginnings of their titles; the others are called by their titles."""


@dataclass
class Memory:
    """Resident memory of the processes below this one, by kind.

    samples: for each kind, MiB of all its processes together at each moment; 0 where none ran. most: most processes of
    a kind at one moment.
    """

    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    most: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    taken: int = 0

    def take(self) -> None:
        """Read all of them once."""
        found: dict[str, list[float]] = defaultdict(list)
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found[kind_of(process)].append(process.memory_info().rss / 2**20)
        for kind in {*found, *self.samples}:
            earlier = self.samples[kind]
            earlier += [0.0] * (self.taken - len(earlier))
            earlier.append(sum(found[kind]))
            self.most[kind] = max(self.most[kind], len(found[kind]))
        self.taken += 1

    def thirds(self, kind: str) -> tuple[float, float]:
        """The medians of the middle and of the last third, MiB."""
        samples = self.samples[kind]
        third = max(len(samples) // 3, 1)
        return statistics.median(samples[third : 2 * third] or samples), statistics.median(samples[-third:])


def kind_of(process: psutil.Process) -> str:
    """What a process is, from the title that Ray gives it or from its program."""
    command = process.cmdline()
    if process.pid == os.getpid():
        return "this command, with the clients"
    title = command[0].split(".")[0] if command else "ended"
    if title.startswith("ray::IDLE"):
        return "idle workers"
    return next((name for start, name in SHORT.items() if title.startswith(start)), Path(title).name)


@dataclass
class Soaked:
    """The findings. loads: of each model actor, at rest."""

    found: Findings
    memory: Memory
    loads: Mapping[str, Load]


async def soak(address: str, config: RunConfig, pool: Sequence[Edit], clients: int, seconds: float) -> Soaked:
    """Load the application at `address` for so many seconds, then let it come to rest."""
    store, memory = open_store(), Memory()
    start = store.active()
    assert start is not None, "the fleet serves the active version"
    before = start.edits()
    prompts = [edit.prompt for edit in [*before, *pool]] + ["The river Nile flows through", "Why is the sky blue?"]
    load, editor = Clients(address, tuple(config.targets), prompts, 0.2), Editor(address, pool, 1)
    running = [asyncio.ensure_future(load.run(clients, 1)), asyncio.ensure_future(editor.run())]
    begun = time.monotonic()
    while (now := time.monotonic()) - begun < seconds:
        await asyncio.to_thread(memory.take)
        await asyncio.sleep(max(0.0, seconds / SAMPLES - (time.monotonic() - now)))
    load.ending = editor.ending = True
    await asyncio.gather(*running)
    loads = await at_rest()
    found = Findings(load.outcomes, reasons=editor.reasons, stuck=editor.stuck, seconds=time.monotonic() - begun)
    active = store.active()
    assert active is not None
    found.edits = await editor.verdict(active.edits(), before)
    found.versions, found.broken = versions(store)
    found.wrong = await wrong_answers(load.outcomes, config, store)
    return Soaked(found, memory, loads)


async def at_rest() -> Mapping[str, Load]:
    """The loads of the model actors when none has a session, or after `DRAIN_SECONDS`."""
    from ray import serve

    from onceedit_ray.cluster.serve import APP_NAME

    models = serve.get_deployment_handle("Models", APP_NAME)
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        loads: dict[str, Load] = await models.loads.remote()
        if not any(load.sessions for load in loads.values()) or time.monotonic() > deadline:
            return loads
        await asyncio.sleep(0.5)


def tables(soaked: Soaked, clients: int) -> str:
    """The findings as Markdown."""
    found, memory = soaked.found, soaked.memory
    rows = []
    for kind in sorted(memory.samples, key=lambda kind: -memory.thirds(kind)[1]):
        middle, last = memory.thirds(kind)
        growth = f"{last / middle - 1:+.1%}" if middle else "none ran"
        first, most = memory.samples[kind][0], max(memory.samples[kind])
        rows.append(
            [kind, str(memory.most[kind]), f"{first:.0f}", f"{middle:.0f}", f"{last:.0f}", f"{most:.0f}", growth]
        )
    header = ["processes, together", "most", "first, MiB", "middle third", "last third", "highest", "growth"]
    total = [sum(moment) for moment in zip(*memory.samples.values(), strict=True)]
    third = max(len(total) // 3, 1)
    middle, last = statistics.median(total[third : 2 * third] or total), statistics.median(total[-third:])
    flat = "flat" if last <= middle * (1 + FLAT) else "not flat"
    held = [
        [name, str(load.sessions), str(load.waiting), str(load.preempted), f"{load.cache_bytes >> 10}"]
        for name, load in soaked.loads.items()
    ]
    edits = ", ".join(f"{count} {state}" for state, count in sorted(found.edits.items()))
    return "\n\n".join(
        [
            markdown_table(header, rows, 6),
            f"All together: {middle:.0f} MiB in the middle third, {last:.0f} MiB in the last third, "
            f"{last / middle - 1:+.1%}: {flat} (at most {FLAT:.0%}). Medians of {memory.taken} moments.",
            request_table(found.outcomes, found.wrong),
            markdown_table(["model, at rest", "sessions", "waiting", "preempted", "KV cache, KiB"], held, 4),
            f"Accepted edits: {edits}; calls without an end: {found.stuck}. Versions: {found.versions}, of which "
            f"{found.broken} are not whole.",
            f"{clients} clients, answers of {', '.join(map(str, TOKENS))} tokens, limit {SECONDS:.0f} s, "
            f"{found.seconds:.0f} s. Machine: {describe_machine()}.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the models, serve them, load them, and write the tables."""
    parser = parser_for("soak", __doc__, "one minute")
    parser.add_argument("--minutes", type=float, help="default 30, or 1 with --quick")
    parser.add_argument("--clients", type=int, default=32)
    options = parse(parser, arguments)
    minutes = options.minutes or (1.0 if options.quick else 30.0)
    with small_system("soak", options.clients) as (address, config, pool, _):
        said = tables(asyncio.run(soak(address, config, pool, options.clients, 60 * minutes)), options.clients)
    print(said)
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "soak.md") as path:
        path.write_text(f"# Memory under lasting load\n\n{said}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
