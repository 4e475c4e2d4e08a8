"""The scalar metadata in the header of a GGUF file. This module does not know models.

The `gguf` package reads the whole header and finds every tensor, which takes about ten seconds for a large vocabulary,
so call this once and keep the result.
"""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader, GGUFValueType

from onceedit_ray.errors import ModelError
from onceedit_ray.models.sources.folder import one_line

Scalar = str | int | float | bool


def read_header(path: Path) -> dict[str, Scalar]:
    """Metadata of the file by key; arrays, the vocabulary among them, are left out.

    Raises:
        ModelError: no GGUF file, a version that is not read, or a file cut short.
    """
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} is no GGUF file; give a file in GGUF format or a folder with safetensors")
        fields = GGUFReader(path).fields
        return {key: field.contents() for key, field in fields.items() if field.types[0] != GGUFValueType.ARRAY}
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; check the path") from None
    except (ValueError, KeyError, IndexError, TypeError, MemoryError, OverflowError) as error:
        reason = one_line(error)
        raise ModelError(f"{path} is damaged, cut short or too old a GGUF ({reason}); download it again") from None
