"""Profiles the time of a decoding step: `python -m benchmarks.profile_step`.

Runs steps of the plug-in and of the first target over a slot of their caches under torch's profiler, and writes the
operators that take most time to `profile.txt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.options import parse, parser_for
from onceedit_ray.config import load_config
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.files import replacing
from onceedit_ray.models.assembly import load_for_decoding
from onceedit_ray.models.passes import PassRow, passes_for
from onceedit_ray.models.sources import resolve

STEPS = 16


def steps(network: Any, count: int) -> str:
    """The profile of `count` steps after a prompt of 20 tokens, as a table."""
    passes = passes_for(network)
    place = passes.take()
    with torch.inference_mode():
        passes.logits([PassRow(place, 0, list(range(5, 25)), 1)])
        with profile(activities=[ProfilerActivity.CPU]) as taken:
            for n in range(count):
                passes.logits([PassRow(place, 20 + n, [5], 1)])[0].argmax()
    return str(taken.key_averages().table(sort_by="self_cpu_time_total", row_limit=10, max_name_column_width=40))


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile both models, write the summary."""
    options = parse(parser_for("profile_step", __doc__, "4 steps"), arguments)
    config = load_config(options.config)
    count = 4 if options.quick else STEPS
    parts = [describe_machine()]
    for name, model in (("base plug-in", config.plugin), *list(config.targets.items())[:1]):
        network = load_for_decoding(resolve(model.model).path, model)
        parts += ["", f"{name}: {count} steps, {network.dtype}", steps(network, count)]
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / "profile.txt") as path:
        path.write_text("\n".join(parts) + "\n", encoding="utf-8")
    print("\n".join(parts))


if __name__ == "__main__":
    main()
