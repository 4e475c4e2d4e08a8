"""The gate on what is not about an edit: `python -m benchmarks.near_misses [--config FILE] [--cases FILE]`.

All edits of the run file are live. The gate is asked about every near miss (the same subject, another relation) and
every task on a text of `data/conversations`, in one plug-in pass each; no target is loaded. Counts those that open it,
beside the prompts of the edits themselves. Writes `near_misses.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ratios import RESULTS
from onceedit_ray.config import load_config
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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("configs/conversations.yaml"))
    parser.add_argument("--cases", type=Path, default=Path("data/conversations/cases.jsonl"), metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    version = own_version(config, open_store())
    decoder = FusedDecoder(load_plugin(config, version), config.fusion)
    prompts = [edit.prompt for edit in version.edits()]
    asked = [(OWN, prompt) for prompt in prompts]
    for case in read_cases(options.cases, prompts):
        if case.kind in KINDS:
            asked.append((case.kind, case.messages[-1].content))

    async def weights() -> list[float]:
        return [await decoder.gate(question) for _, question in asked]

    gate = asyncio.run(weights())
    rows, opened = [], []
    for kind in (OWN, *KINDS):
        of_kind = [w for (its_kind, _), w in zip(asked, gate, strict=True) if its_kind == kind]
        many = sum(w >= config.fusion.threshold for w in of_kind)
        rows.append([kind, str(len(of_kind)), str(many), f"{max(of_kind):.3f}", f"{sum(of_kind) / len(of_kind):.3f}"])
    for (kind, question), w in zip(asked, gate, strict=True):
        if kind != OWN and w >= config.fusion.threshold:
            opened.append(f"- w = {w:.3f}, {kind}: {markdown_text(question)}")
    table = markdown_table(["asked", "n", "opens the gate", "largest w", "mean w"], rows, figures=4)
    page = [
        "# What is not about an edit, and the gate",
        f"{len(prompts)} edits live, threshold {config.fusion.threshold:g}; {describe_machine()}.",
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
