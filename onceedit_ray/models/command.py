"""`onceedit models`: the ways to name a model, and fetching models into the home."""

from __future__ import annotations

import argparse
from typing import Any

from onceedit_ray.listing import add_json, print_json
from onceedit_ray.progress import ProgressDisplay


def add_model_actions(models: argparse.ArgumentParser) -> Any:
    """Add the actions of `onceedit models` to its parser; returns its actions, to which others are added."""
    actions = models.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the ways to name a model in a run file")
    add_json(listing)
    listing.set_defaults(run=_list)
    fetch = actions.add_parser("fetch", help="download, verify and convert models into ONCEEDIT_HOME")
    fetch.add_argument("models", nargs="+", metavar="MODEL", help="catalogue name, org/name, folder or .gguf file")
    fetch.set_defaults(run=_fetch)
    return actions


def _list(options: argparse.Namespace) -> None:
    from onceedit_ray.models.engines import ENGINES
    from onceedit_ray.models.sources import SOURCES
    from onceedit_ray.models.sources.wheel import CATALOGUE

    catalogue = {name: entry.about for name, entry in CATALOGUE.items()}
    sources = {name: SOURCES.get(name).form for name in SOURCES.names()}
    engines = {name: ENGINES.get(name).about for name in ENGINES.names()}
    if options.json:
        print_json({"catalogue": catalogue, "sources": sources, "engines": engines})
        return
    print("catalogue (from the package index, no model hub):")
    for name, about in catalogue.items():
        print(f"  {name:18} {about}")
    print("or any transformers causal LM:")
    for name, form in sources.items():
        print(f"  {name + ':':18} {form}")
    print("engines that run a target's model:")
    for name, about in engines.items():
        print(f"  {name + ':':18} {about}")


def _fetch(options: argparse.Namespace) -> None:
    from onceedit_ray.models.sources import resolve

    progress = ProgressDisplay()
    for reference in options.models:
        folder = resolve(reference, progress)
        print(f"{reference}  {folder.path}")
