"""GGUF files, converted once to safetensors.

A GGUF file is de-quantised to float32 by transformers and saved, with its tokenizer, under
`onceedit_home()/models/<name>-<first 12 of the digest>/`; every later use loads that folder in about a second. The
folder appears by one rename, so it is either whole or absent, and a lock keeps two processes from doing the same work.
This module does not know where the file came from: `obtain` provides it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from onceedit_ray.errors import ModelError
from onceedit_ray.files import new_folder
from onceedit_ray.home import onceedit_home
from onceedit_ray.location import left_behind
from onceedit_ray.models.loading import without_progress_bars
from onceedit_ray.models.sources import SOURCES, ModelFolder, ModelSource
from onceedit_ray.models.sources.checksum import file_sha256
from onceedit_ray.models.sources.folder import no_space, one_line
from onceedit_ray.models.sources.gguf_header import Scalar, read_header
from onceedit_ray.models.sources.gguf_tokenizer import check_split, set_split
from onceedit_ray.progress import Progress

RECORD = "onceedit.json"

# Increase this number whenever a conversion gives other weights or another tokenizer, so that old folders are not used.
# 2: the split of every known pre-tokenizer is set, unknown ones are refused.
CONVERSION = 2


@SOURCES.register("gguf")
class GgufSource(ModelSource):
    """A GGUF file of this machine."""

    form: ClassVar[str] = "a path ending in .gguf"
    precedence: ClassVar[int] = 3

    def recognises(self, reference: str) -> bool:
        return reference.lower().endswith(".gguf")

    def check(self, address: str) -> None:
        path = Path(address).expanduser().absolute()
        if not path.is_file():
            raise ModelError(f"there is no file {path}; give the path of a GGUF file{left_behind(address)}")

    def fetch(self, address: str, progress: Progress) -> ModelFolder:
        self.check(address)
        path = Path(address).expanduser().absolute()
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "model"
        return convert_once(name, file_sha256(path), f"gguf:{path}", None, lambda: path, progress)


def conversion_digest(gguf_sha256: str, conversion: int | None = None) -> str:
    """Identity of the model that a conversion (None: today's) makes from the GGUF file with this checksum."""
    return hashlib.sha256(f"gguf {gguf_sha256} conversion {conversion or CONVERSION}".encode()).hexdigest()


def converted_folder(name: str, gguf_sha256: str, conversion: int | None = None) -> Path:
    """The folder of the converted model; if it exists, it is complete."""
    return onceedit_home() / "models" / f"{name}-{conversion_digest(gguf_sha256, conversion)[:12]}"


def convert_once(
    name: str,
    gguf_sha256: str,
    source: str,
    licence: str | None,
    obtain: Callable[[], Path],
    progress: Progress,
    conversion: int | None = None,
) -> ModelFolder:
    """The converted model, made now unless it exists.

    Args:
        gguf_sha256: checksum of the GGUF file that `obtain` gives. licence: of the weights; None: as the file says.
        obtain: gives the path of the GGUF file, fetching and verifying it; called only when a conversion is needed.
        conversion: number of an earlier conversion that made the same model from this file; its number names the
            folder.

    Raises:
        ModelError: the file cannot be fetched, read or converted, or the disk is full; nothing is left behind.
    """
    target = converted_folder(name, gguf_sha256, conversion)
    digest = conversion_digest(gguf_sha256, conversion)
    if not target.is_dir():
        with _only_one(target, progress):
            if not target.is_dir():
                gguf = obtain()
                with disk_errors(target), new_folder(target) as staged:
                    progress(f"converting {name} to safetensors (once, about a minute)")
                    header = read_header(gguf)
                    _convert(gguf, header, staged)
                    record = {"name": name, "source": source, "digest": digest, "gguf_sha256": gguf_sha256}
                    stated = str(header.get("general.license", "not stated in the file"))
                    record["licence"] = stated if licence is None else licence
                    (staged / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if licence is None:
        licence = str(json.loads((target / RECORD).read_text(encoding="utf-8"))["licence"])
    return ModelFolder(name, target, source, digest, licence)


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn disk errors while `target` is made into a `ModelError` of one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if no_space(error):
            raise ModelError(f"no space left for {target}; free some or set ONCEEDIT_HOME to another disk") from error
        raise ModelError(f"{target} cannot be made: {one_line(error)}; check ONCEEDIT_HOME") from error


@contextmanager
def _only_one(target: Path, progress: Progress) -> Iterator[None]:
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another process that is preparing {target.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _convert(gguf: Path, header: dict[str, Scalar], folder: Path) -> None:
    if header.get("tokenizer.ggml.model") == "gpt2":
        try:
            check_split(header.get("tokenizer.ggml.pre"))
        except ModelError as error:
            raise ModelError(f"{gguf} cannot be converted: {error}") from None
    try:
        with without_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    except (ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        known = header.get("general.architecture", "unknown")
        raise ModelError(
            f"{gguf} (architecture '{known}') cannot be converted: {one_line(error)}; "
            "use a safetensors copy of the model instead"
        ) from error
    # A model loaded from GGUF is still marked as quantised, so it cannot be saved, or is wrong when loaded again.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with without_progress_bars():
        model.save_pretrained(folder)
    _mend(tokenizer, header)
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None:
        tokenizer.model_max_length = limit
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read


def _mend(tokenizer: PreTrainedTokenizerBase, header: dict[str, Scalar]) -> None:
    """Restore tokenizer settings that the conversion loses."""
    if header.get("tokenizer.ggml.model") == "gpt2":
        set_split(tokenizer, str(header["tokenizer.ggml.pre"]))
