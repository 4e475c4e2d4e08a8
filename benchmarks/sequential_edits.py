"""Edits that arrive one batch after another: `python -m benchmarks.sequential_edits [--ways continue base]`.

Ten batches of twenty ZsRE edits. Each is made into a version and evaluated as in a served plug-in
(`living/build_version.py`), in both ways: "continue" trains the previous version further and rehearses, "base" starts
from the base plug-in with all edits so far. After each batch all edits so far are evaluated. At the end the last
version answers through the fused decoder on a real target, teacher-forced and as text. `--exact` also checks, bit for
bit, that deleting a batch gives the version that was made without it, and that going back to a version gives its
answers.

Prints a table; writes `sequential_edits.parquet` and `sequential_edits.png`. A measured batch is not measured again:
its line is stored beside the versions, in `ONCEEDIT_HOME`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onceedit_ray.config import RunConfig, load_config
from onceedit_ray.editing.run import recipe_of
from onceedit_ray.evaluation.evaluate import Evaluation
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.summary import summarise
from onceedit_ray.files import replacing
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import general_prompts, selected_edits
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.build_version import Report, build_version

RESULTS = Path(__file__).parent / "results"
WAYS = ("continue", "base")
WEIGHTS = "model.safetensors"
Line = dict[str, Any]


class Kept:
    """Lines that were measured before, by their inputs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def line(self, *key: object) -> Line | None:
        path = self._path(key)
        return json.loads(path.read_text()) if path.is_file() else None

    def keep(self, line: Line, *key: object) -> Line:
        with replacing(self._path(key)) as path:
            path.write_text(json.dumps(line))
        return line

    def _path(self, key: Sequence[object]) -> Path:
        return self._folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.json"


def in_sequence(
    config: RunConfig,
    store: KnowledgeStore,
    edits: Sequence[Edit],
    size: int,
    way: str,
    kept: Kept,
    base_at: Sequence[int] = (),
) -> list[Line]:
    """One line per batch; each version is the base of the next one, whatever its scores.

    base_at: numbers of edits at which "base" is measured, each version of which stands alone; () at every batch.
    """
    lines: list[Line] = []
    parent: Version | None = None
    config = _unbound(config, len(edits))
    for batch, end in enumerate(range(size, len(edits) + 1, size), start=1):
        if way == "base" and base_at and end not in base_at:
            continue
        so_far, new = edits[:end], edits[end - size : end]
        recipe = recipe_of(config, so_far, parent if way == "continue" else None)
        line = kept.line("batch", recipe.id)
        if line is None:
            began = time.monotonic()
            made = build_version(config, store, so_far, recipe.parent, new, _progress(f"{way} {batch}"))
            figures = {name: value for name, value in made.report.items() if name != "bounds"}
            line = {"way": way, "batch": batch, "edits": end, "version": made.version, **figures}
            manifest = store.get(made.version).manifest
            line |= {"train_seconds": manifest.seconds, "epochs": len(manifest.losses)}
            line |= {"complete": bool(manifest.gate["complete"]), "seconds": time.monotonic() - began}
            kept.keep(line, "batch", recipe.id)
        # The first batch gives the same version in both ways and is measured once.
        line |= {"way": way, "batch": batch, "all": _pooled(line)}
        lines.append(line)
        print(
            f"{way:8} batch {batch:2d}  {end:3d} edits  new {line['learnt']:.3f}  old {_shown(line['kept'])}  "
            f"all {line['all']:.3f}  generality {_shown(line['generality'])}  locality {_shown(line['locality'])}  "
            f"gate {line['recall']:.3f}/{line['false_alarms']:.3f}  {line['epochs']:2d} epochs "
            f"{line['train_seconds']:5.0f} s",
            flush=True,
        )
        parent = store.get(line["version"], verify=False)
    return lines


async def on_target(config: RunConfig, version: Version, edits: Sequence[Edit], target: str) -> Line:
    """Reliability of all edits, in each setting, through the fused decoder on a real target."""
    decoder = open_decoder(config, version.path, print, [target])
    asked = [edit.model_copy(update={"rephrasings": (), "locality": (), "portability": ()}) for edit in edits]
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if done % 50 == 0:
            print(f"{target}: {done}/{len(asked)}", flush=True)

    records = await Evaluation(decoder, target, config.name, config.evaluation, progress).run(asked)
    summary = summarise(records, [], config.fusion.threshold, version.id, len(edits), version.manifest.seconds)
    row = summary["targets"][target][config.fusion.strategy]
    return {name: row[name]["reliability"] for name in ("teacher_forced", "generation", "text_match")}


def exact(config: RunConfig, store: KnowledgeStore, edits: Sequence[Edit], size: int, target: str) -> Line:
    """Add a batch and delete it again, switch to the version with it and back, and compare the results bit for bit.

    The version without the batch is made in `store`, and in a store without the batch. Answers and gate weights of the
    version are compared before and after another version replaced it.
    """
    config = _unbound(config, len(edits))
    without = edits[:-size]
    store_anew = KnowledgeStore(onceedit_home() / "sequential-anew")
    made = {
        "with": build_version(config, store, edits, None, edits[-size:], _progress("with")).version,
        "deleted": build_version(config, store, without, None, (), _progress("deleted")).version,
        "never": build_version(config, store_anew, without, None, without, _progress("never")).version,
    }
    files = {name: (store_anew if name == "never" else store).get(id).manifest.files for name, id in made.items()}
    answers = asyncio.run(_there_and_back(config, store.get(made["deleted"]), store.get(made["with"]), edits, target))
    before, between, after = answers
    return {
        "deletion_exact": files["deleted"][WEIGHTS].sha256 == files["never"][WEIGHTS].sha256,
        "deletion_forgets": files["deleted"][WEIGHTS].sha256 != files["with"][WEIGHTS].sha256,
        "rollback_exact": before == after,
        "rollback_changes": before != between,
    }


