"""Models in a local folder, used in place and never written to. This module knows the rules for paths; `folder` checks
the content of a model folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from onceedit_ray.errors import ModelError
from onceedit_ray.location import left_behind
from onceedit_ray.models.sources import SOURCES, ModelFolder, ModelSource
from onceedit_ray.models.sources.folder import check_folder, folder_digest
from onceedit_ray.progress import Progress


@SOURCES.register("local")
class LocalSource(ModelSource):
    """A folder in the layout transformers reads."""

    form: ClassVar[str] = "a folder with config.json, safetensors and tokenizer"
    precedence: ClassVar[int] = 2

    def recognises(self, reference: str) -> bool:
        plainly_a_path = reference.startswith(("/", "./", "../", "~")) and not reference.lower().endswith(".gguf")
        return bool(reference) and (plainly_a_path or Path(reference).is_dir())

    def check(self, address: str) -> None:
        path = Path(address).expanduser().absolute()
        if not path.is_dir():
            raise ModelError(
                f"there is no folder {path}; give the path of a folder with config.json and safetensors"
                f"{left_behind(address)}"
            )
        check_folder(path)

    def fetch(self, address: str, progress: Progress) -> ModelFolder:
        """The folder itself, checked; the first call reads all weights to compute the digest."""
        self.check(address)
        path = Path(address).expanduser().absolute()
        return ModelFolder(path.name, path, f"local:{path}", folder_digest(path), _licence(path))


def _licence(path: Path) -> str:
    stated = sorted(file.name for file in path.glob("LICEN[SC]E*"))
    return f"see {stated[0]} in the folder" if stated else "not stated in the folder"
