"""The report of a grid: `report.md` with our tables and the paper's, and `figure.png`.

It shows the scores of the cells and of the paper, and the differences between the two set-ups. It computes no score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onceedit_ray.comparison.cell_store import CellResult
from onceedit_ray.comparison.cells import Cell
from onceedit_ray.comparison.grid_config import ONCEEDIT, GridConfig
from onceedit_ray.comparison.paper import PaperRow, PaperTable, paper_table
from onceedit_ray.comparison.table import CLOCKS, Block, Panel, blocks, write_table
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.summary import SETTING_LABELS
from onceedit_ray.evaluation.tables import figure, markdown_table, markdown_text
from onceedit_ray.extras import has_extra
from onceedit_ray.files import replacing

_LABELS = {**SETTING_LABELS, **CLOCKS}
_READING = {
    "scores": (
        "Rel. reliability, Gen. generality, Loc. locality, Avg. the mean of the three. Score: the mean of the targets' "
        "averages. Freq.: how many edits were run to serve all targets."
    ),
    "averages": "The mean of reliability, generality and locality for each target. Score: the mean over targets.",
    "targets": "Rel. reliability, Gen. generality, Loc. locality, Avg. the mean of the three.",
    "cost": (
        "Time of editing over that of OnceEdit's one edit: on each target; summed over the first one, two, three "
        "targets; and over all of them with what a method prepares (statistics, a hyper-network). Below 1 is cheaper."
    ),
}


def write_comparison(
    folder: Path,
    config: GridConfig,
    cells: Sequence[Cell],
    results: Mapping[str, CellResult],
    failures: Mapping[str, str],
    command: str,
) -> str:
    """Write `table.parquet`, `figure.png` and, last, `report.md` into `folder`; returns the tables as text.

    Cells without a result are shown as a dash; failed cells are listed with the reason.
    """
    found, paper = blocks(config, cells, results), paper_table(config.table.number)
    write_table(folder / "table.parquet", cells, results, failures)
    if has_extra("plots"):
        _draw(folder / "figure.png", config, found, paper)
    sections = [f"# {_title(config, paper)}", _state(cells, results, failures)]
    sections += [_READING[config.table.layout], figure("the table as bars", "figure.png")]
    sections += [_section(config, block, paper) for block in found]
    sections += [*_drift(config, cells, results), *_failures(cells, failures)]
    sections += [_differences(config, results, paper), _settings(cells, results), _run(results, command)]
    with replacing(folder / "report.md") as temporary:
        temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return "\n\n".join(f"{block.dataset}, {_LABELS[block.title].lower()}\n{_markdown(block, {})}" for block in found)


def _title(config: GridConfig, paper: PaperTable | None) -> str:
    return config.name if paper is None else f"Table {paper.number}: {paper.title}"


def _state(cells: Sequence[Cell], results: Mapping[str, CellResult], failures: Mapping[str, str]) -> str:
    ids = {cell.id for cell in cells}
    done, failed = len(ids & results.keys()), len(ids & failures.keys())
    text = f"{done} of {len(ids)} cells are computed"
    return f"{text}, {failed} failed." if failed else f"{text}."


def _section(config: GridConfig, block: Block, paper: PaperTable | None) -> str:
    rows = paper.of(block.dataset) if paper and _is_papers(config, block, paper) else {}
    text = f"## {block.dataset}, {_LABELS[block.title].lower()}\n\n{_markdown(block, {})}"
    if paper is None or not rows:
        return text
    theirs = Block(block.dataset, block.title, *_paper_columns(config, paper, rows))
    return f"{text}\n\nThe paper, {paper.scoring.lower()}:\n\n{_markdown(theirs, {})}"


def _is_papers(config: GridConfig, block: Block, paper: PaperTable) -> bool:
    """Whether the paper's scores use this scoring; by convention that is the first one in `settings`."""
    kinds = list(CLOCKS) if config.table.layout == "cost" else list(config.table.settings)
    return block.title == kinds[0]


def _paper_columns(
    config: GridConfig, paper: PaperTable, rows: Mapping[str, PaperRow]
) -> tuple[tuple[str, ...], Mapping[str, PaperRow], tuple[tuple[str, int], ...]]:
    layout, width = config.table.layout, max(len(row) for row in rows.values())
    four = ("Rel.", "Gen.", "Loc.", "Avg.")
    if layout == "targets":
        return four, rows, ()
    if layout == "scores":
        extra = ("Score", "Freq.")[: width - 4 * len(paper.targets)]
        groups = (*((target, 4) for target in paper.targets), *(("", 1) for _ in extra))
        return (*(four * len(paper.targets)), *extra), rows, groups
    last = "Total" if layout == "cost" else "Score"
    return (*paper.targets, last), rows, ()


def _markdown(block: Block, marks: Mapping[str, str]) -> str:
    """A block as a Markdown table; groups are part of the column heads, since Markdown has no spanning cells."""
    heads = list(block.columns)
    if block.groups:
        names = [name for name, count in block.groups for _ in range(count)]
        heads = [f"{name} {head}".strip() for name, head in zip(names, block.columns, strict=True)]
    rows = [
        [markdown_text(label), *(_figure(value, head) for value, head in zip(values, block.columns, strict=True))]
        for label, values in block.rows.items()
    ]
    return markdown_table(["", *map(markdown_text, heads)], rows, figures=len(heads))


def _figure(value: float | None, head: str) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if head == "Freq." else f"{value:.2f}"


