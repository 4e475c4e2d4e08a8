"""Reads the data from which a baseline may learn besides the edits, and prepares a baseline ahead of a run.

Statistics and hyper-networks are kept under `ONCEEDIT_HOME`/baselines, by model, data and settings, so later runs with
the same files find the results of `prepare_baseline`. This module knows no method by name.
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
    edited: Path | str | None = None,
    unrelated: Sequence[Path] = (),
) -> Material:
    """The material for one model.

    Args:
        corpus: files of texts for statistics. training: a dataset's training part; edited: the file of the edits to be
            made; all its prompts are left out of the training part, so that training does not depend on which edits
            were drawn. unrelated: files of prompts that are about no edit.

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
    edited: Path | str | None = None,
    threads: int = 0,
) -> None:
    """Prepare the baseline `name` for the model `reference`, with its preset; resumes an interrupted preparation.

    Raises `ConfigError` for an unknown baseline, `ModelError` for a model that it cannot edit, `DataError` for missing
    material; the files are those of `read_material`.
    """
    BASELINES.get(name)
    folder = resolve(reference, progress)
    material = read_material(folder, corpus, training, edited)
    use_threads(threads)
    model = load_model(folder.path, dtype="float32", device="auto")
    method: Baseline = BASELINES.get(name)(preset(name, model))
    method.check(model)
    method.prepare(model, load_tokenizer(folder.path), material, progress)
