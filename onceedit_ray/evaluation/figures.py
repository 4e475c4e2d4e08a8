"""The two figures of a run: scores as bars, gate weights as histograms.

Draws on matplotlib's Agg canvas (extra `plots`), without a display and without global state. It reads a summary
and gate readings, and does not depend on how they were computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from onceedit_ray.evaluation.records import GateRecord
from onceedit_ray.evaluation.summary import KIND_LABELS, PROPERTIES, PROPERTY_LABELS, SETTING_LABELS, SETTINGS
from onceedit_ray.files import replacing
from onceedit_ray.fusion.decoder import UNEDITED

# Okabe and Ito's palette: its colours differ for people with any common colour blindness, and in grey.
_PROPERTY_COLOURS = {"reliability": "#0072B2", "generality": "#E69F00", "locality": "#009E73"}
_KIND_COLOURS = {"edit": "#0072B2", "rephrasing": "#E69F00", "locality": "#009E73", "general": "#CC79A7"}
_GREY = "#555555"
_DPI = 130
_SIDE_BY_SIDE = 3  # with at most so many strategies, `unedited` included, the settings stand beside each other
_BINS = 20
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": "black",
}


def draw_scores(path: str | Path, summary: Mapping[str, Any]) -> None:
    """Bars of reliability, generality and locality for every target and strategy, one panel per setting.

    A property that was not scored is marked with a dash. Settings without any score have no panel.

    Raises:
        ValueError: the summary holds no scores.
        StoreError: the picture cannot be written.
    """
    targets = summary["targets"]
    settings = [name for name in SETTINGS if _has_scores(targets, name)]
    if not settings:
        raise ValueError("the summary holds no scores; nothing can be drawn")
    most = max(len(rows) for rows in targets.values())
    columns = len(settings) if most <= _SIDE_BY_SIDE else 1
    rows = math.ceil(len(targets) * len(settings) / columns)
    width = columns * (1.4 + 1.0 * most) if columns > 1 else 1.6 + 1.25 * most
    with matplotlib.rc_context(_STYLE):
        layout = ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.06)
        figure = Figure(figsize=(max(7.0, width), 2.45 * rows + 0.7), layout=layout)
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for panel in panels[:, 0]:
            panel.set_ylabel("mean score")
        for panel, (target, setting) in zip(panels.flat, _pairs(targets, settings), strict=True):
            _draw_score_panel(panel, targets[target], setting)
            panel.set_title(f"{target}: {SETTING_LABELS[setting].lower()}", loc="left", fontsize=10)
        handles = [Patch(color=_PROPERTY_COLOURS[prop], label=PROPERTY_LABELS[prop]) for prop in PROPERTIES]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
        _save(figure, Path(path))


def _has_scores(targets: Mapping[str, Any], setting: str) -> bool:
    return any(row[setting]["average"] is not None for rows in targets.values() for row in rows.values())


def _pairs(targets: Mapping[str, Any], settings: Sequence[str]) -> list[tuple[str, str]]:
    return [(target, setting) for target in targets for setting in settings]


def _draw_score_panel(panel: Axes, rows: Mapping[str, Any], setting: str) -> None:
    width = 0.27
    for at, prop in enumerate(PROPERTIES):
        for group, (strategy, row) in enumerate(rows.items()):
            score = row[setting][prop]
            centre = group + (at - 1) * width
            panel.bar(
                centre,
                score or 0.0,
                width * 0.92,
                color=_pale(_PROPERTY_COLOURS[prop]) if strategy == UNEDITED else _PROPERTY_COLOURS[prop],
            )
            text = "–" if score is None else f"{score:.2f}"
            panel.text(centre, (score or 0.0) + 0.015, text, ha="center", va="bottom", fontsize=7.5, color="black")
    panel.set_xticks(range(len(rows)), list(rows))
    panel.tick_params(axis="x", length=0)
    panel.set_xlim(-0.55, len(rows) - 0.45)
    panel.set_ylim(0.0, 1.1)
    panel.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])


def _pale(colour: str) -> tuple[float, ...]:
    return tuple(0.45 * part + 0.55 for part in to_rgb(colour))


def draw_gate(path: str | Path, gate_records: Sequence[GateRecord], threshold: float) -> None:
    """Histograms of w, a row for each kind of prompt and a column for each shape, with the threshold as a line.

    Shapes with the same readings share a column: a gate that sees only the question inside a prompt gives such.
    Counts are on a log axis: nearly all weights lie near 0 or 1, and the few others matter most.

    Raises:
        ValueError: there are no gate readings.
        StoreError: the picture cannot be written.
    """
    if not gate_records:
        raise ValueError("no gate readings; nothing can be drawn")
    weights: dict[tuple[str, str], list[float]] = {}
    for record in gate_records:
        weights.setdefault((record.kind, record.shape), []).append(record.weight)
    kinds = [kind for kind in KIND_LABELS if any(kind == known for known, _ in weights)]
    columns: dict[tuple[tuple[float, ...], ...], list[str]] = {}  # the shapes, by their readings for every kind
    for shape in dict.fromkeys(shape for _, shape in weights):
        columns.setdefault(tuple(tuple(weights.get((kind, shape), ())) for kind in kinds), []).append(shape)
    tallest = max(len(values) for values in weights.values())
    with matplotlib.rc_context(_STYLE):
        size = (max(5.5, 1.2 + 2.6 * len(columns)), 0.9 + 1.35 * len(kinds))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(len(kinds), len(columns), squeeze=False, sharex=True, sharey=True)
        for row, kind in enumerate(kinds):
            for column, (readings, shapes) in enumerate(columns.items()):
                panel = panels[row][column]
                _draw_gate_panel(panel, readings[row], kind, threshold, tallest)
                if row == 0:
                    panel.set_title(f"{', '.join(shapes)} prompts", fontsize=10)
            panels[row][0].set_ylabel(KIND_LABELS[kind])
        figure.supxlabel(f"gate weight w (dashed: threshold {threshold:g})", fontsize=9)
        figure.supylabel("number of prompts, log scale", fontsize=9)
        _save(figure, Path(path))


def _draw_gate_panel(panel: Axes, weights: Sequence[float], kind: str, threshold: float, tallest: int) -> None:
    panel.set_yscale("log")
    panel.set_ylim(0.5, tallest * 5)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.set_xlim(-0.02, 1.02)
    panel.set_xticks([0.0, 0.5, 1.0], ["0", "0.5", "1"])
    panel.axvline(threshold, color=_GREY, linestyle="--", linewidth=1.0)
    if not weights:
        panel.text(0.5, 0.5, "not read", ha="center", va="center", transform=panel.transAxes, color=_GREY)
        return
    panel.hist(weights, bins=_BINS, range=(0.0, 1.0), color=_KIND_COLOURS[kind], edgecolor="white", linewidth=0.4)
    above = sum(weight >= threshold for weight in weights)
    text = f"{above} of {len(weights)} above"
    background = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    panel.text(0.5, 0.95, text, ha="center", va="top", transform=panel.transAxes, fontsize=8, bbox=background)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor="white")
