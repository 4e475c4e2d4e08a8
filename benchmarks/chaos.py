"""Kill every kind of process under load: `python -m benchmarks.chaos [--faults 100] [--quick] [--load]`.

A seeded schedule of SIGKILLs hits a served fleet of small random models while clients ask (streaming and not, greedy
and sampled, some leaving) and another one makes and deletes edits. A supervisor starts the command again whenever it
ends, as it does when the raylet dies. Afterwards every answer is compared with that of one process without faults,
every accepted edit and every version is checked. Prints tables; writes `chaos.md`.
`--load` kills nothing: 48 clients, of which 40 % leave their streams, for five minutes; writes `leaving.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from benchmarks.chaos_load import SECONDS, Clients, Editor, Outcome, Question, request_table, wrong_answers
from benchmarks.options import parse, parser_for
from benchmarks.small_system import MEMORY_SETTING, TARGETS, small_system
from onceedit_ray.config import RunConfig
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.store import KnowledgeStore, open_store

FOR_MEMORY = "whom Ray kills for memory"
COMMAND = "serving command"
KINDS = {  # what the process's command line contains, and how many of twenty faults hit it
    "coordinator": ("ray::SpeakingDecoder", 5),
    "target or plug-in": ("ray::HostedModel", 4),
    "gateway": ("ray::ServeReplica:onceedit:Gateway", 2),
    "models and edit queue": ("ray::ServeReplica:onceedit:Models", 1),
    "trainer": ("ray::Trainer", 2),
    "HTTP proxy": ("ray::ProxyActor", 1),
    "Serve controller": ("ray::ServeController", 1),
    "raylet": ("/raylet/raylet", 1),
    "GCS": ("/gcs/gcs_server", 1),
    COMMAND: ("benchmarks.supervised", 1),
    FOR_MEMORY: ("ray::", 1),
}
ENDING = ("raylet", "GCS", COMMAND)
"""Without one of these the command ends, and is started again."""
MOST_PIECES = 40
"""Pieces of streams between the end of a recovery and the next fault, at most."""
PATIENCE = 600.0
TRAINER_SECONDS = 60.0


@dataclass
class Fault:
    """One SIGKILL. recovery: seconds until every target has answered a new question right, of a trainer until
    its edit has ended; infinite if they did not. editing: whether an edit was under way. replaced: seconds until a new
    process of the kind was there, which has yet to load what it needs; None if none was seen."""

    kind: str
    recovery: float
    editing: bool
    replaced: float | None = None


@dataclass
class Findings:
    """Everything counted in one run. start: seconds until the server answered the first time."""

    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[tuple[Outcome, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    edits: Counter[str] = field(default_factory=Counter)
    reasons: list[str] = field(default_factory=list)
    stuck: int = 0
    versions: int = 0
    broken: int = 0
    seconds: float = 0.0
    start: float = 0.0

    @property
    def ends(self) -> Counter[str]:
        """The number of requests for each of `ENDS`."""
        return Counter(outcome.end for outcome in self.outcomes)


def schedule(count: int, seed: int) -> list[str]:
    """The kinds of `count` faults, in a random order."""
    twenty = [kind for kind, (_, share) in KINDS.items() for _ in range(share)]
    draw = random.Random(f"{seed} schedule")
    kinds: list[str] = []
    while len(kinds) < count:
        kinds += draw.sample(twenty, len(twenty))
    return kinds[:count]


def victims(kind: str) -> list[psutil.Process]:
    """The processes of a kind that run below this one."""
    title, found = KINDS[kind][0], []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline()[:3])
            if title in command and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def run_out_of_memory() -> None:
    """Hold so much memory that Ray kills a worker: the server was started with `memory_threshold`."""
    ballast: list[bytes] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        memory = psutil.virtual_memory()
        limit = float(os.environ[MEMORY_SETTING]) * memory.total
        ballast.append(b"x" * max(int(limit - (memory.total - memory.available)), 1 << 26))
        full = set(victims(FOR_MEMORY))
        time.sleep(0.5)  # Ray looks four times a second
        if not full <= set(victims(FOR_MEMORY)):
            return
    raise RuntimeError(f"Ray kills nobody, with {sum(map(len, ballast)) >> 20} MiB taken by this process")


@dataclass
class Chaos:
    """Kills processes, one after another, and measures how long answers are missing."""

    clients: Clients
    editor: Editor
    seed: int

    async def run(self, kinds: Sequence[str], seconds: float) -> list[Fault]:
        """Kill one process of each of `kinds`, for so many seconds at most; a kind that does not run is left out."""
        last = time.monotonic() + seconds
        draw = random.Random(f"{self.seed} moments")
        faults = []
        async with httpx2.AsyncClient(base_url=self.clients.address, trust_env=False, timeout=None) as http:
            for number, kind in enumerate(kinds):
                await self._some_pieces(draw.randrange(MOST_PIECES))
                found = await self._running(kind, draw)
                if time.monotonic() > last:
                    break
                if not found:
                    continue
                editing, settled, before = self.editor.busy, self.editor.settled, victims("coordinator")
                replaced = asyncio.ensure_future(self._replaced(COMMAND if kind in ENDING else kind))
                await asyncio.sleep(0)  # it looks at the processes before the kill
                if kind == FOR_MEMORY:
                    await asyncio.to_thread(run_out_of_memory)
                else:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(draw.choice(found).pid, signal.SIGKILL)
                begun = time.perf_counter()
                if kind in ENDING:
                    await self._started_again(before)
                answered = self._settled(settled) if kind == "trainer" else self._right_answers(http, number)
                recovery = time.perf_counter() - begun if await answered else float("inf")
                replaced.cancel()
                seen = (await asyncio.gather(replaced, return_exceptions=True))[0]
                faults.append(Fault(kind, recovery, editing, seen if isinstance(seen, float) else None))
                print(f"{len(faults)}: {kind}, {recovery:.1f} s", flush=True)
        return faults

    async def _replaced(self, kind: str) -> float:
        """Seconds from now until a process of a kind is there that is not there now."""
        before, begun = set(victims(kind)), time.perf_counter()
        while kind == FOR_MEMORY or set(victims(kind)) <= before:
            await asyncio.sleep(0.5)
        return time.perf_counter() - begun

    async def _some_pieces(self, count: int) -> None:
        """Wait for `count` pieces of streams, wherever in an answer the last of them is."""
        wanted, deadline = self.clients.pieces + count, time.monotonic() + 10
        while self.clients.pieces < wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.005)

    async def _running(self, kind: str, draw: random.Random) -> list[psutil.Process]:
        deadline = time.monotonic() + (TRAINER_SECONDS if kind == "trainer" else PATIENCE)
        while not (found := victims(kind)) and time.monotonic() < deadline and not self.editor.ending:
            await asyncio.sleep(0.1)
        if kind == "trainer" and found:
            await asyncio.sleep(draw.uniform(0.0, 4.0))  # somewhere in loading, training, judging or committing
            found = victims(kind) or found
        return found

    async def _started_again(self, before: Sequence[psutil.Process]) -> None:
        """Wait for a coordinator that is none of `before`: actors go on for seconds after their raylet has died."""
        deadline = time.monotonic() + PATIENCE
        while set(victims("coordinator")) <= set(before) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)

    async def _right_answers(self, http: httpx2.AsyncClient, number: int) -> bool:
        """Ask every target a new question about an edited subject, which needs the plug-in, until each has answered.

        The answers are checked with all others.
        """
        prompt = f"{self.clients.prompts[0]} {number}"
        asked = [self._until_answered(http, Question(name, prompt, 8, None, False)) for name in self.clients.targets]
        return all(await asyncio.gather(*asked))

    async def _until_answered(self, http: httpx2.AsyncClient, question: Question) -> bool:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            outcome = await self.clients.ask(http, question)
            if outcome.end == "answered":
                self.clients.outcomes.append(outcome)
                return True
            await asyncio.sleep(0.1)
        return False

    async def _settled(self, before: int) -> bool:
        deadline = time.monotonic() + PATIENCE
        while self.editor.settled == before and self.editor.busy and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        return self.editor.settled > before


async def run(
    address: str, config: RunConfig, pool: Sequence[Edit], kinds: Sequence[str], clients: int, seed: int,
    leaving: float = 0.2, least: float = 0.0, most: float = float("inf"),
) -> Findings:  # fmt: skip
    """Load the application at `address`, inject faults, and check everything.

    Args:
        pool: edits to make meanwhile. kinds: of the faults. leaving: the share of streams that are left. least: seconds
            that the load lasts at least. most: seconds after which no more faults are injected.
    """
    store, begun = open_store(), time.perf_counter()
    start = store.active()
    assert start is not None, "the fleet serves the active version"
    before = start.edits()
    prompts = [edit.prompt for edit in [*before, *pool]] + ["The river Nile flows through", "Why is the sky blue?"]
    load, editor = Clients(address, TARGETS, prompts, leaving), Editor(address, pool, seed)
    running = [asyncio.ensure_future(load.run(clients, seed)), asyncio.ensure_future(editor.run())]
    faults = await Chaos(load, editor, seed).run(kinds, most)
    await asyncio.sleep(max(0.0, begun + least - time.perf_counter()))
    load.ending = editor.ending = True
    await asyncio.gather(*running)
    found = Findings(load.outcomes, faults=faults, reasons=editor.reasons, stuck=editor.stuck)
    found.seconds = time.perf_counter() - begun
    await editor.settled_all()
    active = store.active()
    assert active is not None
    found.edits = await editor.verdict(active.edits(), before)
    found.versions, found.broken = versions(store)
    found.wrong = await wrong_answers(load.outcomes, config, store)
    return found


def versions(store: KnowledgeStore) -> tuple[int, int]:
    """The number of versions in the store, and the number of incomplete ones."""
    ids = [path.name for path in Path(store.root, "versions").iterdir() if not path.name.startswith(".")]
    broken = 0
    for id in ids:
        try:
            store.get(id)
        except Exception as error:
            print(error)
            broken += 1
    return len(ids), broken


def tables(found: Findings, clients: int, seed: int) -> str:
    """The findings as Markdown."""
    rows = []
    for kind in KINDS:
        hit = [fault for fault in found.faults if fault.kind == kind]
        if hit:
            times = [fault.recovery for fault in hit]
            figures = [f"{statistics.median(times):.1f}", f"{max(times):.1f}"]
            seen = [fault.replaced for fault in hit if fault.replaced is not None]
            figures.append(f"{max(seen):.1f}" if seen else "")
            rows.append([kind, str(len(hit)), str(sum(fault.editing for fault in hit)), *figures])
    header = ["killed", "faults", "during an edit", "recovery, s: median", "worst", "a new process is there, s: worst"]
    parts = [markdown_table(header, rows, 4)] if rows else []
    codes = Counter(each.said for each in found.outcomes if each.end in ("refused", "broken off", "unreadable"))
    longest = max((each.seconds for each in found.outcomes if each.end != "left"), default=0.0)
    edits = ", ".join(f"{count} {state}" for state, count in sorted(found.edits.items()))
    parts += [
        request_table(found.outcomes, found.wrong),
        f"The longest request took {longest:.1f} s; the limit is "
        f"{SECONDS:.0f} s. Not answered: {', '.join(f'{count} × {code}' for code, count in codes.items()) or 'none'}.",
        f"Accepted edits: {edits}; calls without an end: {found.stuck}. Versions: {found.versions}, of which "
        f"{found.broken} are not whole.",
        f"{clients} clients, seed {seed}, {found.seconds:.0f} s; the first start of the server took "
        f"{found.start:.1f} s. Machine: {describe_machine()}.",
    ]
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the models, serve them, kill, check, and write the table."""
    parser = parser_for("chaos", __doc__, "20 faults")
    parser.add_argument("--faults", type=int, help="number of faults: default 100, or 20 with --quick")
    parser.add_argument("--clients", type=int, help="clients that ask: default 6, or 48 with --load")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load", action="store_true", help="kill nothing; 40 %% of the streams are left")
    parser.add_argument("--seconds", type=float, help="of --load: default 300; of faults: the most, default no limit")
    options = parse(parser, arguments)
    count = options.faults if options.faults is not None else 20 if options.quick else 100
    kinds = [] if options.load else schedule(count, options.seed)
    clients = options.clients or (48 if options.load else 6)
    least, most = (options.seconds or 300.0, 0.0) if options.load else (0.0, options.seconds or float("inf"))
    with small_system("chaos", clients, restarting=not options.load) as (address, config, pool, start):
        pool, leaving = ([], 0.4) if options.load else (pool, 0.2)
        found = asyncio.run(run(address, config, pool, kinds, clients, options.seed, leaving, least, most))
    found.start = start
    said = tables(found, clients, options.seed)
    print(said)
    for outcome, expected in found.wrong:
        print(f"wrong: {outcome}; one process says {expected!r}")
    print("\n".join(sorted(set(found.reasons))))
    options.results.mkdir(parents=True, exist_ok=True)
    title, file = ("Clients that leave", "leaving.md") if options.load else ("Processes killed under load", "chaos.md")
    with replacing(options.results / file) as path:
        path.write_text(f"# {title}\n\n{said}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
