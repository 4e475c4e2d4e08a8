"""`onceedit validate`: checks that a run file or a grid file is right, before anything is loaded or made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from onceedit_ray.comparison.grid_config import load_grid
from onceedit_ray.config import is_grid, load_config
from onceedit_ray.errors import ConfigError
from onceedit_ray.listing import print_json
from onceedit_ray.progress import ProgressDisplay


def validate(options: argparse.Namespace) -> None:
    """Report what a file asks for; raises the first error in the file."""
    of_a_grid = is_grid(options.config)
    if options.scale and not of_a_grid:
        raise ConfigError(f"{options.config} is a run file and has no scales; leave --scale out")
    found = _grid(options.config, options.scale) if of_a_grid else _run(options.config)
    if options.json:
        print_json({"file": str(options.config), "valid": True, **found})
    elif found["kind"] == "grid":
        print(f"{options.config}: valid, {found['cells']} cells")
    else:
        print(f"{found['edits']} edits, {found['unrelated']} unrelated and {found['general']} general prompts")
        print(f"{options.config} is valid; `onceedit models fetch {' '.join(found['models'])}` gets the models")


def _grid(file: Path, scale: str | None) -> dict[str, Any]:
    from onceedit_ray.comparison.cells import cells_of

    return {"kind": "grid", "cells": len({cell.id for cell in cells_of(load_grid(file, scale), ProgressDisplay())})}


def _run(file: Path) -> dict[str, Any]:
    from onceedit_ray.editing.editors import EDITORS
    from onceedit_ray.fusion.engine_check import check_engines
    from onceedit_ray.fusion.strategies import STRATEGIES
    from onceedit_ray.knowledge.prompt_shapes import plugin_view
    from onceedit_ray.knowledge.run_data import general_prompts, selected_edits, unrelated_prompts
    from onceedit_ray.models.sources import check_reference
    from onceedit_ray.reader.plugin import editor_name

    config = load_config(file)
    for strategy in (config.fusion.strategy, *config.evaluation.strategies):
        STRATEGIES.get(strategy)
    EDITORS.get(editor_name(config.editing.editor))
    check_engines(config)
    plugin_view("", config.plugin.view)
    edits = selected_edits(config.knowledge)
    unrelated = unrelated_prompts(config.editing.unrelated)
    general = general_prompts(config.evaluation.general, config.evaluation.general_limit)
    models = sorted({config.plugin.model, *(target.model for target in config.loaded_targets.values())})
    for model in models:
        check_reference(model)
    return {
        "kind": "run",
        "targets": list(config.targets),
        "models": models,
        "edits": len(edits),
        "unrelated": sum(map(len, unrelated)),
        "general": len(general),
    }
