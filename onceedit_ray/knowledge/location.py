"""Resolves a path to a pyarrow filesystem and a path inside it.

Plain paths and `~` are local; `s3://…`, `gs://…`, `hdfs://…` and `file://…` are resolved by pyarrow. This module does
not know what is stored there.
"""

from __future__ import annotations

from pathlib import Path

from pyarrow import fs


def locate(path: str | Path) -> tuple[fs.FileSystem, str]:
    """The filesystem that holds `path`, and the path in that filesystem's own spelling.

    Raises what pyarrow raises for an unknown or unreachable scheme (`OSError` or `pyarrow.ArrowInvalid`).
    """
    if isinstance(path, str) and "://" in path:
        filesystem, inside = fs.FileSystem.from_uri(path)
        return filesystem, inside
    return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())
