"""Putting a saved edit that consists of changed parameters onto an unedited model again."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from onceedit_ray.editing.edited_model import EditedModel, read_edit
from onceedit_ray.errors import ModelError


def restored(model: PreTrainedModel, folder: Path, editor: str) -> EditedModel:
    """`model` with the edit that `EditedModel.save` wrote into `folder`.

    Raises `ModelError` where another editor made the edit, or it was made on a model of another shape.
    """
    manifest = read_edit(folder)
    if manifest["editor"] != editor:
        raise ModelError(f"{folder} holds an edit by '{manifest['editor']}', not by '{editor}'; load it with that one")
    edited = EditedModel(model, editor, manifest["settings"])
    try:
        edited.restore_parameters(folder)
    except (AttributeError, RuntimeError) as error:
        edited.undo()
        raise ModelError(
            f"the edit in {folder} does not fit {type(model).__name__} ({' '.join(str(error).split())}); "
            "load it on the model it was made on"
        ) from None
    return edited
