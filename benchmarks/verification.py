"""Verifying a draft of six tokens: `python -m benchmarks.verification [--targets NAME ...] [--target NAME=URL,...]`.

A text of 300 and of 3,000 tokens is read once; then the target checks a draft after it, and writes one token, in turn.
`--targets`: of the run file, loaded here. `--target`: a server's, as for `onceedit serve`, with
`engine=openai_tokens,tokenizer=...`. Prints milliseconds, their ratio, and how many tokens were computed again, as the
server counts them at `/metrics`; writes `verification.md`.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx2

from benchmarks.options import parse, parser_for
from onceedit_ray.config import RunConfig, load_config
from onceedit_ray.editing.served_run import run_of, servers_of
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.fusion.members import Member
from onceedit_ray.fusion.system import open_targets
from onceedit_ray.models.local_model import LocalModel

LENGTHS = (300, 3000)
DRAFT = 6
ROUNDS = 5
TEXT = (
    "The river rises in the hills north of the old town, turns east at the mill, and reaches the sea after two hundred "
    "miles. Barges carried coal on it until the railway came in 1848, and the harbour has been a museum since 1974. "
)
COUNTERS = {  # tokens that a server has computed, of prompts
    "llamacpp:prompt_tokens_total": 1,
    "vllm:prompt_tokens_total": 1,
    "vllm:prefix_cache_hits_total": -1,
}


@dataclass
class Times:
    """Milliseconds of each round, and how many tokens a verification computed."""

    verify: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)


async def measure(member: Member, url: str, length: int) -> Times:
    """Read `length` tokens, then verify and step in turn."""
    text = member.codec.encode_prompt(TEXT)
    body = [*text] * (length // max(len(text) - 1, 1) + 2)
    ids, model, times = body[:length], member.model, Times()
    opened = await model.open(ids)
    try:
        for number in range(ROUNDS):
            draft = body[number + 7 : number + 7 + DRAFT]  # never one that the server's cache holds
            before = await computed(member, url)
            took = await timed(lambda d=draft: model.extend(opened.session, length - 1, [ids[-1], *d], rows=DRAFT + 1))  # type: ignore[misc]
            times.verify.append(took)
            if before is not None and (after := await computed(member, url)) is not None:
                times.computed.append(after - before)
            times.step.append(await timed(lambda: model.extend(opened.session, length - 1, ids[-1:], decode=1)))
    finally:
        await model.close(opened.session)
    return times


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that a call takes."""
    begun = time.perf_counter()
    await call()
    return 1000 * (time.perf_counter() - begun)


async def computed(member: Member, url: str) -> float | None:
    """How many tokens of prompts the target has computed so far; None where its server does not say."""
    if isinstance(member.model, LocalModel):
        return member.model.tokens
    async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
        found = await http.get(f"{url.rstrip('/').removesuffix('/v1')}/metrics")
    values = {
        name: float(value)
        for name in COUNTERS
        for value in re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", found.text, re.MULTILINE)
    }
    return sum(COUNTERS[name] * value for name, value in values.items()) if values else None


async def rows_of(config: RunConfig, members: dict[str, Member]) -> list[list[str]]:
    """A row of the table for each target and length."""
    rows = []
    for name, member in members.items():
        target = config.targets[name]
        for length in LENGTHS:
            times = await measure(member, target.url, length)
            verify, step = statistics.median(times.verify), statistics.median(times.step)
            again = f"{statistics.median(times.computed):.0f}" if times.computed else "not told"
            rows.append(
                [name, target.engine, str(length), f"{verify:.0f}", f"{step:.0f}", f"{verify / step:.2f}", again]
            )
            print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every target, and write the table."""
    parser = parser_for("verification", __doc__, "not shorter: results go to quick/")
    parser.add_argument("--targets", nargs="*", default=["qwen"], help="of the run file, loaded here (default: qwen)")
    parser.add_argument("--target", action="append", default=[], metavar="NAME=URL,...", help="a server's; repeat it")
    options = parse(parser, arguments)
    run = load_config(options.config)
    loaded = {name: run.targets[name] for name in options.targets}
    served = run_of(None, servers).targets if (servers := servers_of(options.target)) else {}
    config = run.model_copy(update={"targets": {**loaded, **served}})
    rows = asyncio.run(rows_of(config, open_targets(config, print)[1]))
    header = ["target", "engine", "prompt, tokens", "verification, ms", "one token, ms", "ratio", "tokens computed"]
    said = "\n\n".join(
        [
            f"`python -m benchmarks.verification {shlex.join(sys.argv[1:])}`: a draft of {DRAFT} tokens after a prompt "
            f"that was read before, {DRAFT + 1} rows; medians of {ROUNDS} rounds, in turn with one token each.",
            markdown_table(header, rows, 5),
            f"Machine: {describe_machine()}.",
        ]
    )
    print(said)
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "verification.md") as path:
        path.write_text(f"# Verifying a draft\n\n{said}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
