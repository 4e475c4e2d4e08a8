"""Finds or fetches what a node needs: a model by its reference, a version by its id. Nodes need no common folder.

A catalogue model, or one of the hub, is fetched once on each node. A version that this node's store lacks is fetched
from the node that made it, or from any other that has it: through Ray's object store, in pieces.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from pyarrow import fs
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.errors import ModelError, OnceEditError, StoreError
from onceedit_ray.files import scratch_folder
from onceedit_ray.fusion.system import folder_of
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.manifest import load_manifest
from onceedit_ray.knowledge.received_version import Piece, pieces_of, take_in
from onceedit_ray.knowledge.store import KnowledgeStore, open_store
from onceedit_ray.knowledge.version import MANIFEST, Version
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.models.sources.folder import check_folder
from onceedit_ray.progress import Progress, silent
from onceedit_ray.reader.adapter import FILES, find_adapter, keep_adapter, open_adapter
from onceedit_ray.reader.adapter import MANIFEST as READER_MANIFEST
from onceedit_ray.reader.plugin import POINTER, is_read, plugin_folder

AHEAD = 4
"""Pieces of a version that are read before they are asked for."""


@dataclass(frozen=True)
class SentVersion:
    """A version as it is sent to another node: with the id of the node whose store has it."""

    version: Version
    node: str

    @property
    def id(self) -> str:
        """The id of its folder; a revision of a fact store lies in the folder in which its line began."""
        return self.version.path.name


@dataclass(frozen=True)
class PluginWeights:
    """The plug-in of a version. base: the plug-in before any edit. edited: the version, or its folder."""

    base: ModelFolder
    edited: SentVersion | Path


Weights = Path | ModelFolder | PluginWeights
"""What a model is loaded from: a folder that every node can read, a model, or a version of the plug-in."""


def node_id() -> str:
    """Ray's id of the node on which this process runs."""
    return str(ray.get_runtime_context().get_node_id())


def sent(edited: Version | Path) -> SentVersion | Path:
    """A version of this node's store for another node, which can read its edits only if they are loaded."""
    return SentVersion(edited, node_id()) if isinstance(edited, Version) else edited


def version_here(edited: SentVersion | Path, store: KnowledgeStore | None = None) -> Version | Path:
    """The same version on the node that runs this: in `store`, which is the node's own by default.

    It is fetched if it is not there. A folder is taken as it is: every node must be able to read it.

    Raises:
        StoreError: no node has it, or this node has another version of this id.
    """
    if isinstance(edited, Path):
        return edited
    if edited.node == node_id():
        return edited.version
    store = store or open_store()
    folder = Path(store.root) / "versions" / edited.id
    if not folder.is_dir():
        fetch_version(edited.id, edited.node, str(edited.version.path.parent.parent), store)
    if (found := _same(folder, edited)) is None:
        raise StoreError(
            f"{folder} holds another version '{edited.id}' than the node that sent it; delete one of them, "
            "as `onceedit versions delete` does"
        )
    return found


def have_version(id: str, node: str = "") -> Version:
    """The version `id` in this node's own store, copied there if need be: from the store of `node`, or from any other.

    Raises:
        StoreError: no node has it.
    """
    store = open_store()
    return store.find(id) or fetch_version(id, node, None, store)


def fetch_version(id: str, node: str, root: str | None, store: KnowledgeStore) -> Version:
    """Copy the version `id` into `store` from the store `root` of a node, or else from any node's own store.

    Raises:
        StoreError: no node has it.
    """
    others = [each["NodeID"] for each in ray.nodes() if each["Alive"] and each["NodeID"] not in (node, node_id())]
    for source, place in [*([(node, root)] if node else ()), *((other, None) for other in others)]:
        with contextlib.suppress(_Lacking):
            return take_in(store, id, _received(id, source, place))
    raise StoreError(f"{store.root}: has no version '{id}', and no other node that runs has it; run the job again")


