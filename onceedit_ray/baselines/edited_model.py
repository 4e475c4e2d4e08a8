"""A model that an editor has changed, and can be restored.

There are two kinds of change: parameters with new values, and modules that wrap others. Both are kept apart from the
original, so a change can be undone bit for bit, saved by itself and applied again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from onceedit_ray.errors import ModelError

_PARAMETERS = "parameters.safetensors"
_MODULES = "modules.safetensors"
_MANIFEST = "edit.json"


class CurrentQuestion:
    """The state of the request, for modules inside an edited model: `prompt_tokens`, or None between requests. A
    codebook, for example, uses the prompt's last position and does not change the positions of the answer.
    """

    def __init__(self) -> None:
        self.prompt_tokens: int | None = None


class EditedModel:
    """A model in place, with its changes.

    Args:
        model: the model; it is changed in place and `undo` changes it back.
        editor: the name of the editor. settings: its settings, JSON-serialisable.
    """

    def __init__(self, model: PreTrainedModel, editor: str, settings: dict[str, Any]) -> None:
        self.model = model
        self.editor = editor
        self.settings = settings
        self.question = CurrentQuestion()
        self._originals: dict[str, Tensor] = {}
        self._wrapped: dict[str, nn.Module] = {}

    @torch.no_grad()
    def set_parameter(self, name: str, value: Tensor) -> None:
        """Give the parameter `name` new values; the first call for a name stores the original ones."""
        parameter = self.model.get_parameter(name)
        if name not in self._originals:
            self._originals[name] = parameter.detach().clone()
        parameter.copy_(value)

    def keep_parameter(self, name: str) -> nn.Parameter:
        """Store the values of the parameter `name` and return it: an optimiser may now change it in place."""
        parameter = self.model.get_parameter(name)
        self._originals.setdefault(name, parameter.detach().clone())
        return parameter

    def original(self, name: str) -> Tensor:
        """The values of a parameter before any edit."""
        return self._originals.get(name, self.model.get_parameter(name).detach())

    def wrap(self, path: str, module: nn.Module) -> None:
        """Replace the submodule at `path` by `module`; each path can be replaced once."""
        if path in self._wrapped:
            raise ModelError(f"{path} has been wrapped already; undo the edit first")
        self._wrapped[path] = self.model.get_submodule(path)
        self.model.set_submodule(path, module)

    def undo(self) -> None:
        """Restore the unedited model, bit for bit."""
        for path, module in self._wrapped.items():
            self.model.set_submodule(path, module)
        self._wrapped.clear()
        with torch.no_grad():
            for name, value in self._originals.items():
                self.model.get_parameter(name).copy_(value)
        self._originals.clear()

    @contextlib.contextmanager
    def whole_or_undone(self) -> Iterator[EditedModel]:
        """The block makes the edit; if it fails or is interrupted, the model is restored."""
        try:
            yield self
        except BaseException:
            self.undo()
            raise

    @contextlib.contextmanager
    def asked(self, prompt_tokens: int) -> Iterator[None]:
        """While the block runs, the modules inside know the length of the prompt."""
        self.question.prompt_tokens = prompt_tokens
        try:
            yield
        finally:
            self.question.prompt_tokens = None

    def save(self, folder: Path) -> None:
        """Write the changes only: changed parameters, states of added modules, and the editor with its settings."""
        folder.mkdir(parents=True, exist_ok=True)
        parameters = {name: self.model.get_parameter(name).detach().cpu().contiguous() for name in self._originals}
        modules = {
            f"{path}:{key}": value.detach().cpu().contiguous()
            for path in self._wrapped
            for key, value in self._added_state(path).items()
        }
        save_file(parameters, folder / _PARAMETERS)
        save_file(modules, folder / _MODULES)
        manifest = {"editor": self.editor, "settings": self.settings, "wrapped": sorted(self._wrapped)}
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def restored(cls, model: PreTrainedModel, folder: Path, editor: str) -> EditedModel:
        """The unedited `model` with the parameters that `save` wrote into `folder`.

        Raises `ModelError` if another editor made the edit, or if it was made on a model of another shape.
        """
        edited = cls(model, editor, read_edit(folder, editor)["settings"])
        try:
            with edited.whole_or_undone():
                for name, value in load_file(folder / _PARAMETERS).items():
                    edited.set_parameter(name, value)
        except (AttributeError, RuntimeError) as error:
            raise ModelError(
                f"the edit in {folder} does not fit {type(model).__name__} ({' '.join(str(error).split())}); "
                "load it on the model it was made on"
            ) from None
        return edited

    def _added_state(self, path: str) -> dict[str, Tensor]:
        """The state of a wrapper without that of the module it wraps (by convention its child `inner`)."""
        state = self.model.get_submodule(path).state_dict()
        return {key: value for key, value in state.items() if not key.startswith("inner.")}


def read_edit(folder: Path, editor: str) -> dict[str, Any]:
    """The manifest of an edit that `editor` made: `editor`, `settings`, `wrapped`.

    Raises `ModelError` if there is none, or if another editor made it.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        raise ModelError(f"{folder} holds no saved edit; make one with `EditedModel.save`") from None
    if manifest["editor"] != editor:
        raise ModelError(f"{folder} holds an edit by '{manifest['editor']}', not by '{editor}'; load it with that one")
    return manifest


def saved_modules(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The states of the modules that a saved edit adds, by their path."""
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(folder / _MODULES).items():
        path, name = key.split(":", 1)
        states.setdefault(path, {})[name] = value
    return states
