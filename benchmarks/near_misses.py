"""How often the gate opens for requests about no edit: `python -m benchmarks.near_misses [--config FILE]`.

The gate is asked about every near miss (the same subject, another relation) and every task on a text of
`data/conversations`, in one plug-in pass each; no target is loaded. Counts those that open it, beside the prompts of
the edits themselves: while all edits of the run file are live, and while samples of 15 are. Writes `near_misses.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ratios import RESULTS
from onceedit_ray.config import RunConfig, load_config
from onceedit_ray.editing.run import own_version
from onceedit_ray.evaluation.conversation_cases import read_cases
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table, markdown_text
from onceedit_ray.files import replacing
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.system import load_plugin
from onceedit_ray.knowledge.store import open_store

NAME = "near_misses.md"
KINDS = ("near-miss", "task-on-text")
OWN = "the edit's own prompt"
FEW = 15
"""Number of edits of a sample."""


def weights(config: RunConfig, questions: Sequence[str]) -> tuple[list[str], list[float]]:
    """The prompts of the edits of a run file, and the gate's weight for each of these and of the questions."""
    version = own_version(config, open_store())
    decoder = FusedDecoder(load_plugin(config, version), config.fusion)
    prompts = [edit.prompt for edit in version.edits()]

    async def asked() -> list[float]:
        return [await decoder.gate(question) for question in (*prompts, *questions)]

    return prompts, asyncio.run(asked())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/conversations.yaml"))
    parser.add_argument("--cases", type=Path, default=Path("data/conversations/cases.jsonl"), metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3], help="of the samples of 15 edits")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    samples = [config] + [
        config.model_copy(update={"knowledge": config.knowledge.model_copy(update={"limit": FEW, "seed": seed})})
        for seed in options.seeds
    ]
    everything = [edit.prompt for edit in own_version(config, open_store()).edits()]
    rest = [
        (case.kind, case.messages[-1].content) for case in read_cases(options.cases, everything) if case.kind in KINDS
    ]
    rows, opened = [], []
    for sample in samples:
        prompts, gate = weights(sample, [question for _, question in rest])
        of = "" if sample is config else f" (seed {sample.knowledge.seed})"
        of_kind = {OWN: gate[: len(prompts)]}
        for (kind, question), w in zip(rest, gate[len(prompts) :], strict=True):
            of_kind.setdefault(kind, []).append(w)
            if w >= config.fusion.threshold:
                opened.append(f"- {len(prompts)} edits{of}, w = {w:.3f}, {kind}: {markdown_text(question)}")
        for kind, found in of_kind.items():
            many = sum(w >= config.fusion.threshold for w in found)
            figures = [f"{max(found):.3f}", f"{sum(found) / len(found):.3f}"]
            rows.append([f"{len(prompts)}{of}", kind, str(len(found)), str(many), *figures])
    table = markdown_table(["live edits", "asked", "n", "open the gate", "largest w", "mean w"], rows, figures=4)
    page = [
        "# What is not about an edit, and the gate",
        f"Threshold {config.fusion.threshold:g}; {describe_machine()}.",
        table,
        "Those that open it:\n\n" + "\n".join(opened) if opened else "None of them opens it.",
        f"`{shlex.join(['python', '-m', 'benchmarks.near_misses', *sys.argv[1:]])}`",
    ]
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / NAME) as temporary:
        temporary.write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print("\n\n".join(page))


if __name__ == "__main__":
    main()