async def _there_and_back(
    config: RunConfig, version: Version, other: Version, edits: Sequence[Edit], target: str
) -> list[list[tuple[tuple[int, ...], float | None]]]:
    """Tokens and gate weight of every edit's answer by a version, by another, and by the first, loaded again."""
    found = []
    for each in (version, other, version):
        decoder = open_decoder(config, each.path, targets=[target])
        answers = [await decoder.generate(target, edit.prompt, max_new_tokens=8) for edit in edits]
        found.append([(answer.token_ids, answer.weight) for answer in answers])
    return found


def _unbound(config: RunConfig, edits: int) -> RunConfig:
    """The configuration without acceptance bounds, so that a version that would be refused is still on the curve."""
    loose = {"learnt": 0.0, "kept": 0.0, "locality": 0.0, "false_alarms": 1.0, "near_misses": 1.0, "old_limit": edits}
    return config.model_copy(update={"living": config.living.model_copy(update=loose)})


def draw(lines: Sequence[Line], path: Path) -> None:
    """Reliability of all edits so far and seconds of training, batch by batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=(2, 1))
    for way in dict.fromkeys(line["way"] for line in lines):
        own = [line for line in lines if line["way"] == way]
        x = [line["edits"] for line in own]
        above.plot(x, [line["all"] for line in own], marker="o", label=f"all edits so far, {way}")
        above.plot(x, [line["locality"] for line in own], marker=".", linestyle=":", label=f"locality, {way}")
        below.plot(x, [line["train_seconds"] for line in own], marker="o", label=way)
    above.axhline(0.97, color="grey", linewidth=0.8)
    above.set_ylim(0.8, 1.005)
    above.set_ylabel("teacher-forced score")
    above.legend(fontsize=8)
    below.set_ylabel("seconds of training")
    below.set_xlabel("edits made, in batches one after another")
    below.legend(fontsize=8)
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    pyplot.close(figure)


def _progress(name: str) -> Report:
    def report(step: str, share: float) -> None:
        if step == "training" or share in (0.0, 1.0):
            print(f"  {name}: {step} {share:4.0%}", flush=True)

    return report


def _pooled(line: Line) -> float:
    """The mean over all edits, new and old."""
    old = line["kept"] or 0.0
    return float((line["learnt"] * line["new_edits"] + old * line["old_edits"]) / line["edits"])


def _shown(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the requested batches that are not measured yet, print the table, write Parquet and picture."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sequential_edits", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--config", type=Path, default=Path("configs/sequential.yaml"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--size", type=int, default=20, help="edits in a batch")
    parser.add_argument("--base-at", type=int, nargs="+", default=(), metavar="EDITS", help="measure 'base' there only")
    parser.add_argument("--target", help="ask a real target at the end (default: the first of the run file)")
    parser.add_argument("--exact", action="store_true", help="check that deletion and rollback are exact")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    config = load_config(options.config)
    edits = selected_edits(config.knowledge)
    store = KnowledgeStore(onceedit_home() / "sequential")
    kept = Kept(onceedit_home() / "sequential-lines")
    target = options.target or next(iter(config.targets))
    print(f"{len(edits)} edits, {len(general_prompts(config.evaluation.general, config.living.general_limit))} general")
    lines: list[Line] = []
    endings: dict[str, Line] = {}
    for way in options.ways:
        lines += in_sequence(config, store, edits, options.size, way, kept, options.base_at)
        if lines[-1]["edits"] < len(edits):  # measured at smaller sizes only
            write(options.results, lines, endings)
            continue
        last = store.get(lines[-1]["version"])
        asked = kept.line("target", target, last.id)
        if asked is None:
            asked = kept.keep(asyncio.run(on_target(config, last, edits, target)), "target", target, last.id)
        endings[way] = {"target": target, **asked}
        print(f"{way:8} all {len(edits)} on {target}: {json.dumps(asked)}", flush=True)
        write(options.results, lines, endings)
    if options.exact:
        checks = exact(config, store, edits[: 2 * options.size], options.size, target)
        print(json.dumps(checks), flush=True)
        write(options.results, lines, {way: {**ending, **checks} for way, ending in endings.items()})


def write(results: Path, lines: Sequence[Line], endings: dict[str, Line]) -> None:
    """Write the table, with the result of a real target in each way's last line, and the picture."""
    results.mkdir(parents=True, exist_ok=True)
    last = {line["way"]: line for line in lines}
    rows = [
        {**line, **(endings.get(line["way"], {}) if last[line["way"]] is line else {}), "machine": describe_machine()}
        for line in lines
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    with replacing(results / "sequential_edits.parquet") as path:
        pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), path)
    draw(lines, results / "sequential_edits.png")


if __name__ == "__main__":
    main()
