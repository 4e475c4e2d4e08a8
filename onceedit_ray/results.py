"""Where results are written: a local folder, or a URI of any filesystem of pyarrow.

Results for a URI are written into a folder of `ONCEEDIT_HOME` that belongs to this URI, and copied to it: so a run that
is started again finds what was finished, on this machine in the folder and on another one at the URI. This module does
not know what the files hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from onceedit_ray.digest import digest
from onceedit_ray.errors import StoreError
from onceedit_ray.files import replacing
from onceedit_ray.home import onceedit_home
from onceedit_ray.location import is_uri, locate, without_secrets

_BLOCK = 1 << 20
_PROBE = ".onceedit"
_WITHOUT_FOLDERS = ("s3", "gcs", "abfs")
"""Filesystems that have no folders, by pyarrow's names."""


class Results:
    """The results at one place.

    folder: the local folder, absolute; programs read and write it. place: the folder or the URI, for messages.

    Args:
        given: a path or a URI. base: the folder for relative paths; None takes the working directory.

    Raises:
        StoreError: the URI cannot be reached or written.
    """

    def __init__(self, given: str | Path, base: Path | None = None) -> None:
        self._uri = str(given) if is_uri(given) else None
        self.place = without_secrets(given)
        self._copied: dict[Path, tuple[int, int]] = {}
        if self._uri is None:
            self.folder = ((base or Path()) / Path(given).expanduser()).absolute()
            self.place = str(self.folder)
            return
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.place)
        self.folder = onceedit_home() / "results" / f"{name[:80]}-{digest(self._uri)[:12]}"
        with self._explained("reached"):
            self._filesystem, self._inside = locate(self._uri)
            self._try_to_write()

    def named(self, name: str) -> str:
        """The place of the results called `name`, for messages."""
        return f"{self.place.rstrip('/')}/{name}"

    def fetch(self, patterns: Sequence[str]) -> None:
        """Copy from the URI the files that match `patterns` and are not in the folder; nothing without a URI."""
        if self._uri is None:
            return
        from pyarrow import fs

        with self._explained("read"):
            found = self._filesystem.get_file_info(fs.FileSelector(self._inside, recursive=True, allow_not_found=True))
            names = {info.path.removeprefix(self._inside).lstrip("/") for info in found if info.is_file}
            for pattern in patterns:
                for name in sorted(name for name in names if PurePosixPath(name).match(pattern)):
                    if not (self.folder / name).exists():
                        self._bring(name)

    def publish(self, patterns: Sequence[str]) -> None:
        """Copy to the URI the files that match `patterns`, in this order, unless unchanged since the last call.

        Nothing is done without a URI. Raises `StoreError`; the folder keeps the files.
        """
        if self._uri is None:
            return
        with self._explained("written"):
            for pattern in patterns:
                for file in sorted(path for path in self.folder.glob(pattern) if path.is_file()):
                    stat = file.stat()
                    stamp = (stat.st_mtime_ns, stat.st_size)
                    if not file.name.startswith(".") and self._copied.get(file) != stamp:
                        self._send(file)
                        self._copied[file] = stamp

    def _bring(self, name: str) -> None:
        source = self._filesystem.open_input_stream(f"{self._inside}/{name}", compression=None)
        with source, replacing(self.folder / name) as temporary, temporary.open("wb") as copy:
            while block := source.read(_BLOCK):
                copy.write(block)

    def _send(self, file: Path) -> None:
        with file.open("rb") as source, self._opened(file.relative_to(self.folder).as_posix()) as copy:
            while block := source.read(_BLOCK):
                copy.write(block)

    def _try_to_write(self) -> None:
        """An error now is better than one after hours of work."""
        with self._opened(_PROBE) as probe:
            probe.write(b"written to see whether results can be\n")
        with suppress(OSError):  # a user who may write may lack the right to delete
            self._filesystem.delete_file(f"{self._inside}/{_PROBE}")

    def _opened(self, name: str) -> Any:
        """A stream to a file at the URI."""
        target = f"{self._inside}/{name}"
        if self._filesystem.type_name not in _WITHOUT_FOLDERS:
            self._filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        return self._filesystem.open_output_stream(target, compression=None)

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (OSError, pa.ArrowException) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".;")
            raise StoreError(
                f"the results at {self.place} cannot be {done}: {reason}; check the URI and your rights there"
            ) from error
