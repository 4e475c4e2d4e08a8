"""The cost of Ray for a round: `python -m benchmarks.transport [--quick]`.

A round is two actor calls: the plug-in drafts, a target verifies the draft; both return their rows. Measured
alternately: the same call to the same model in this process, and a call without a forward pass, to the actor and in
this process. The difference of the latter two is the cost of Ray. Prints a table; writes `transport.parquet`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.options import parse, parser_for
from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.config import ModelConfig, load_config
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.files import replacing
from onceedit_ray.models.protocol import LanguageModel
from onceedit_ray.models.sources import resolve

if TYPE_CHECKING:
    from onceedit_ray.cluster.remote_model import RemoteModel

PROMPT = list(range(100, 120))
DRAFT = list(range(200, 208))


async def seconds(call: Callable[[], Awaitable[object]], times: int) -> list[float]:
    """Wall-clock times of a call, after a warm-up call."""
    await call()
    found = []
    for _ in range(times):
        started = time.perf_counter()
        await call()
        found.append(time.perf_counter() - started)
    return found


async def hop(model: LanguageModel, session: int) -> float:
    """Wall-clock time of a call without a forward pass; the session that it opens is closed before the next call."""
    started = time.perf_counter()
    fork = await model.fork(session)
    took = time.perf_counter() - started
    await model.close(fork)
    await asyncio.sleep(0.01)
    return took


async def measure(name: str, remote: RemoteModel, here: LanguageModel, drafted: int, rounds: int) -> dict[str, Any]:
    """One model's line of the table; drafted: tokens that it drafts in a round, 0 for a model that verifies."""

    async def call(model: LanguageModel) -> Callable[[], Awaitable[object]]:
        opened = await model.open(PROMPT)
        if drafted:
            return lambda: model.extend(opened.session, len(PROMPT), DRAFT[:1], decode=drafted)
        return lambda: model.extend(opened.session, len(PROMPT), DRAFT, rows=len(DRAFT))

    over_there, in_process = await call(remote), await call(here)
    there: list[float] = []
    near: list[float] = []
    for _ in range(rounds):
        there += await seconds(over_there, 2)
        near += await seconds(in_process, 2)
    far_session, near_session = (await remote.open(PROMPT)).session, (await here.open(PROMPT)).session
    hops = [(await hop(remote, far_session), await hop(here, near_session)) for _ in range(20 * rounds)]
    far, close = (statistics.median(taken) for taken in zip(*hops, strict=True))
    return line_of(name, statistics.median(there), statistics.median(near), far - close, len(there))


def line_of(name: str, there: float, near: float, ray: float, rounds: int) -> dict[str, Any]:
    """A line of the table, from seconds; printed at once."""
    print(
        f"{name:16} {1e3 * there:7.1f} ms   in one process {1e3 * near:7.1f} ms   "
        f"Ray alone {1e3 * ray:5.2f} ms, {ray / there:.3f} of it",
        flush=True,
    )
    return {
        "model": name,
        "round_ms": 1e3 * there,
        "in_process_ms": 1e3 * near,
        "ray_ms": 1e3 * ray,
        "ray_share": ray / there,
        "rounds": rounds,
        "machine": describe_machine(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a Ray of its own, measure the first target of the run file, write the table."""
    options = parse(parser_for("transport", __doc__, "fewer rounds"), arguments)
    prepare_environment()
    import ray  # after its environment variables are set

    from onceedit_ray.cluster.model_actor import HostedModel, ModelActor
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
            rounds = 3 if options.quick else 15
            drafted = config.fusion.draft_tokens if model is config.plugin else 0
            lines.append(asyncio.run(measure(name, RemoteModel(actor, name), here, drafted, rounds)))
            ray.kill(actor)
    finally:
        ray.shutdown()
    times = ([line[key] / 1e3 for line in lines] for key in ("round_ms", "in_process_ms", "ray_ms"))
    lines.append(line_of("a whole round", *map(sum, times), lines[0]["rounds"]))
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "transport.parquet") as path:
        pq.write_table(pa.Table.from_pylist(lines), path)


if __name__ == "__main__":
    main()
