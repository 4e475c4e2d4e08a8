"""The files of a version in pieces, for a store on another machine, which accepts them only if all of them are right.

This module does not know how the pieces travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from onceedit_ray.errors import StoreError
from onceedit_ray.files import new_folder, sync_tree
from onceedit_ray.knowledge.manifest import load_manifest
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import MANIFEST, Version, check_files, first_line

PIECE = 32 << 20
"""Bytes of a piece, at most."""
Piece = tuple[str, bytes]
"""A file's name, relative to the version's folder, and its next bytes."""


def pieces_of(version: Version) -> Iterator[Piece]:
    """Every file of a version, the manifest first; raises `StoreError` if one cannot be read."""
    for name in (MANIFEST, *version.manifest.files):
        path = f"{version.path.as_posix()}/{name}"
        try:
            with version.filesystem.open_input_stream(path, compression=None) as stream:
                yield name, bytes(stream.read(PIECE))
                while more := bytes(stream.read(PIECE)):
                    yield name, more
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"{path}: cannot be read ({first_line(error)})") from error


def take_in(store: KnowledgeStore, id: str, pieces: Iterable[Piece]) -> Version:
    """Put the version `id` into a local store from its pieces; it appears by one rename, after its checksums were
    compared. If another process puts it there meanwhile, that one stays.

    Raises:
        StoreError: the files are not those of the manifest, or cannot be written; nothing is left behind.
    """
    target = Path(store.root) / "versions" / id
    try:
        with new_folder(target) as folder:
            for name, content in pieces:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(content)
            manifest = load_manifest((folder / MANIFEST).read_bytes(), str(target / MANIFEST))
            check_files(fs.LocalFileSystem(), str(folder), manifest, hashes=True)
            sync_tree(folder)
    except OSError as error:
        raise StoreError(
            f"{target}: the version cannot be copied there ({error.strerror or error}); free space, or give that "
            "machine another ONCEEDIT_HOME"
        ) from error
    return store.get(id, verify=False)
