"""A table as a figure: grouped bars, ours on the left and the paper's on the right, a row of panels for each data set.

Draws on matplotlib's own canvas, as `onceedit_ray.evaluation.figures` does. It does not depend on what is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from onceedit_ray.comparison.table import Panel
from onceedit_ray.files import replacing

# Okabe and Ito's palette: its colours differ for people with any common colour blindness.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_DPI = 130
_HEIGHT = 2.9
_INCHES_PER_BAR = 0.17


def draw_panels(path: Path, rows: Sequence[Sequence[Panel]], axis: str, top: float | None) -> None:
    """Draw panels in a grid, `rows` from top to bottom; each row has panels of the same kind side by side.

    Args:
        axis: what the bars measure. top: the largest value shown; None if values have no bound, which are then drawn
            on a logarithmic scale.

    Raises `StoreError` if the figure cannot be written.
    """
    columns = max(len(panels) for panels in rows)
    bars = [max((_bars(panels[at]) for panels in rows if at < len(panels)), default=1) for at in range(columns)]
    widths = [max(3.2, 1.0 + _INCHES_PER_BAR * count) for count in bars]
    style: dict[Any, Any] = {
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    with matplotlib.rc_context(style):
        figure = Figure(
            figsize=(sum(widths), _HEIGHT * len(rows)), dpi=_DPI, layout=ConstrainedLayoutEngine(h_pad=0.08)
        )
        grid = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"width_ratios": widths})
        for axes_of_row, panels in zip(grid, rows, strict=True):
            for axes in axes_of_row[len(panels) :]:
                axes.set_visible(False)
            for axes, panel in zip(axes_of_row, panels, strict=False):
                _draw(axes, panel, axis, top)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


def _bars(panel: Panel) -> int:
    return len(panel.groups) * (len(panel.series) + 1)


def _draw(axes: Axes, panel: Panel, axis: str, top: float | None) -> None:
    width = 0.85 / max(len(panel.series), 1)
    for number, name in enumerate(panel.series):
        offset = (number - (len(panel.series) - 1) / 2) * width
        values = [group[number] for group in panel.groups.values()]
        places = [index + offset for index in range(len(values))]
        axes.bar(places, [value or 0.0 for value in values], width, color=_COLOURS[number % len(_COLOURS)], label=name)
        for place, value in zip(places, values, strict=True):
            if value is None:
                axes.text(place, 0.01 if top else 1.0, "–", ha="center", va="bottom", color="#555555")
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xticks(range(len(panel.groups)), list(panel.groups), rotation=35, ha="right", rotation_mode="anchor")
    axes.set_ylabel(axis)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    if top is None:
        axes.axhline(1.0, color="#555555", linewidth=0.8)
        if any(value for group in panel.groups.values() for value in group):
            axes.set_yscale("log")
    else:
        axes.set_ylim(0.0, top)
    if len(panel.series) > 1:
        axes.legend(
            frameon=False, fontsize=7.5, ncols=min(len(panel.series), 4), loc="lower left", bbox_to_anchor=(0, 1.1)
        )
