"""Small files that name a version, each replaced by one rename. They lie in the root of a store and in `lines/`.

This module does not know what a name means.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pyarrow import fs

from onceedit_ray.files import in_progress, staging_name, sync


class Pointers:
    """The pointers under `root` of `filesystem`. Methods raise what the filesystem raises."""

    def __init__(self, filesystem: fs.FileSystem, root: str) -> None:
        self._filesystem = filesystem
        self._root = PurePosixPath(root)

    def read(self, pointer: str) -> str | None:
        """The id that a pointer holds; None if there is no such pointer."""
        path = str(self._root / pointer)
        if self._filesystem.get_file_info(path).type == fs.FileType.NotFound:
            return None
        with self._filesystem.open_input_file(path) as stream:
            return bytes(stream.read()).decode("utf-8", "replace").strip()

    def names(self, folder: str) -> list[str]:
        """The names of the pointers in a folder."""
        found = self._filesystem.get_file_info(fs.FileSelector(str(self._root / folder), allow_not_found=True))
        return sorted(info.base_name for info in found if not info.base_name.startswith("."))

    def write(self, pointer: str, id: str) -> None:
        """Make a pointer hold `id`; after a crash it holds the old id or the new one."""
        path = self._root / pointer
        name = staging_name(f"active-{uuid.uuid4().hex[:8]}")
        temporary = str(path.parent / name)
        with in_progress(name):
            try:
                self._filesystem.create_dir(str(path.parent), recursive=True)
                with self._filesystem.open_output_stream(temporary) as stream:
                    stream.write(f"{id}\n".encode())
                self._sync(temporary)
                self._filesystem.move(temporary, str(path))
                self._sync(str(path.parent))
            except BaseException:
                with suppress(OSError):  # the next sweep of the store removes what is left
                    self._filesystem.delete_file(temporary)
                raise

    def _sync(self, path: str) -> None:
        if isinstance(self._filesystem, fs.LocalFileSystem):
            sync(Path(path))
