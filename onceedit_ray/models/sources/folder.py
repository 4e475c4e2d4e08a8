"""A model folder, the result of every source: its required files, and the digest of its content.

The layout is the one transformers reads: `config.json`, safetensors, a tokenizer. Pickled weights are never accepted,
because reading them runs code. This module does not know where the folder came from.
"""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from onceedit_ray.errors import ModelError
from onceedit_ray.location import LEFT_BEHIND
from onceedit_ray.models.sources.checksum import file_sha256

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"))


@dataclass(frozen=True)
class ModelFolder:
    """A causal language model on disk.

    name: its name in tables and messages.
    path: folder with config, safetensors and tokenizer.
    source: the reference it came from, with its scheme.
    digest: hexadecimal SHA-256 that changes when the weights, the configuration or the tokenizer change.
    licence: the licence of the weights, as far as their source states it.
    """

    name: str
    path: Path
    source: str
    digest: str
    licence: str


def check_folder(path: Path) -> None:
    """Raise `ModelError` unless `path` holds a config, whole safetensors and a tokenizer."""
    config = path / "config.json"
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is no model folder: it has no config.json; give the folder that holds it") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{config} cannot be read ({error}); copy the model again") from None
    if not isinstance(described, dict) or "model_type" not in described:
        raise ModelError(f"{config} names no model_type, so this is no transformers model; copy the model again")
    for shard in weight_files(path):
        try:
            with safe_open(shard, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{shard} is damaged or cut short ({error}); copy or download it again") from None
    if not any(all((path / name).is_file() for name in names) for names in TOKENIZERS):
        raise ModelError(
            f"{path} has no tokenizer: no tokenizer.json, no tokenizer.model, no vocab.json with merges.txt"
        )


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of the model in `path`, in stable order; raises `ModelError` if any is missing."""
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    index = path / INDEX
    if not index.is_file():
        pickled = sorted(found.name for pattern in PICKLES for found in path.glob(pattern))
        if pickled:
            raise ModelError(
                f"{path} has only pickled weights ({pickled[0]}), which can run code when read: "
                f"convert them to safetensors or take a copy of the model that has {SINGLE}"
            )
        raise ModelError(
            f"{path} has no weights: expected {SINGLE} or {INDEX}; {LEFT_BEHIND} "
            "(such as *.safetensors): name the model by its absolute path"
        )
    try:
        shards = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, AttributeError):
        raise ModelError(f"{index} cannot be read as an index of weights; copy the model again") from None
    for name in shards:
        if Path(name).name != name or not (path / name).is_file():
            raise ModelError(f"{path} lacks {name}, which {INDEX} lists; copy or download the model again")
    return [path / name for name in shards]


def tokenizer_folder(path: Path) -> ModelFolder:
    """A folder that may hold a tokenizer alone, for a model whose weights a server has."""
    has_weights = (path / SINGLE).is_file() or (path / INDEX).is_file()
    return ModelFolder(path.name, path, f"local:{path}", folder_digest(path, has_weights), "")


def folder_digest(path: Path, has_weights: bool = True) -> str:
    """Identity of a folder by the content of its weights, if it has them, its configuration and tokenizer files."""
    small = {name for names in TOKENIZERS for name in names} | {"config.json", "tokenizer_config.json"}
    files = weight_files(path) if has_weights else []
    files += [path / name for name in sorted(small) if (path / name).is_file()]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name} {file_sha256(file)}\n".encode())
    return total.hexdigest()


def no_space(error: BaseException) -> bool:
    """Whether `error`, of any library, says that a disk is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def one_line(error: BaseException) -> str:
    """The first line of `error` without its full stop, for use within another message."""
    return (str(error).strip().partition("\n")[0] or type(error).__name__).removesuffix(".")