def _drift(config: GridConfig, cells: Sequence[Cell], results: Mapping[str, CellResult]) -> list[str]:
    """The drift section: for each row and target, the share of general prompts that were answered as before."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for cell in cells:
        result = results.get(cell.id)
        if result is not None and result.drift is not None:
            rows.setdefault((cell.dataset, cell.row), {})[cell.target] = result.drift
    if not rows:
        return []
    shares = [
        [dataset, markdown_text(row), *(_figure(at.get(target), "") for target in config.targets)]
        for (dataset, row), at in rows.items()
    ]
    table = markdown_table(["", "", *config.targets], shares, figures=len(config.targets))
    asked = (
        f"The share of {config.evaluation.drift_limit} general prompts whose answer is the unedited one, to the token."
    )
    return [f"## Drift\n\n{asked}\n\n{table}"]


def _failures(cells: Sequence[Cell], failures: Mapping[str, str]) -> list[str]:
    lines = [f"- {cell.name}: {markdown_text(failures[cell.id], 400)}" for cell in cells if cell.id in failures]
    return ["## Cells that failed\n\n" + "\n".join(lines)] if lines else []


def _differences(config: GridConfig, results: Mapping[str, CellResult], paper: PaperTable | None) -> str:
    """The differences between our set-up and the paper's, which a reader must know to compare the scores."""
    edits = sorted({(result.dataset, result.edits) for result in results.values()})
    ours = {
        "targets": ", ".join(f"{name} ({target.model})" for name, target in config.targets.items()),
        "plug-in": ", ".join(
            dict.fromkeys((row.plugin or config.plugin).model for row in config.rows if row.method == ONCEEDIT)
        )
        or "none",
        "edits": ", ".join(f"{count} of {dataset}" for dataset, count in edits) or "none yet",
        "protocol": {
            "batch": "all edits made, then all scored",
            "single": "one edit made, scored on its own record, and taken back",
        }[config.protocol],
        "prompts": f"targets are asked in the shape '{config.evaluation.shape}' alone",
        "fusion": ", ".join(dict.fromkeys(row.strategy for row in config.rows if row.method == ONCEEDIT)) or "none",
    }
    if paper is None:
        rows = [[name, markdown_text(text, 400)] for name, text in ours.items()]
        return "## What was compared\n\n" + markdown_table(["", "here"], rows)
    theirs = {
        "targets": ", ".join(paper.targets),
        "plug-in": paper.plugin,
        "edits": paper.records,
        "protocol": "all edits made, then all scored",
        "prompts": "baselines with and without a prompt template, the better figure of the two",
        "fusion": "token by token, literal relative matrix (strategy onceedit here)",
    }
    rows = [[name, markdown_text(theirs[name], 400), markdown_text(ours[name], 400)] for name in ours]
    return (
        "## What differs\n\nThe paper's figures are for orientation: models, sizes and settings are not the same.\n\n"
        + markdown_table(["", "the paper", "here"], rows)
    )


def _settings(cells: Sequence[Cell], results: Mapping[str, CellResult]) -> str:
    rows: list[list[str]] = []
    seen = set()
    for cell in cells:
        if cell.plan.settings is None or (cell.row, cell.target) in seen:
            continue
        seen.add((cell.row, cell.target))
        text = ", ".join(f"{key} {value}" for key, value in cell.plan.settings.items())
        rows.append([markdown_text(cell.row), markdown_text(cell.target), markdown_text(text, 600)])
    if not rows:
        return "No baseline is part of this table."
    return "## Settings of the baselines\n\n" + markdown_table(["row", "target", "settings"], rows)


def _run(results: Mapping[str, CellResult], command: str) -> str:
    machines = list(dict.fromkeys(result.machine for result in results.values())) or [describe_machine()]
    stages = ("unedited", "prepare", "edit", "score")
    spent = {stage: sum(result.seconds.get(stage, 0.0) for result in results.values()) for stage in stages}
    finished = sorted(result.finished for result in results.values())
    times = ", ".join(f"{stage} {_span(seconds)}" for stage, seconds in spent.items())
    lines = ["## How it was made", f"```sh\n{command}\n```", *(f"Machine: {machine}." for machine in machines)]
    if finished:
        lines.append(
            f"Cells were finished between {finished[0]} and {finished[-1]}; their own wall-clock times, some of them "
            f"beside each other and beside other work: {times}. An edit of the plug-in counts once for each cell."
        )
    return "\n\n".join(lines)


def _span(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def _draw(path: Path, config: GridConfig, found: Sequence[Block], paper: PaperTable | None) -> None:
    from onceedit_ray.comparison.grid_figure import draw_panels

    cost = config.table.layout == "cost"
    rows = []
    for block in found:
        panels = [
            _panel(config, f"ours: {block.dataset}, {_LABELS[block.title].lower()}", block, tuple(config.targets))
        ]
        theirs = paper.of(block.dataset) if paper and _is_papers(config, block, paper) else {}
        if paper is not None and theirs:
            columns, values, groups = _paper_columns(config, paper, theirs)
            shown = Block(block.dataset, block.title, columns, values, groups)
            panels.append(_panel(config, f"the paper: {block.dataset}, {paper.scoring.lower()}", shown, paper.targets))
        rows.append(panels)
    draw_panels(
        path,
        rows,
        "time over OnceEdit's" if cost else "average" if config.table.layout != "targets" else "score",
        None if cost else 1.0,
    )


def _panel(config: GridConfig, title: str, block: Block, targets: tuple[str, ...]) -> Panel:
    if config.table.layout == "targets":
        return Panel(title, tuple(block.columns), dict(block.rows))
    if config.table.layout == "scores":
        averages = [at for at, head in enumerate(block.columns) if head == "Avg."]
        return Panel(title, targets, {label: [row[at] for at in averages] for label, row in block.rows.items()})
    return Panel(title, targets, {label: row[: len(targets)] for label, row in block.rows.items()})
