"""Requests among few and among many edits: `python -m benchmarks.many_facts [--quick]`, with the run file's models.

The same requests are asked with 10, 1,000 and 10,000 edits that a reader reads, in turn, so that other work on the
machine slows all of them alike: the time to the first token of requests about an edit (its own prompt, and a
rephrasing), as a ratio to the time at 10 edits. Then general text is asked: how often it names an edit, how often the
gate opens at its end, and how often an answer is not the target's own. The edits that are asked for are of ZsRE's edit
part, the others as in `live_edit`. One process, no Ray. Writes `many_facts.parquet` and `many_facts.md`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.live_edit import FILES, edits_of
from benchmarks.options import chosen_config, parse, parser_for
from onceedit_ray.config import RunConfig
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.system import index_of, open_decoder
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.prompt_files import read_prompts
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.readers.parquet import write_edits
from onceedit_ray.knowledge.version import EDITS
from onceedit_ray.models.sources import resolve
from onceedit_ray.reader.adapter import adapter_for
from onceedit_ray.reader.plugin import write_pointer

LIVE = (10, 1000, 10_000)
ASKED = 10
ROUNDS = 2
GENERAL = Path("data/mixed_prompts.parquet")
GENERAL_PROMPTS = 200
WRITTEN = 25
"""General prompts for which an answer is written."""
TOKENS = 16
NAME = "many_facts"


@dataclass(frozen=True)
class Begun:
    """The beginning of an answer. first: seconds to its first token. processor: of these. passes: of the plug-in."""

    first: float
    processor: float
    passes: int


def asked_edits(count: int) -> tuple[list[Edit], list[Edit]]:
    """Edits that are live, and `count` edits with a rephrasing that are asked for."""
    filler, fresh = edits_of(FILES, count)
    known = {edit.prompt: edit for edit in read_edits(Path(FILES[1]))}
    return filler, [known[edit.prompt] for edit in fresh]


def open_reader(config: RunConfig, folder: Path) -> FusedDecoder:
    """The decoder of a run file whose plug-in reads facts; it knows none yet."""
    base = resolve(config.plugin.model)
    write_pointer(folder, adapter_for(base, config.editing.editor))
    write_edits([], folder / EDITS)
    return open_decoder(config, folder, print)


async def begun(decoder: FusedDecoder, plugin: Plugin, target: str, prompt: str) -> Begun:
    """Ask a target and wait for the first token."""
    decoder.plugin = plugin
    before, started = time.process_time(), time.perf_counter()
    async with aclosing(decoder.stream(target, prompt, max_new_tokens=TOKENS)) as pieces:
        async for _ in pieces:
            return Begun(time.perf_counter() - started, time.process_time() - before, plugin.model.passes)  # type: ignore[attr-defined]
    raise RuntimeError(f"{target} says nothing to '{prompt}'")


async def first_tokens(
    decoder: FusedDecoder, plugins: dict[int, Plugin], edits: Sequence[Edit], rounds: int
) -> list[dict[str, Any]]:
    """Lines for each number of edits and kind of request: the times, and their ratios to those at the fewest edits."""
    fewest = min(plugins)
    lines = []
    for kind in ("own prompt", "rephrasing"):
        prompts = [edit.prompt if kind == "own prompt" else edit.rephrasings[0] for edit in edits]
        found: dict[int, list[Begun]] = {size: [] for size in plugins}
        for turn in range(rounds + 1):
            for prompt in prompts:
                for target in decoder.members:
                    for size in sorted(plugins, reverse=bool(turn % 2)):
                        took = await begun(decoder, plugins[size], target, prompt)
                        if turn:  # the first round warms up
                            found[size].append(took)
        for size, plugin in plugins.items():
            views = [len(plugin.views(prompt)) for prompt in prompts]
            beside = list(zip(found[size], found[fewest], strict=True))
            lines.append(
                {
                    "edits": size,
                    "request": kind,
                    "requests": len(found[size]),
                    "facts_read": statistics.mean(views),
                    "most_facts_read": max(views),
                    "first_median_ms": 1e3 * statistics.median(each.first for each in found[size]),
                    "first_least_ms": 1e3 * min(each.first for each in found[size]),
                    "ratio": statistics.median(many.first / few.first for many, few in beside),
                    "processor_ratio": statistics.median(many.processor / few.processor for many, few in beside),
                    "find_us": find_microseconds(plugin, prompts),
                }
            )
    return lines


def find_microseconds(plugin: Plugin, prompts: Sequence[str]) -> float:
    """Microseconds in which the facts for a prompt are found; the least of five rounds."""
    assert plugin.facts is not None
    times = []
    for _ in range(5):
        started = time.perf_counter()
        for prompt in prompts:
            plugin.facts.find(prompt)
        times.append((time.perf_counter() - started) / len(prompts))
    return 1e6 * min(times)


async def general_text(
    decoder: FusedDecoder, plugins: dict[int, Plugin], prompts: Sequence[str], written: int, threshold: float
) -> list[dict[str, Any]]:
    """Lines for each number of edits: how often general text names an edit, opens the gate, changes an answer."""
    lines = []
    target = list(decoder.members)[-1]
    for size, plugin in plugins.items():
        decoder.plugin = plugin
        named = [len(plugin.views(prompt)) for prompt in prompts]
        weights = [await decoder.gate(prompt) for prompt in prompts]
        answers = [await decoder.generate(target, prompt, max_new_tokens=TOKENS) for prompt in prompts[:written]]
        lines.append(
            {
                "edits": size,
                "prompts": len(prompts),
                "named": sum(map(bool, named)) / len(prompts),
                "most_facts_read": max(named),
                "opened": sum(weight >= threshold for weight in weights) / len(prompts),
                "written": len(answers),
                "not_own": sum(not answer.alone for answer in answers) / len(answers),
            }
        )
    return lines


def tables(requests: Sequence[dict[str, Any]], general: Sequence[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    rows = [
        [
            f"{each['edits']:,}", each["request"], f"{each['facts_read']:.1f} ({each['most_facts_read']})",
            f"{each['first_median_ms']:.0f} / {each['first_least_ms']:.0f}", f"{each['ratio']:.3f}",
            f"{each['processor_ratio']:.3f}", f"{each['find_us']:.0f}",
        ]
        for each in requests
    ]  # fmt: skip
    heads = [
        "edits",
        "request",
        "facts read: mean (most)",
        "first token, ms: median / least",
        "ratio to the fewest edits",
    ]
    first = markdown_table([*heads, "ratio of processor time", "finding facts, µs"], rows)
    rows = [
        [f"{each['edits']:,}", str(each["prompts"]), f"{each['named']:.3f}", str(each["most_facts_read"]),
         f"{each['opened']:.3f}", f"{each['not_own']:.3f} of {each['written']}"]
        for each in general
    ]  # fmt: skip
    heads = [
        "edits",
        "general prompts",
        "name an edit",
        "most facts read",
        "open the gate",
        "answers not the target's own",
    ]
    return f"{first}\n\n{markdown_table(heads, rows)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the models, measure, write the tables."""
    parser = parser_for(NAME, __doc__, "10 and 100 edits, few requests")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="of the run file (default: its last two)")
    options = parse(parser, arguments)
    config = chosen_config(options, last=2)
    names = list(config.targets)
    sizes, count, rounds = ((10, 100), 2, 1) if options.quick else (LIVE, ASKED, ROUNDS)
    prompts = read_prompts(GENERAL)[: 10 if options.quick else GENERAL_PROMPTS]
    filler, edits = asked_edits(count)
    with tempfile.TemporaryDirectory() as folder:
        decoder = open_reader(config, Path(folder))
    now = decoder.plugin
    plugins = {
        size: Plugin(now.model, now.codec, now.view, facts=index_of([*edits, *filler[: size - len(edits)]]))
        for size in sizes
    }

    async def run() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        requests = await first_tokens(decoder, plugins, edits, rounds)
        written = 4 if options.quick else WRITTEN
        return requests, await general_text(decoder, plugins, prompts, written, config.fusion.threshold)

    requests, general = asyncio.run(run())
    found = tables(requests, general)
    print(found)
    said = (
        f"Targets {', '.join(names)}. Machine: {describe_machine()}; its load at the end was {os.getloadavg()[0]:.0f}, "
        "so compare ratios, not times."
    )
    options.results.mkdir(parents=True, exist_ok=True)
    lines = [
        {**line, "table": table} for table, part in (("requests", requests), ("general", general)) for line in part
    ]
    with replacing(options.results / f"{NAME}.parquet") as path:
        pq.write_table(pa.Table.from_pylist(lines), path)
    with replacing(options.results / f"{NAME}.md") as path:
        path.write_text(f"# Requests among few and among many edits\n\n{found}\n\n{said}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
