"""`onceedit reader train`: train a reader for a plug-in."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from onceedit_ray.location import local_path
from onceedit_ray.progress import Count, Progress

if TYPE_CHECKING:
    from onceedit_ray.reader.training_run import StepReport


def add_reader_actions(reader: argparse.ArgumentParser) -> None:
    """Add the actions of `onceedit reader` to its parser."""
    actions = reader.add_subparsers(required=True, metavar="ACTION")
    train = actions.add_parser("train", help="train a reader for a plug-in, once; resumes if interrupted")
    train.add_argument("--plugin", default="smollm2-135m", metavar="MODEL", help="any reference of `models list`")
    train.add_argument("--out", type=local_path, required=True, metavar="FOLDER", help="where the adapter goes")
    train.add_argument(
        "--from",
        dest="start_from",
        metavar="FOLDER",
        help="train this adapter further; `shipped` names the one that ships for the plug-in",
    )
    train.add_argument("--data", type=local_path, default=Path("data"), metavar="FOLDER", help="the repository's data/")
    train.add_argument("--steps", type=int, default=1500, metavar="N")
    train.add_argument("--batch-size", type=int, default=16, metavar="N", help="examples a step")
    train.add_argument("--learning-rate", type=float, default=5e-4, metavar="RATE")
    train.add_argument("--rank", type=int, default=16, metavar="N", help="of the adapters")
    train.add_argument("--frozen-layers", type=int, metavar="N", help="lowest layers to freeze (default: a third)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--threads", type=int, default=0, metavar="N", help="0: every core")
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from onceedit_ray.models.sources import resolve
    from onceedit_ray.progress import ProgressDisplay
    from onceedit_ray.reader.adapter import adapter_for
    from onceedit_ray.reader.training_data import read_training_data
    from onceedit_ray.reader.training_run import ReaderSettings, train_reader

    material = read_training_data(options.data)
    settings = ReaderSettings(
        options.steps,
        options.batch_size,
        options.learning_rate,
        options.rank,
        options.frozen_layers,
        seed=options.seed,
    )
    show = ProgressDisplay()
    base = resolve(options.plugin, show)
    start_from = None
    if options.start_from:
        start_from = adapter_for(base, "reader" if options.start_from == "shipped" else f"reader:{options.start_from}")
    command = shlex.join(["onceedit", *sys.argv[1:]])
    told = _told(show, base.name)
    adapter = train_reader(base, material, settings, options.out, told, command, options.threads, start_from)
    for name, figure in adapter.manifest.figures.items():
        print(f"{name:32} {figure:.3f}")
    print(f"{options.out}: name it in a run file as `editor: reader:{options.out}`")


def _told(show: Progress, name: str) -> Callable[[StepReport], None]:
    def tell(step: StepReport) -> None:
        note = (
            f"edit loss {step.edit_loss:.3f}, gate loss {step.weight_loss:.3f}, gates open asked {step.asked_open:.0%} "
            f"and {step.asked_false:.1%}, in texts {step.along_open:.0%} and {step.along_false:.1%}"
        )
        show(Count(f"training a reader for {name}", step.step, step.steps, note))

    return tell
