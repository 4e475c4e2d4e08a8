"""What a baseline may learn from beside the edits, read from files; and making what it needs ahead of a run.

Statistics and hyper-networks are kept under `ONCEEDIT_HOME`/baselines, by model, data and settings, so what
`prepare_baseline` made is found by every later run that is given the same files. Knows no method by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onceedit_ray.baselines import BASELINES, Baseline, Material, preset
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.prompt_files import read_prompts
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.selection import normalised
from onceedit_ray.models.assembly import use_threads
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.progress import Progress


def read_material(
    folder: ModelFolder,
    corpus: Sequence[Path] = (),
    training: Path | None = None,
    edited: Path | None = None,
    unrelated: Sequence[Path] = (),
) -> Material:
    """The material for one model.

    Args:
        corpus: files of texts for statistics. training: a dataset's training part; edited: the file that the edits to
            be made come from, whose prompts are left out of the training part, all of them, so that what is trained
            does not hang on which were drawn. unrelated: files of prompts that are about no edit.

    Raises `DataError` for a file that cannot be read.
    """
    taken = {normalised(edit.prompt) for edit in read_edits(edited)} if edited else set()
    edits = read_edits(training) if training else []
    return Material(
        corpus=[text for file in corpus for text in read_prompts(file)],
        training=[edit for edit in edits if normalised(edit.prompt) not in taken],
        unrelated=[prompt for file in unrelated for prompt in read_prompts(file)],
        cache=onceedit_home() / "baselines",
        digest=folder.digest,
    )


def prepare_baseline(
    name: str,
    reference: str,
    progress: Progress,
    *,
    corpus: Sequence[Path] = (),
    training: Path | None = None,
    edited: Path | None = None,
    threads: int = 0,
) -> None:
    """Make what the baseline `name` needs for the model `reference`, with its preset, or go on where that stopped.

    Raises `ConfigError` for an unknown baseline, `ModelError` for a model it cannot edit, `DataError` for material that
    is missing; the files are as `read_material` takes them.
    """
    BASELINES.get(name)
    folder = resolve(reference, progress)
    material = read_material(folder, corpus, training, edited)
    use_threads(threads)
    model = load_model(folder.path, dtype="float32", device="auto")
    method: Baseline = BASELINES.get(name)(preset(name, model))
    method.check(model)
    method.prepare(model, load_tokenizer(folder.path), material, progress)
