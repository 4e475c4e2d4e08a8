"""An edit over HTTP, among few and among many: `python -m benchmarks.live_edit [--quick]`, with the run file's models.

A server is started over 10 edits. Edits are made over HTTP one after another: the seconds from the call to its
response, and to the first right answer of every target, which are all asked as soon as the response is there. Then each
edit is deleted, and the version before it is activated again; the answers must be those before the edit. After that,
1,000 edits are made in one call, and single ones are measured again; then another process writes edits into the store
until there are 10,000, and single ones are measured once more. The edits come from the edit parts of CounterFact and
ZsRE, filled up from ZsRE's training part; those that are made one by one are of ZsRE's edit part.

Nobody else should use the machine. If that is not possible, read the processor time of all processes together: on an
idle machine an edit takes at most that long. Writes `live_edit.parquet` and `live_edit.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.options import chosen_config, parse, parser_for
from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.readers.parquet import write_edits
from onceedit_ray.knowledge.selection import select
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.serving.listening import free_port

FEW, MANY = 10, 10_000
MADE = 5
"""Edits made at each number of live edits, after one that warms up."""
AT_ONCE = 1000
TOKENS = 12
SHORT = 20
"""Largest number of characters of an answer that is asked for."""
FILES = ("data/counterfact_edit.parquet", "data/zsre_edit.parquet", "data/zsre_train.parquet")
NAME = "live_edit"
GOAL_SECONDS = 1.0

Show = Callable[[Sequence[dict[str, Any]]], None]


def edits_of(files: Sequence[str], made: int) -> tuple[list[Edit], list[Edit]]:
    """Edits that are live at the beginning, in a drawn order, and edits to be made, about other subjects."""
    found = [edit for file in files for edit in read_edits(Path(file))]
    plain = [
        Edit(prompt=e.prompt, target_new=e.target_new, subject=e.subject) for e in select(found, on_conflict="first")
    ]
    of_zsre = {edit.prompt for edit in read_edits(Path(files[1]))}
    random.Random(0).shuffle(plain)
    subjects: set[str] = set()
    fresh: list[Edit] = []
    for edit in plain:
        is_short = len(edit.target_new) <= SHORT  # a longer answer may be cut by the limit of tokens
        if len(fresh) < made and edit.prompt in of_zsre and edit.subject not in subjects and is_short:
            fresh.append(edit)
            subjects.add(edit.subject)
    return [edit for edit in plain if edit.subject not in subjects], fresh


@contextlib.contextmanager
def empty_home() -> Iterator[Path]:
    """A home with the present one's models and caches, and without its versions; `ONCEEDIT_HOME` names it meanwhile."""
    present = onceedit_home()
    with tempfile.TemporaryDirectory(prefix="live-edit-") as folder:
        for entry in present.iterdir():
            if entry.name not in ("knowledge", "edits.json"):
                (Path(folder) / entry.name).symlink_to(entry)
        os.environ["ONCEEDIT_HOME"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ["ONCEEDIT_HOME"] = str(present)


@contextlib.asynccontextmanager
async def server(config: RunConfig, folder: Path) -> AsyncIterator[tuple[Any, float]]:
    """A client of the application over the active version, and the seconds that its start took."""
    import httpx2
    from ray import serve

    from onceedit_ray.cluster.serve import APP_NAME, application
    from onceedit_ray.cluster.serve_args import ServeArgs

    run = folder / "run.yaml"
    run.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    port = free_port("127.0.0.1", 0)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        started = time.perf_counter()
        await asyncio.to_thread(serve.run, application(ServeArgs(config=run, request_log=False)), name=APP_NAME)
        took = time.perf_counter() - started
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=600) as client:
            yield client, took
    finally:
        await asyncio.to_thread(serve.shutdown)


