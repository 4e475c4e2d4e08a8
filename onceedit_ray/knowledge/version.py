"""One version of the plug-in in the store: immutable, and checked against its own manifest. This module does not know
other versions, nor which one is active.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from onceedit_ray.errors import StoreError
from onceedit_ray.files import new_folder
from onceedit_ray.knowledge.edit import STORED, Edit
from onceedit_ray.knowledge.fact_history import FactHistory
from onceedit_ray.knowledge.manifest import Manifest, StoredFile, dump_manifest, load_manifest
from onceedit_ray.knowledge.readers.parquet import write_edits
from onceedit_ray.knowledge.revision import StoredEdit

MANIFEST = "manifest.json"
EDITS = "edits.parquet"
FACTS = "facts.db"
"""The file name of a knowledge store's fact store."""

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Version:
    """A committed version: a folder, or a revision of the fact store.

    path: the folder that holds the weights, `manifest.json` and `edits.parquet`; on a remote filesystem it is a path
        there, which a model loader cannot open: see `download`. For a revision it is the folder of the version from
        which its line began, which names the reader.
    facts: the fact store's file, if this is a revision. revision: its number. loaded: its edits, once read.
    """

    id: str
    path: Path
    manifest: Manifest
    filesystem: fs.FileSystem = field(repr=False, compare=False)
    facts: Path | None = None
    revision: int = 0
    loaded: tuple[StoredEdit, ...] | None = field(default=None, repr=False, compare=False)

    def edits(self) -> list[Edit]:
        """The edits that were made, exactly as they were committed; `StoreError` if they cannot be read."""
        return [stored.edit for stored in self.stored()]

    def stored(self) -> list[StoredEdit]:
        """As `edits`, with ids: those of the fact store, or else the prompts."""
        if self.loaded is not None:
            return list(self.loaded)
        if self.facts is None:
            return stored_in(self.path, self.filesystem)
        with FactHistory(self.facts, read_only=True) as facts:
            return facts.live(self.revision)

    def load(self) -> Version:
        """This version with the edits of its revision in memory, for a machine that cannot open the fact store."""
        return self if self.facts is None else replace(self, loaded=tuple(self.stored()))

    def download(self, folder: Path) -> Path:
        """A local folder with this version's files: its own if the store is local, else a verified copy in `folder`.

        Later calls check the copy and use it again.

        Raises:
            StoreError: the files cannot be copied, or are not those of the manifest.
        """
        if isinstance(self.filesystem, fs.LocalFileSystem):
            return self.path
        target = folder / self.id
        try:
            if not target.is_dir():
                self._copy(target)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(f"version '{self.id}': cannot be copied to {folder} ({first_line(error)})") from error
        check_files(fs.LocalFileSystem(), str(target), self.manifest, hashes=True)
        return target

    def _copy(self, target: Path) -> None:
        with new_folder(target) as copy:
            fs.copy_files(
                self.path.as_posix(),
                str(copy),
                source_filesystem=self.filesystem,
                destination_filesystem=fs.LocalFileSystem(),
            )


ADVICE = "restore the version from a copy, or delete its folder and edit again"


def edits_in(folder: Path, filesystem: fs.FileSystem | None = None) -> list[Edit]:
    """The edits of the version in `folder`, none at all among them; `StoreError` if they cannot be read."""
    source = (folder / EDITS).as_posix()
    try:
        with (filesystem or fs.LocalFileSystem()).open_input_file(source) as stream:
            rows = pq.ParquetFile(stream).read().to_pylist()
        return [Edit.model_validate(row, context=STORED) for row in rows]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{source}: cannot be read ({first_line(error)}); {ADVICE}") from error


def stored_in(folder: Path, filesystem: fs.FileSystem | None = None) -> list[StoredEdit]:
    """As `edits_in`, each edit with its prompt as its id."""
    return [StoredEdit(edit.prompt, edit, 0) for edit in edits_in(folder, filesystem)]


def describe_files(folder: Path) -> dict[str, StoredFile]:
    """Size and checksum of every file under a local folder, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    local = fs.LocalFileSystem()
    return {
        path.relative_to(folder).as_posix(): StoredFile(bytes=path.stat().st_size, sha256=_sha256(local, str(path)))
        for path in paths
    }


def check_files(filesystem: fs.FileSystem, path: str, manifest: Manifest, hashes: bool) -> None:
    """Raise `StoreError` unless the files under `path` are those of the manifest: same names, sizes and (where
    `hashes`) contents. The manifest has its own checksum."""
    base = path.rstrip("/") + "/"
    try:
        entries = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        found = {info.path.removeprefix(base): info.size for info in entries if info.is_file}
        for name, stored in manifest.files.items():
            if found.get(name) != stored.bytes:
                state = "is missing" if name not in found else f"has {found[name]} bytes instead of {stored.bytes}"
                raise StoreError(f"{base}{name}: {state}; {ADVICE}")
            if hashes and _sha256(filesystem, base + name) != stored.sha256:
                raise StoreError(f"{base}{name}: was altered after it was written (sha256 differs); {ADVICE}")
    except OSError as error:
        raise StoreError(f"{base}: cannot be read ({first_line(error)}); {ADVICE}") from error
    # A model loader would load a weight file that does not belong to the version.
    for name in sorted(found.keys() - manifest.files.keys() - {MANIFEST}):
        if not name.rpartition("/")[2].startswith("."):
            raise StoreError(f"{base}{name}: is no part of the version, which nobody may change; move it elsewhere")


def first_line(error: BaseException) -> str:
    """An error's own words, on one line."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".;")


def _sha256(filesystem: fs.FileSystem, path: str) -> str:
    digest = hashlib.sha256()
    # `compression=None`: a `.gz` file's own bytes count, not what they unpack to.
    with filesystem.open_input_stream(path, compression=None) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fill_folder(
    folder: Path, manifest: Manifest, edits: Sequence[Edit], write_weights: Callable[[Path], None]
) -> Manifest:
    """Write the files of a version into a folder; returns its manifest with their checksums."""
    write_weights(folder)
    if manifest.holds_weights and not any(folder.rglob("*.safetensors")):
        raise StoreError(f"version '{manifest.id}': no .safetensors file was written; save the plug-in as safetensors")
    write_edits(edits, folder / EDITS)
    sealed = manifest.model_copy(update={"files": describe_files(folder)})
    source = dump_manifest(sealed)
    (folder / MANIFEST).write_bytes(source)
    # As it will be read back (lists for tuples in the settings), so that `commit` and `get` return equal versions.
    return load_manifest(source, str(folder / MANIFEST))
