"""The knowledge store: immutable versions of the plug-in, and a pointer to the one that is active.

    <root>/versions/<id>/    model weights (safetensors) or the name of a reader, manifest.json, edits.parquet
    <root>/facts.db          the edits of a reader that is served: each revision is a version (`fact_store`)
    <root>/active            the id of the active version, or `@facts`: the newest revision of facts.db
    <root>/lines/<id>        of the versions that began with version <id>, the one that was last active

A version is written under a staging name and appears by one rename; the pointer is replaced by one rename. So after a
crash, a full disk or Ctrl-C at any moment, all existing versions are complete, and there is no partial one. A revision
of facts.db is one transaction; with the pointer at `@facts` it is active as soon as it is committed.

Works on any pyarrow filesystem that can rename a folder: local disks, mounts, HDFS. Object stores that cannot (S3)
refuse the commit with an error; mount them or keep the store on a disk. A callback writes the weights; this module does
not know their format.
"""

from __future__ import annotations

import difflib
import errno
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from onceedit_ray.errors import NotPossibleError, StoreError
from onceedit_ray.files import in_progress, is_stale, staging_name, sync, sync_tree
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_history import FactHistory
from onceedit_ray.knowledge.fact_store import FactStore
from onceedit_ray.knowledge.manifest import Manifest, load_manifest
from onceedit_ray.knowledge.pointers import Pointers
from onceedit_ray.knowledge.revision import Revision
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.knowledge.version import (
    ADVICE,
    FACTS,
    MANIFEST,
    Version,
    check_files,
    fill_folder,
    first_line,
)
from onceedit_ray.location import locate

NEWEST_FACTS = "@facts"
"""What the pointer says if the newest revision of the fact store is the active version; no id begins so."""
ACTIVE = "active"
LINES = "lines"
_SHOWN = 10
"""Number of ids that an error names."""
# Rust libraries such as safetensors report system errors in this form, and not as OSError.
_RUST_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def open_store() -> KnowledgeStore:
    """The store under `ONCEEDIT_HOME`."""
    return KnowledgeStore(onceedit_home() / "knowledge")