async def answer(client: Any, target: str, prompt: str) -> str:
    """A target's answer to a question."""
    body = {"model": target, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    response = await client.post("/v1/completions", json=body)
    response.raise_for_status()
    return str(response.json()["choices"][0]["text"])


def is_right(text: str, edit: Edit) -> bool:
    """Whether an answer begins with the edit's."""
    return " ".join(text.split()).casefold().startswith(" ".join(edit.target_new.split()).casefold())


async def made(client: Any, edit: Edit, targets: Sequence[str]) -> dict[str, float]:
    """Seconds of one edit's life over HTTP; raises `RuntimeError` if it is not live, or not gone, when it should be."""
    before = [await answer(client, target, edit.prompt) for target in targets]
    active = (await newest(client))["id"]
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    used, started = processor_times(processes), time.perf_counter()
    response = await client.post("/v1/edits", json=edit.model_dump())
    posted = time.perf_counter() - started
    posting = spent(used, processor_times(processes))
    if response.status_code != 201:
        raise RuntimeError(f"'{edit.prompt}' was answered with {response.status_code}: {response.text}")
    firsts = await asyncio.gather(*(_first_right(client, target, edit, started) for target in targets))
    whole = spent(used, processor_times(processes))
    id = response.json()["data"][0]["id"]

    started = time.perf_counter()
    (await client.delete(f"/v1/edits/{id}")).raise_for_status()
    deleted = time.perf_counter() - started
    after = [await answer(client, target, edit.prompt) for target in targets]
    if after != before:
        raise RuntimeError(f"'{edit.prompt}' was deleted, and is answered {after} instead of {before}")

    edited = response.json()["version"]
    back = []
    for version in (edited, active):
        started = time.perf_counter()
        (await client.post(f"/v1/versions/{version}/activate")).raise_for_status()
        back.append(time.perf_counter() - started)
    if [await answer(client, target, edit.prompt) for target in targets] != before:
        raise RuntimeError(f"'{edit.prompt}' is answered although the version before it was activated")
    return {
        "posted": posted,
        "posted_processor": posting,
        "right": max(firsts),
        "right_processor": whole,
        "deleted": deleted,
        "activated": max(back),
    }


def processor_times(processes: Sequence[psutil.Process]) -> dict[int, float]:
    """Seconds of processor time so far of each of these processes that still runs, by its number."""
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def spent(before: dict[int, float], after: dict[int, float]) -> float:
    """Seconds of processor time between two readings; a process that ended meanwhile is left out."""
    return sum(after[number] - seconds for number, seconds in before.items() if number in after)


async def _first_right(client: Any, target: str, edit: Edit, started: float) -> float:
    while not is_right(text := await answer(client, target, edit.prompt), edit):
        if time.perf_counter() - started > 30:
            raise RuntimeError(f"{target} answers '{edit.prompt}' with '{text}', not '{edit.target_new}'")
    return time.perf_counter() - started


async def measure(
    config: RunConfig, folder: Path, fresh: Sequence[Edit], filler: Sequence[Edit], many: int, show: Show
) -> list[dict[str, Any]]:
    """The table's lines; `show` is called with all lines so far after each. filler: edits that are not live yet."""
    lines: list[dict[str, Any]] = []
    async with server(config, folder) as (client, start):
        targets = list(config.targets)
        lines.append(await measured(client, fresh, targets) | {"server_start": start})
        show(lines)
        at_once, rest = filler[:AT_ONCE], filler[AT_ONCE:]
        started = time.perf_counter()
        response = await client.post("/v1/edits", json={"edits": [edit.model_dump() for edit in at_once]})
        took = time.perf_counter() - started
        if response.status_code != 201:
            raise RuntimeError(f"{len(at_once)} edits were answered with {response.status_code}: {response.text[:300]}")
        lines.append(await measured(client, fresh, targets) | {"at_once": len(at_once), "at_once_seconds": took})
        show(lines)
        live = int((await newest(client))["edits"])
        if live < many:
            with open_store().facts() as facts:
                await asyncio.to_thread(facts.add, rest[: many - live])
            while (await newest(client))["edits"] < many:
                await asyncio.sleep(0.5)
            lines.append(await measured(client, fresh, targets))
            show(lines)
    return lines


async def newest(client: Any) -> dict[str, Any]:
    """The active version."""
    found: dict[str, Any] = (await client.get("/v1/versions", params={"limit": 1})).json()["data"][0]
    return found


async def measured(client: Any, fresh: Sequence[Edit], targets: Sequence[str]) -> dict[str, Any]:
    """Medians and least values of the edits `fresh`, one after another; the first one only warms up."""
    live = (await newest(client))["edits"]
    rounds = [await made(client, edit, targets) for edit in fresh][1:]
    line: dict[str, Any] = {"live": live, "edits": len(rounds)}
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        line |= {f"{name}_median": statistics.median(values), f"{name}_least": min(values)}
    return line


def prepared(config: RunConfig, folder: Path, live: Sequence[Edit]) -> RunConfig:
    """The run file with exactly these edits, which are made the active version."""
    path = folder / "live.parquet"
    write_edits(live, path)
    own = config.knowledge.model_copy(update={"path": path, "format": "auto", "limit": None, "seed": None})
    config = config.model_copy(update={"knowledge": own, "name": NAME.replace("_", "-")})
    edit_plugin(config, open_store(), lambda line: None)
    return config


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    names = {
        "response": "posted", "its processor time": "posted_processor", "first right answer of every target": "right",
        "its processor time ": "right_processor", "deleted": "deleted", "version activated": "activated",
    }  # fmt: skip
    rows = [
        [f"{each['live']:,}", str(each["edits"])]
        + [f"{each[f'{name}_median']:.3f} / {each[f'{name}_least']:.3f}" for name in names.values()]
        + [f"{each['at_once_seconds']:.1f}" if "at_once" in each else ""]
        for each in lines
    ]
    heads = ["live edits", "edits made", *names, f"{AT_ONCE:,} edits in one call, just before"]
    return markdown_table(heads, rows)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = parser_for(NAME, __doc__, "50 edits in one call, no more, two edits each")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="of the run file (default: its last two)")
    return parse(parser, arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a Ray, measure at each number of live edits, write the table."""
    options = options_of(arguments)
    prepare_environment()
    import ray  # after the environment that it reads is set

    config = chosen_config(options, last=2)
    names = list(config.targets)
    count, many = (3, 0) if options.quick else (MADE + 1, MANY)
    filler, fresh = edits_of(FILES, count)

    def show(lines: Sequence[dict[str, Any]]) -> None:
        print(table(lines), flush=True)
        write(lines, names, options.results)

    with empty_home() as home:
        run = prepared(config, home, filler[:FEW])
        ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False)
        try:
            rest = filler[FEW : FEW + 50] if options.quick else filler[FEW:]
            asyncio.run(measure(run, home, fresh, rest, many, show))
        finally:
            ray.shutdown()


def write(lines: Sequence[dict[str, Any]], targets: Sequence[str], folder: Path) -> None:
    """Write the table so far."""
    said = (
        f"Seconds, median / least, targets {', '.join(targets)}; the goal is {GOAL_SECONDS:g} s to the right "
        "answers.\n\n"
        f"Machine: {describe_machine()}; its load was {os.getloadavg()[0]:.0f}."
    )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{NAME}.parquet") as path:
        pq.write_table(pa.Table.from_pylist([{**line, "machine": describe_machine()} for line in lines]), path)
    with replacing(folder / f"{NAME}.md") as path:
        path.write_text(
            f"# An edit over HTTP, among few and among many\n\n{table(lines)}\n\n{said}\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
