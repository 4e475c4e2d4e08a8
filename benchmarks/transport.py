"""What Ray costs a round: `python -m benchmarks.transport [--quick]`.

A round is one actor call: the plug-in drafts, a target verifies a draft; both send back their rows. Beside it, in
turns: the same call to the same model in this process, and an actor call that runs no network. Prints a table; writes
`transport.parquet`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.options import parse, parser_for
from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.config import ModelConfig, load_config
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.records import replacing
from onceedit_ray.models.protocol import LanguageModel
from onceedit_ray.models.sources import resolve

if TYPE_CHECKING:
    from onceedit_ray.cluster.remote_model import RemoteModel

PROMPT = list(range(100, 120))
DRAFT = list(range(200, 208))


async def seconds(call: Callable[[], Awaitable[object]], times: int) -> list[float]:
    """Wall times of a call, after one that is thrown away."""
    await call()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        await call()
        found.append(time.perf_counter() - started)
    return found


async def hops(remote: RemoteModel, session: int, times: int) -> list[float]:
    """Wall times of an actor call that runs no network; what it leaves is closed before the next one is timed."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        fork = await remote.fork(session)
        found.append(time.perf_counter() - started)
        await remote.close(fork)
        await asyncio.sleep(0.01)
    return found


async def measure(name: str, remote: RemoteModel, here: LanguageModel, drafted: int, rounds: int) -> dict[str, object]:
    """One model's line of the table; drafted: tokens that it drafts in a round, 0 for one that verifies."""

    async def session(model: LanguageModel) -> Callable[[], Awaitable[object]]:
        opened = await model.open(PROMPT)
        if drafted:
            return lambda: model.extend(opened.session, len(PROMPT), DRAFT[:1], decode=drafted)
        return lambda: model.extend(opened.session, len(PROMPT), DRAFT, rows=len(DRAFT))

    over_there, in_process = await session(remote), await session(here)
    opened = await remote.open(PROMPT)
    there: list[float] = []
    near: list[float] = []
    for _ in range(rounds):
        there += await seconds(over_there, 2)
        near += await seconds(in_process, 2)
    alone = statistics.median(await hops(remote, opened.session, 20 * rounds))
    line = {
        "model": name,
        "round_ms": 1e3 * statistics.median(there),
        "in_process_ms": 1e3 * statistics.median(near),
        "ray_ms": 1e3 * alone,
        "ray_share": alone / statistics.median(there),
        "rounds": len(there),
        "machine": describe_machine(),
    }
    print(
        f"{name:16} round {line['round_ms']:7.1f} ms   in one process {line['in_process_ms']:7.1f} ms   "
        f"Ray alone {line['ray_ms']:5.2f} ms   {line['ray_share']:.3f} of a round (goal ≤ 0.05)",
        flush=True,
    )
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a Ray of its own, measure the first target of the run file, write the table."""
    options = parse(parser_for("transport", __doc__, "fewer rounds"), arguments)
    prepare_environment()
    import ray  # after the environment that it reads is set

    from onceedit_ray.cluster.actors import HostedModel, ModelActor
    from onceedit_ray.cluster.remote_model import RemoteModel

    config = load_config(options.config)
    models: dict[str, ModelConfig] = {"base plug-in": config.plugin, **dict(list(config.targets.items())[:1])}
    lines = []
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        for name, model in models.items():
            folder = resolve(model.model).path
            actor = ModelActor.options(num_cpus=1).remote(name, folder, model, config.fusion.top_k)
            ray.get(actor.seat.remote())
            here = HostedModel(name, folder, model, config.fusion.top_k)
            rounds = 4 if options.quick else 15
            drafted = config.fusion.draft_tokens if model is config.plugin else 0
            lines.append(asyncio.run(measure(name, RemoteModel(actor, name), here, drafted, rounds)))
            ray.kill(actor)
    finally:
        ray.shutdown()
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "transport.parquet") as path:
        pq.write_table(pa.Table.from_pylist(lines), path)


if __name__ == "__main__":
    main()
