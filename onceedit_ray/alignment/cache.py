"""Alignments on disk: built once per model, anchors and settings, loaded by memory map.

`ONCEEDIT_HOME/alignments/<key>/` holds `tensors.safetensors` and `entry.json` (what it is, its values, a checksum). An
entry appears by one rename, so it is never partial; a damaged entry is built again. The next build removes what a
killed process left half-written. The cache is never the only copy: if it cannot be written, the built entry is used
from memory. This module does not know what the tensors mean.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onceedit_ray.files import new_folder, remove_leftovers
from onceedit_ray.home import onceedit_home

# Part of every key: raise it when what is computed, or how it is stored, changes.
FORMAT = 1
_TENSORS, _DESCRIPTION = "tensors.safetensors", "entry.json"
_CHUNK = 1 << 24
_DAMAGE = (OSError, ValueError, KeyError, SafetensorError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A cached entry: tensors by name, and a few numbers."""

    tensors: dict[str, Tensor]
    values: dict[str, float] = field(default_factory=dict)


def embedding_digest(E_VD: Tensor) -> str:
    """sha256 of an embedding matrix: dtype, shape and bytes; about a second per GB."""
    data = E_VD.detach().contiguous().cpu()
    digest = hashlib.sha256(f"{data.dtype} {tuple(data.shape)} ".encode())
    for rows in data.view(torch.uint8).flatten().split(_CHUNK):
        digest.update(rows.numpy().data)
    return digest.hexdigest()


def cache_key(part: str, digest: str, ids: Mapping[str, Tensor], settings: Mapping[str, float]) -> str:
    """sha256 over what a part is computed from.

    Args:
        part: name of the computation. digest: identifies the embeddings, see `embedding_digest`.
        ids: the token ids that are its inputs, by role. settings: the numbers that are its inputs, by name.
    """
    key = hashlib.sha256(json.dumps([FORMAT, part, digest, sorted(settings.items())]).encode())
    for role, tensor in sorted(ids.items()):
        key.update(f"{role} {len(tensor)} ".encode() + tensor.long().cpu().numpy().tobytes())
    return key.hexdigest()


def load_or_build(key: str, build: Callable[[], Entry], about: Mapping[str, str]) -> Entry:
    """The entry of `key`: read from disk if it is there and undamaged, otherwise built and written.

    `about` is stored beside the tensors for human readers. A damaged entry, or one that cannot be written, gives one
    warning line on this module's logger.
    """
    folder = onceedit_home() / "alignments" / key
    if folder.exists():
        try:
            return _load(folder)
        except _DAMAGE as error:
            logger.warning("alignment %s is damaged (%s); building it again", folder, _line(error))
    entry = build()
    try:
        _commit(folder, entry, about)
    except (OSError, SafetensorError) as error:
        logger.warning("alignment %s could not be written (%s); it is used from memory", folder, _line(error))
    return entry


def _load(folder: Path) -> Entry:
    """Raises one of `_DAMAGE` unless every byte is as it was written."""
    description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
    tensors = folder / _TENSORS
    if not isinstance(description, dict) or _checksum(tensors) != description["crc32"]:
        raise ValueError("its checksum is not the one noted in entry.json")
    with safe_open(tensors, framework="pt") as stored:
        return Entry({name: stored.get_tensor(name) for name in stored.keys()}, dict(description["values"]))  # noqa: SIM118


def _commit(folder: Path, entry: Entry, about: Mapping[str, str]) -> None:
    remove_leftovers(folder.parent)
    with new_folder(folder, _is_whole) as new:
        save_file({name: tensor.contiguous().cpu() for name, tensor in entry.tensors.items()}, new / _TENSORS)
        description = {"about": dict(about), "values": entry.values, "crc32": _checksum(new / _TENSORS)}
        (new / _DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")


def _is_whole(folder: Path) -> bool:
    try:
        _load(folder)
    except _DAMAGE:
        return False
    return True


def _checksum(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