class KnowledgeStore:
    """Versions under one root.

    Args:
        root: a local path, or a URI that pyarrow can open.
        filesystem: the filesystem of `root`, if it cannot be inferred from `root`.

    Raises:
        StoreError: the root's filesystem cannot be reached. So do all methods when it cannot be read or written.
    """

    def __init__(self, root: str | Path, filesystem: fs.FileSystem | None = None) -> None:
        self.root = str(root)
        if filesystem is None:
            with self._explained("opening the store"):
                filesystem, self.root = locate(root)
        self._filesystem = filesystem
        self._is_local = isinstance(filesystem, fs.LocalFileSystem)
        self._versions = str(PurePosixPath(self.root) / "versions")
        self._pointers = Pointers(filesystem, self.root)
        self._facts = Path(self.root) / FACTS

    def commit(self, manifest: Manifest, edits: Sequence[Edit], write_weights: Callable[[Path], None]) -> Version:
        """Make a new version atomically.

        Args:
            manifest: what the version is; its `files` are filled in here.
            edits: the edits that were made; their number and `data_hash` must be the manifest's.
            write_weights: writes the model into the local folder that it is given; at least one `.safetensors` file,
                unless the manifest says that the version holds no weights.

        Raises:
            StoreError: the id is taken, the manifest is not that of these edits, no safetensors were written, or the
                disk is full or cannot be written. Other exceptions of `write_weights` are passed on. In every case
                nothing is left behind.
        """
        self._refuse_mismatch(manifest, edits)
        name = staging_name(manifest.id)
        with self._explained(f"committing version '{manifest.id}'"):
            self._refuse_taken(manifest.id)
            # Before our own name is marked: an earlier process with our process id may have left the same one.
            self.sweep()
            with in_progress(name) as is_ours:
                if not is_ours:
                    raise StoreError(f"version '{manifest.id}' is being committed already; choose another id")
                try:
                    sealed = self._stage(name, manifest, edits, write_weights)
                    self._publish(name, manifest.id)
                except BaseException:
                    self._discard(f"{self._versions}/{name}")
                    raise
        return self._version(sealed)

    def get(self, id: str, verify: bool = True) -> Version:
        """The version called `id`.

        Args:
            verify: compare every file's checksum with the manifest's, about a second for each gigabyte; otherwise
                names and sizes only.

        Raises:
            StoreError: there is no such version, or it was altered or cut short.
        """
        with self._explained(f"reading version '{id}'"):
            known = self._ids()
            if id not in known:
                revision = self._find_revision(id)
                if revision is not None and revision.root != id:
                    return self._revision(revision, self.get(revision.root, verify))
                near = difflib.get_close_matches(id, known, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                shown = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
                raise StoreError(f"{self.root}: no version '{id}'; {hint}there are {shown or 'none yet'}")
            where = f"{self._versions}/{id}/{MANIFEST}"
            if self._filesystem.get_file_info(where).type != fs.FileType.File:
                raise StoreError(f"{where}: is missing; {ADVICE}")
            manifest = load_manifest(self._read(where), where)
            if manifest.id != id:
                raise StoreError(f"{where}: belongs to version '{manifest.id}'; give the folder that name")
            version = self._version(manifest)
            check_files(self._filesystem, f"{self._versions}/{id}", manifest, hashes=verify)
        return version

    def find(self, id: str) -> Version | None:
        """As `get` without `verify`, None if there is no such version."""
        with self._explained(f"looking for version '{id}'"):
            known = id in self._ids() or self._find_revision(id) is not None
        return self.get(id, verify=False) if known else None

    def versions(self, revisions: int | None = None) -> list[Version]:
        """Every version, the oldest first; files are compared by size, not by checksum.

        Args:
            revisions: the largest number of revisions of the fact store that are listed, the newest; None lists all.
        """
        with self._explained("listing versions"):
            ids = self._ids()
        found = {id: self.get(id, verify=False) for id in ids}
        if revisions != 0 and self._facts.is_file():
            with FactHistory(self._facts, read_only=True) as facts:
                known = facts.revisions(revisions or 1 << 62, restored=False)
            found |= {
                each.version: self._revision(each, found[each.root]) for each in known if each.root in found
            } | found
        return sorted(found.values(), key=lambda version: (version.manifest.created, version.id))

    def facts(self) -> FactStore:
        """The fact store, which is created if it is missing; raises `StoreError` without a local disk."""
        if not self._is_local:
            raise StoreError(
                f"{self.root}: facts can be edited on a local disk only; set ONCEEDIT_HOME to a folder of one"
            )
        return FactStore(self._facts)

    def take_up(self, version: Version, facts: FactStore) -> Version:
        """Copy the edits of a version for a reader into the fact store, as its newest revision, and make it active.

        Nothing is written if this is so already. Returns the version as a revision, with the ids of the fact store.
        """
        newest = next(iter(facts.revisions(1)), None)
        if newest is None or newest.version != version.id:
            if version.facts is None:
                facts.put(version.edits(), version.id)
            else:
                facts.restore(version.revision)
            (newest,) = facts.revisions(1)
        self.follow_facts()
        return self.revision(newest)

    def revision(self, revision: Revision) -> Version:
        """A revision of the fact store as a version; raises `StoreError` without the folder in which its line began."""
        return self._revision(revision, self.get(revision.root, verify=False))

    def follow_facts(self) -> None:
        """Make the newest revision of the fact store the active version, now and after each further edit."""
        if self._pointed() != NEWEST_FACTS:
            self._point(ACTIVE, NEWEST_FACTS)

    def activate(self, id: str, line: str | None = None) -> Version:
        """Make `id`, once verified, the version that `active` returns; the version before stays in the store.

        line: the id of the line to which this version belongs, that of its first version; None begins a line with `id`.
        """
        version = self.get(id)
        if version.facts is not None:
            with self.facts() as facts:
                return self.take_up(version, facts)
        self._point(f"{LINES}/{line or id}", id)
        self._point(ACTIVE, id)
        return version

    def latest(self, first: Version) -> Version:
        """The version of the line of `first` that was active last; `first` if none ever was."""
        if not first.manifest.holds_weights and self._facts.is_file():
            with FactHistory(self._facts, read_only=True) as facts:
                newest = facts.newest(first.id)
            return first if newest is None else self.revision(newest)
        with self._explained(f"reading the line of version '{first.id}'"):
            last = self._pointers.read(f"{LINES}/{first.id}")
        return first if last in (None, first.id) else self.get(str(last))

    def line_of(self, id: str) -> str:
        """The first version of the line whose last active version is `id`; `id` itself if there is no such line."""
        with self._explained("reading the lines of versions"):
            lines = self._pointers.names(LINES)
            return next((line for line in lines if self._pointers.read(f"{LINES}/{line}") == id), id)

    def _point(self, pointer: str, id: str) -> None:
        with self._explained(f"activating version '{id}'"):
            self._pointers.write(pointer, id)

    def active_id(self) -> str | None:
        """The active version's id, None if no version was ever activated; one or two small reads."""
        id = self._pointed()
        if id != NEWEST_FACTS:
            return id
        with FactHistory(self._facts, read_only=True) as facts:
            return facts.revisions(1)[0].version

    def _pointed(self) -> str | None:
        with self._explained("reading which version is active"):
            return self._pointers.read(ACTIVE)

    def active(self, verify: bool = True) -> Version | None:
        """The active version, None if no version was ever activated; `verify` as in `get`."""
        id = self.active_id()
        if id is None:
            return None
        with self._explained("listing versions"):
            known = self._ids()
        if id not in known and self._find_revision(id) is None:
            raise StoreError(f"{self.root}/{ACTIVE}: names version '{id}', which is not there; activate one that is")
        return self.get(id, verify)

    def delete(self, id: str) -> None:
        """Remove a version's folder; edits made since in the fact store stay.

        Raises `StoreError` if there is none, `NotPossibleError` if it is in use: active, or the first of a line.
        """
        version = self.get(id, verify=False)
        if version.facts is not None:
            raise NotPossibleError(f"version '{id}' is a step of the fact store, which keeps its whole history")
        others = [each.id for each in self.versions() if id in each.manifest.parents]
        if id == self.active_id() or self.latest(version).id != id or others:
            raise NotPossibleError(f"version '{id}' is in use; first activate another one, delete those made from it")
        with self._explained(f"deleting version '{id}'"):
            name = staging_name(f"deleted-{uuid.uuid4().hex[:8]}")
            self._filesystem.move(f"{self._versions}/{id}", f"{self._versions}/{name}")
            self._discard(f"{self._versions}/{name}")
            self._discard(str(PurePosixPath(self.root) / LINES / id))

    def sweep(self) -> list[str]:
        """Remove staging folders that killed processes left behind, and return their names.

        Folders that a running process, or a process of another host, may still be writing stay. `commit` calls this.
        """
        removed = []
        with self._explained("sweeping"):
            for folder in (self._versions, str(PurePosixPath(self.root) / LINES), self.root):
                for info in self._entries(folder):
                    if is_stale(info.base_name):
                        self._discard(info.path)
                        removed.append(info.base_name)
        return sorted(removed)

    def _refuse_mismatch(self, manifest: Manifest, edits: Sequence[Edit]) -> None:
        if manifest.edits != len(edits) or manifest.data_hash != data_hash(edits):
            raise StoreError(
                f"version '{manifest.id}': its manifest tells of {manifest.edits} edits with hash "
                f"{manifest.data_hash[:12]}, but {len(edits)} with hash {data_hash(edits)[:12]} were given; "
                "make the manifest from the edits that are committed"
            )

    def _refuse_taken(self, id: str) -> None:
        if self._filesystem.get_file_info(f"{self._versions}/{id}").type != fs.FileType.NotFound:
            raise StoreError(f"{self.root}: version '{id}' exists already and is never changed; choose another id")

    def _stage(
        self, name: str, manifest: Manifest, edits: Sequence[Edit], write_weights: Callable[[Path], None]
    ) -> Manifest:
        """Write all files of a version under its staging name; returns the manifest with the files' checksums."""
        if self._is_local:
            folder = Path(self._versions) / name
            folder.mkdir(parents=True)
            sealed = fill_folder(folder, manifest, edits, write_weights)
            sync_tree(folder)
            return sealed
        with tempfile.TemporaryDirectory(prefix="onceedit-") as local:
            sealed = fill_folder(Path(local), manifest, edits, write_weights)
            self._filesystem.create_dir(f"{self._versions}/{name}", recursive=True)
            fs.copy_files(
                local,
                f"{self._versions}/{name}",
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=self._filesystem,
            )
        return sealed

    def _publish(self, name: str, id: str) -> None:
        try:
            self._filesystem.move(f"{self._versions}/{name}", f"{self._versions}/{id}")
        except OSError:
            self._refuse_taken(id)  # another process may have committed it meanwhile
            raise
        try:
            self._sync(self._versions)
        except OSError:
            self._discard(f"{self._versions}/{id}")  # the caller gets the first error
            raise

    def _sync(self, path: str) -> None:
        if self._is_local:
            sync(Path(path))

    def _discard(self, path: str) -> None:
        with suppress(OSError):  # the next commit removes what is left
            kind = self._filesystem.get_file_info(path).type
            if kind == fs.FileType.Directory:
                self._filesystem.delete_dir(path)
            elif kind == fs.FileType.File:
                self._filesystem.delete_file(path)

    def _ids(self) -> list[str]:
        folders = (info for info in self._entries(self._versions) if info.type == fs.FileType.Directory)
        return sorted(info.base_name for info in folders if not info.base_name.startswith("."))

    def _entries(self, folder: str) -> list[fs.FileInfo]:
        return list(self._filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)))

    def _read(self, path: str) -> bytes:
        with self._filesystem.open_input_file(path) as stream:
            return bytes(stream.read())

    def _find_revision(self, id: str) -> Revision | None:
        if not self._facts.is_file():
            return None
        with FactHistory(self._facts, read_only=True) as facts:
            return facts.find(id)

    def _revision(self, revision: Revision, root: Version) -> Version:
        """A revision of the fact store as a version; `root` is the version from which its line began."""
        own = {
            "id": revision.version,
            "created": revision.created,
            "data_hash": "",
            "parents": [] if revision.version == revision.root else [revision.root],
            "edits": revision.live,
            "report": revision.report,
        }
        manifest = root.manifest.model_copy(update=own)
        return Version(revision.version, root.path, manifest, self._filesystem, self._facts, revision.revision)

    def _version(self, manifest: Manifest) -> Version:
        return Version(manifest.id, Path(self._versions) / manifest.id, manifest, self._filesystem)

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        """Turn filesystem errors, and no others, into a `StoreError` of one line."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            rust = _RUST_SYSTEM_ERROR.search(str(error))
            if not isinstance(error, (OSError, pa.ArrowException)) and rust is None:
                raise
            number = int(rust[1]) if rust else getattr(error, "errno", None)
            if number in (errno.ENOSPC, errno.EDQUOT):
                reason = "the disk is full; free some space and try again"
            else:
                reason = f"{first_line(error)}; check that the place can be reached and written"
            raise StoreError(f"{self.root}: {doing} failed: {reason} (versions made before are untouched)") from error
