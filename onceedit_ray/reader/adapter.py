"""A trained reader on disk: a PEFT adapter, the row of `[WEIGHT]`, and a manifest.

    adapter_config.json, adapter_model.safetensors   the low-rank adapters, as PEFT writes them
    weight_token.safetensors                          `row_D`, float32 [D]: the gate reads h·row_D
    reader.json                                       `ReaderManifest`: base model, settings, figures, checksums

The adapters of the catalogue's plug-ins ship with the package. `reader_folder` merges a base model and an adapter once,
into an ordinary model folder under `ONCEEDIT_HOME/readers`.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from onceedit_ray import __version__
from onceedit_ray.digest import digest
from onceedit_ray.errors import ModelError, StoreError
from onceedit_ray.files import new_folder
from onceedit_ray.home import onceedit_home
from onceedit_ray.models.loading import load_model, load_tokenizer, without_progress_bars
from onceedit_ray.models.sources.folder import ModelFolder
from onceedit_ray.models.weight_token import add_weight_token

MANIFEST = "reader.json"
GATE = "weight_token.safetensors"
GATE_ROW = "row_D"
WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
FILES = (PEFT_CONFIG, WEIGHTS, GATE)


class ReaderManifest(BaseModel):
    """The manifest of an adapter.

    base_model, base_digest: the plug-in it belongs to. settings: of the training. figures: measured on facts that were
        not used in training. command: how it was made. files: SHA-256 of each other file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    base_model: str
    base_digest: str
    settings: dict[str, Any] = Field(default_factory=dict)
    figures: dict[str, Any] = Field(default_factory=dict)
    command: str = ""
    onceedit_version: str = __version__
    files: dict[str, str]


@dataclass(frozen=True)
class Adapter:
    """A reader's adapter: its folder and its manifest. digest: of its weights, part of a version's id."""

    folder: Path
    manifest: ReaderManifest

    @property
    def digest(self) -> str:
        return digest(self.manifest.files)


def open_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`, its checksums verified; raises `ModelError` if it is missing or altered."""
    try:
        manifest = ReaderManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{folder} holds no reader: it has no {MANIFEST}; `onceedit reader train` makes one") from None
    except (OSError, ValidationError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{folder / MANIFEST} cannot be read ({reason}); copy the adapter again") from None
    for name in FILES:
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path} is missing; copy the adapter again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != manifest.files.get(name):
            raise ModelError(f"{path} is cut short or altered (its SHA-256 differs); copy the adapter again")
    return Adapter(folder, manifest)


def adapter_for(base: ModelFolder, editor: str) -> Adapter:
    """The adapter that an editor setting names for a plug-in.

    Args:
        base: the plug-in before any edit.
        editor: `reader` takes the adapter that ships for `base`, `reader:FOLDER` the one in FOLDER.

    Raises:
        ModelError: no adapter ships for `base`, or the one named belongs to another model.
    """
    _, _, named = editor.partition(":")
    if named:
        adapter = open_adapter(Path(named).expanduser())
        if adapter.manifest.base_digest != base.digest:
            raise ModelError(
                f"the reader in {named} was trained for {adapter.manifest.base_model}, not for {base.name}; "
                f"train one with `onceedit reader train --plugin {base.source}`"
            )
        return adapter
    for folder in _shipped():
        adapter = open_adapter(folder)
        if adapter.manifest.base_digest == base.digest:
            return adapter
    raise ModelError(
        f"no reader ships for {base.name}; train one with `onceedit reader train --plugin {base.source} --out FOLDER` "
        "and name it in the run file as `editor: reader:FOLDER`"
    )


def keep_adapter(adapter: Adapter) -> None:
    """Copy an adapter that is not in the package to `ONCEEDIT_HOME`, so that versions find it by its digest."""
    if adapter.folder in _shipped():
        return
    kept = _kept(adapter.digest)
    if kept.is_dir():
        return
    try:
        with new_folder(kept) as folder:
            shutil.copytree(adapter.folder, folder, dirs_exist_ok=True)
    except OSError as error:
        raise StoreError(f"the reader cannot be kept in {kept} ({error}); make room there") from error


def find_adapter(wanted: str) -> Adapter:
    """The adapter with a digest, among those in the package and those kept; raises `ModelError` if there is none."""
    for folder in [*_shipped(), _kept(wanted)]:
        if folder.is_dir() and (adapter := open_adapter(folder)).digest == wanted:
            return adapter
    raise ModelError(
        f"the reader {wanted[:12]} of this version is not here; copy its folder and name it in the run file as "
        "`editor: reader:FOLDER`, then run `onceedit edit` again"
    )


def write_adapter(folder: Path, model: Any, row_D: Tensor, manifest: ReaderManifest) -> Adapter:
    """Save a PEFT model's adapters, in bfloat16, and the gate's row to a new folder; `manifest.files` is filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS)
    (folder / "README.md").unlink(missing_ok=True)
    save_file({GATE_ROW: row_D.detach().float().cpu().contiguous()}, folder / GATE)
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    sealed = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(sealed.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return Adapter(folder, sealed)


def load_weights(reader: Any, adapter: Adapter) -> None:
    """Copy an adapter's weights and its gate's row into a `reader.train.ReaderModel`.

    Raises:
        ModelError: the adapter has another rank, or other layers.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    weights = load_file(adapter.folder / WEIGHTS)
    wanted = {name: tensor.shape for name, tensor in get_peft_model_state_dict(reader.model).items()}
    if {name: tensor.shape for name, tensor in weights.items()} != wanted:
        raise ModelError(
            f"the adapter in {adapter.folder} has another rank or other layers; give its own --rank and --frozen-layers"
        )
    set_peft_model_state_dict(reader.model, {name: tensor.float() for name, tensor in weights.items()})
    with torch.no_grad():
        reader.gate_D.copy_(load_file(adapter.folder / GATE)[GATE_ROW])


def reader_folder(base: ModelFolder, adapter: Adapter) -> Path:
    """The plug-in with the adapter merged into it, as a model folder; made on first use, in about ten seconds.

    Raises:
        ModelError: the base model cannot be loaded, or the adapter does not fit it.
    """
    name = f"{base.name}-{digest([base.digest, adapter.digest])[:12]}"
    made = onceedit_home() / "readers" / name
    if not made.is_dir():
        with new_folder(made) as folder:
            _merge(base.path, adapter.folder, folder)
    return made


def _merge(base: Path, adapter: Path, to: Path) -> None:
    from peft import PeftModel

    model, tokenizer = load_model(base, dtype="float32", device="cpu"), load_tokenizer(base)
    try:
        merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        row_D = load_file(adapter / GATE)[GATE_ROW]
    except (SafetensorError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the reader in {adapter} does not fit {base.name}: {reason}") from None
    weight_id = add_weight_token(merged, tokenizer)
    with torch.no_grad():
        merged.get_output_embeddings().weight[weight_id] = row_D
    with without_progress_bars():
        merged.to(torch.bfloat16).save_pretrained(to)
    tokenizer.save_pretrained(to)


def _shipped() -> list[Path]:
    """The folders of the adapters in the package."""
    folder = Path(str(resources.files("onceedit_ray.reader").joinpath("adapters")))
    return sorted(path for path in folder.iterdir() if (path / MANIFEST).is_file()) if folder.is_dir() else []


def _kept(wanted: str) -> Path:
    return onceedit_home() / "adapters" / wanted[:16]
