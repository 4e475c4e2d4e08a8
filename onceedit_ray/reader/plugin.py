"""A reader as a plug-in: how a run file and a version name it, and the model folder from which it is loaded.

A version for a reader holds its edits and `reader.json`, which names the reader by its digest; a trained version holds
its own weights.
"""

from __future__ import annotations

import json
from pathlib import Path

from onceedit_ray.config import RunConfig
from onceedit_ray.errors import StoreError
from onceedit_ray.models.sources.folder import ModelFolder
from onceedit_ray.reader.adapter import Adapter, find_adapter, reader_folder

READER = "reader"
"""The editor's name in a run file and in a version's manifest."""
POINTER = "reader.json"


def editor_name(editor: str) -> str:
    """The registry's name in an editor setting: `reader:FOLDER` names `reader`."""
    return editor.partition(":")[0]


def write_pointer(folder: Path, adapter: Adapter) -> None:
    """Write into a version's folder which reader it needs."""
    (folder / POINTER).write_text(json.dumps({"reader": adapter.digest}) + "\n", encoding="utf-8")


def is_read(version: Path) -> bool:
    """Whether the version in a folder is for a reader, not trained."""
    return (version / POINTER).is_file()


def reads_facts(config: RunConfig, version: Path) -> bool:
    """Whether the run file's plug-in reads the edits of the version in a folder."""
    return editor_name(config.editing.editor) == READER and is_read(version)


def plugin_folder(version: Path, base: ModelFolder) -> Path:
    """The model folder from which a version's plug-in is loaded.

    Args:
        version: the version's folder. base: the plug-in before any edit.

    Raises:
        StoreError: the version does not say which reader it needs.
        ModelError: that reader is not on this machine, or does not fit the plug-in.
    """
    if not is_read(version):
        return version
    try:
        wanted = str(json.loads((version / POINTER).read_text(encoding="utf-8"))["reader"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{version / POINTER} cannot be read ({error}); edit again") from None
    return reader_folder(base, find_adapter(wanted))
