"""`onceedit versions` and `onceedit edits`: versions of the store, edits and versions of a running server.

`versions` uses the store under `ONCEEDIT_HOME`, with `--url` a server. `edits` uses a server, with `--config` the edits
of the version in the store that answers for the run file.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from onceedit_ray.config import load_config
from onceedit_ray.errors import ConfigError
from onceedit_ray.knowledge.edit import edit_of
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.listing import add_json, print_json
from onceedit_ray.living.edit_views import MOST_LISTED, version_view
from onceedit_ray.living.served_api import SERVER, call, part
from onceedit_ray.location import data_path, local_path

if TYPE_CHECKING:
    from onceedit_ray.knowledge.version import Version
    from onceedit_ray.living.stored_edits import StoredEdits

KEY_VARIABLE = "ONCEEDIT_EDIT_KEY"


def add_version_actions(versions: argparse.ArgumentParser) -> None:
    """Add the actions of `onceedit versions` to its parser."""
    actions = versions.add_subparsers(required=True, metavar="ACTION")
    for name, about, run in (
        ("list", "all versions, the newest first", _list_versions),
        ("show", "a version: how it was made, and its edits", _show_version),
        ("activate", "make a version the one that answers", _activate_version),
        ("delete", "remove a version from the store, unless it is in use", _delete_version),
    ):
        action = actions.add_parser(name, help=about)
        if name != "list":
            action.add_argument("id", metavar="ID")
        _with_server(action, None)
        if name in ("list", "show"):
            add_json(action)
        action.set_defaults(run=run)


def add_edit_actions(edits: argparse.ArgumentParser) -> None:
    """Add the actions of `onceedit edits` to its parser."""
    actions = edits.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the live edits, the newest first")
    add_json(listing)
    listing.set_defaults(run=_list_edits)
    adding = actions.add_parser("add", help="correct a fact, or all facts of a file")
    adding.add_argument("prompt", nargs="?", metavar="PROMPT", help="the question, or a half sentence")
    adding.add_argument("target_new", nargs="?", metavar="ANSWER")
    adding.add_argument("--subject", default="", help="what the fact is about, spelt as in PROMPT")
    adding.add_argument("--file", type=data_path, metavar="FILE", help="JSON, JSONL or Parquet, a path or a URI")
    adding.set_defaults(run=_add_edits)
    deleting = actions.add_parser("delete", help="delete an edit, or all edits of one call")
    deleting.add_argument("id", metavar="ID", help="with --config also the edit's prompt")
    deleting.set_defaults(run=_delete_edit)
    for action in (listing, adding, deleting):
        place = action.add_mutually_exclusive_group()
        place.add_argument(
            "--config", type=local_path, metavar="FILE", help="the edits of this run file's version, without a server"
        )
        _with_server(action, SERVER, place)


def _with_server(
    action: argparse.ArgumentParser, default: str | None, place: argparse._MutuallyExclusiveGroup | None = None
) -> None:
    about = f"a server's address (default: {default})" if default else f"a server's address, such as {SERVER}"
    (place or action).add_argument("--url", default=default, help=about)
    action.add_argument("--key", default=os.environ.get(KEY_VARIABLE, ""), help=f"also ${KEY_VARIABLE}")


def _list_versions(options: argparse.Namespace) -> None:
    if options.url:
        shown = call(options.url, options.key, "GET", f"/versions?limit={MOST_LISTED}")["data"]
    else:
        store = open_store()
        active = store.active_id()
        views = (version_view(version, version.id == active) for version in reversed(store.versions()))
        shown = [view.model_dump() for view in views]
    if options.json:
        print_json(shown)
        return
    _table(("version", "active", "edits", "plug-in"), shown, lambda row: (
        row["id"], "yes" if row["active"] else "", row["edits"], row["base_model"]
    ))  # fmt: skip


def _show_version(options: argparse.Namespace) -> None:
    if options.url:
        found = call(options.url, options.key, "GET", f"/versions/{part(options.id)}")
    else:
        version = open_store().get(options.id)
        edits = [edit.model_dump() for edit in version.edits()]
        found = {**version.manifest.model_dump(mode="json"), "data": edits}
    if options.json:
        print_json(found)
        return
    for name in ("id", "created", "active", "base_model", "editor", "parent", "parents", "seconds"):
        if name in found:
            print(f"{name:12} {found[name]}")
    _table(("prompt", "answer"), found["data"], lambda edit: (edit["prompt"], edit["target_new"]))


def _activate_version(options: argparse.Namespace) -> None:
    if options.url:
        active = call(options.url, options.key, "POST", f"/versions/{part(options.id)}/activate", {})
        print(f"{active['id']} answers now")
        return
    store = open_store()
    print(f"{store.activate(options.id, store.line_of(options.id)).id} is active; servers that start begin with it")


def _delete_version(options: argparse.Namespace) -> None:
    if options.url:
        call(options.url, options.key, "DELETE", f"/versions/{part(options.id)}")
    else:
        open_store().delete(options.id)
    print(f"{options.id} is deleted")


def _list_edits(options: argparse.Namespace) -> None:
    found = _edits_in_the_store(options) if options.config else _edits_of_a_server(options)
    if options.json:
        print_json(found)
        return
    _table(("id", "prompt", "answer"), found, lambda row: (row["id"], row["prompt"], row["target_new"]))


def _edits_in_the_store(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [{"id": each.id, **each.edit.model_dump(mode="json")} for each in reversed(_stored(options).live())]


def _edits_of_a_server(options: argparse.Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    more, after = True, ""
    while more:
        page = call(options.url, options.key, "GET", f"/edits?status=live&limit=100{after}")
        found += page["data"]
        more, after = page["has_more"], f"&after={found[-1]['id']}" if found else ""
    return found


def _add_edits(options: argparse.Namespace) -> None:
    if (options.file is None) == (options.prompt is None or options.target_new is None):
        raise ConfigError('give PROMPT and ANSWER, or --file FILE: onceedit edits add "Who leads X?" "Ann Lee"')
    if options.file is not None:
        edits = read_edits(options.file)
    else:
        fields = {"prompt": options.prompt, "target_new": options.target_new, "subject": options.subject}
        edits = [edit_of(fields)]
    if options.config:
        _say_version(_stored(options).add(edits))
        return
    sent = [edit.model_dump(exclude_defaults=True) for edit in edits]
    made = call(options.url, options.key, "POST", "/edits", {"edits": sent})
    for edit in made["data"]:
        replaced = f", in place of {', '.join(edit['replaces'])}" if edit["replaces"] else ""
        print(f"{edit['id']}  {edit['status']}{replaced}: {edit['prompt']}")


def _delete_edit(options: argparse.Namespace) -> None:
    if options.config:
        _say_version(_stored(options).delete(options.id))
        return
    print(f"{options.id}  {call(options.url, options.key, 'DELETE', f'/edits/{part(options.id)}')['status']}")


def _stored(options: argparse.Namespace) -> StoredEdits:
    from onceedit_ray.living.stored_edits import StoredEdits  # it imports torch, which calls of a server do not need

    return StoredEdits(load_config(options.config))


def _say_version(version: Version) -> None:
    print(f"version {version.id} has {version.manifest.edits} edits, and answers for the run file now")


def _table(header: Sequence[str], rows: Sequence[Any], cells: Any) -> None:
    print(tabulate([cells(row) for row in rows], header, tablefmt="plain", disable_numparse=True))
