"""The facts at the head of a GGUF file: its scalar metadata, and whether its tensors are all there.

Reads the header only: a fraction of a second where the `gguf` package's reader takes ten for a large vocabulary.
Knows nothing about models. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (2 and 3, little-endian).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from onceedit_ray.errors import ModelError

Scalar = str | int | float | bool

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


def read_header(path: Path) -> dict[str, Scalar]:
    """Metadata of the file by key; arrays, the vocabulary among them, are left out.

    Raises:
        ModelError: no GGUF file, a version that is not read, or a file cut short.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} is no GGUF file; give a file in GGUF format or a folder with safetensors")
            version, tensors, keys = _unpack(file, "IQQ")
            if version not in (2, 3):
                raise ModelError(f"{path} is GGUF version {version}, expected 2 or 3; make it anew with llama.cpp")
            header = dict(_metadata(file) for _ in range(keys))
            data_bytes = max((_tensor_end(file) for _ in range(tensors)), default=0)
            head_bytes = file.tell()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; check the path") from None
    except (struct.error, ValueError, KeyError, MemoryError, OverflowError):
        raise ModelError(f"{path} is damaged or cut short in its header; download it again") from None
    alignment = int(header.get("general.alignment") or _ALIGNMENT)
    expected = math.ceil(head_bytes / alignment) * alignment + data_bytes
    if path.stat().st_size < expected:
        raise ModelError(f"{path} is cut short: {path.stat().st_size} bytes, expected {expected}; download it again")
    return {key: value for key, value in header.items() if value is not None}


def _unpack(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack("<" + layout, file.read(struct.calcsize("<" + layout)))


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "Q")
    return file.read(length).decode("utf-8", errors="replace")


def _metadata(file: BinaryIO) -> tuple[str, Scalar | None]:
    key = _text(file)
    (kind,) = _unpack(file, "I")
    if kind == _ARRAY:
        _skip_array(file)
        return key, None
    return key, _text(file) if kind == _STRING else _unpack(file, _SCALARS[kind])[0]


def _skip_array(file: BinaryIO) -> None:
    kind, count = _unpack(file, "IQ")
    if kind == _STRING:
        for _ in range(count):
            file.seek(_unpack(file, "Q")[0], 1)
    else:
        file.seek(count * struct.calcsize("<" + _SCALARS[kind]), 1)


def _tensor_end(file: BinaryIO) -> int:
    """Where the next tensor ends, in bytes from the start of the data."""
    _text(file)
    (dimensions,) = _unpack(file, "I")
    elements = math.prod(_unpack(file, f"{dimensions}Q"))
    kind, offset = _unpack(file, "IQ")
    block_elements, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return int(offset + elements // block_elements * block_bytes)