def model_here(folder: ModelFolder, progress: Progress = silent) -> ModelFolder:
    """The same model on this node, by its reference; a catalogue model is fetched if it is not here.

    Raises:
        ModelError: it is not available here, or another model stands at its path.
    """
    if folder.path.is_dir() and folder.path.is_relative_to(onceedit_home()):  # a name there is unique to its content
        check_folder(folder.path)
        return folder
    found = resolve(folder.source, progress)
    if found.digest != folder.digest:
        raise ModelError(
            f"{found.path} holds other weights, or another tokenizer, than the same path on the node that started "
            "this; copy the model again"
        )
    return found


def weights_here(weights: Weights) -> Path:
    """The model folder on this node; raises as `model_here` and `version_here`."""
    if isinstance(weights, Path):
        return weights
    if isinstance(weights, ModelFolder):
        return model_here(weights).path
    folder = folder_of(version_here(weights.edited))
    if is_read(folder) and isinstance(weights.edited, SentVersion):
        have_reader(folder, weights.edited.node)
    return plugin_folder(folder, model_here(weights.base))


def have_reader(version: Path, node: str) -> None:
    """Keep on this node the reader that the version in a folder names, copied from `node` if need be.

    Raises:
        ModelError: that node does not have it either, or does not run any more.
    """
    wanted = str(json.loads((version / POINTER).read_text(encoding="utf-8"))["reader"])
    with contextlib.suppress(ModelError):
        find_adapter(wanted)
        return
    try:
        files: dict[str, bytes] = fetch(_reader.options(**on_node(node)).remote(wanted))
    except RayError:
        raise ModelError(f"the reader {wanted[:12]} of this version is on node {node[:8]}, which has died") from None
    with scratch_folder(onceedit_home(), f"reader-{wanted[:12]}") as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        keep_adapter(open_adapter(folder))


@contextlib.contextmanager
def names_the_node() -> Iterator[None]:
    """Put the node's name before the message of an error, if there are several nodes."""
    try:
        yield
    except OnceEditError as error:
        if sum(node["Alive"] for node in ray.nodes()) < 2:
            raise
        raise type(error)(f"node {node_name()}: {error}") from None


def node_name() -> str:
    """This node's host name, and the beginning of its id: containers and tests may have the same host name."""
    return f"{socket.gethostname()} ({node_id()[:8]})"


def on_node(node: str) -> dict[str, Any]:
    """The options of a task that runs on this node or nowhere, and reserves nothing."""
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


class _Lacking(Exception):
    """A node does not have a version, or does not answer."""


def _same(folder: Path, wanted: SentVersion) -> Version | None:
    """The version in a folder of this node, if it has the files of the one that is wanted."""
    try:
        manifest = load_manifest((folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
    except (OSError, StoreError):
        return None
    if manifest.files != wanted.version.manifest.files:
        return None
    return replace(wanted.version, path=folder, filesystem=fs.LocalFileSystem())


def _received(id: str, node: str, root: str | None) -> Iterator[Piece]:
    generator = _pieces.options(**on_node(node)).remote(id, root)
    for number, reference in enumerate(generator):
        try:
            piece: Piece | None = ray.get(reference)
        except RayError as error:
            if number == 0 and not isinstance(error, RayTaskError):  # the node has died
                raise _Lacking from None
            fetch(reference)  # raises the error as one of ours
        if piece is None:
            raise _Lacking
        yield piece


@ray.remote(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
def _pieces(id: str, root: str | None) -> Iterator[Piece | None]:
    """The pieces of a version of this node; None alone if it has no such version."""
    store = KnowledgeStore(root) if root else open_store()
    with names_the_node():
        version = store.find(id)
        if version is None:
            yield None
        else:
            yield from pieces_of(version)


@ray.remote
def _reader(wanted: str) -> dict[str, bytes]:
    """The files of a reader of this node, by name."""
    with names_the_node():
        folder = find_adapter(wanted).folder
        return {name: (folder / name).read_bytes() for name in (*FILES, READER_MANIFEST)}
