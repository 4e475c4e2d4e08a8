"""The report of a run: `report.md` with its figures, `summary.json`, and a plain table for the terminal.

It shows the summary and the records. It scores nothing, uses no model and does not depend on how a run was started.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onceedit_ray.evaluation.machine import package_versions
from onceedit_ray.evaluation.records import GateRecord, Record
from onceedit_ray.evaluation.summary import (
    KIND_LABELS,
    PROPERTIES,
    PROPERTY_LABELS,
    SETTING_LABELS,
    SETTINGS,
    strategies_of,
)
from onceedit_ray.evaluation.tables import figure, fitted, markdown_table, markdown_text, plain_table
from onceedit_ray.extras import has_extra
from onceedit_ray.files import replacing
from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.knowledge.prompt_shapes import unwrap

ANSWERS_SHOWN = 3  # edits whose answers the report shows side by side, for each target
_COLUMNS = (13, 40, 16, 18, 18)  # of the terminal: asked, prompt, wanted, unedited, edited

_ASKED = {
    "reliability": "edited prompts: the new answer",
    "generality": "rephrasings: the new answer",
    "locality": "unrelated prompts: as before",
}
_ASKED_ONE = {"reliability": "edited prompt", "generality": "rephrasing", "locality": "unrelated"}
_WANTED = {"edit": "1", "rephrasing": "1", "locality": "0", "general": "0"}
_READING = """\
- **Reliability**: the new answer to the edited prompts. **Generality**: the new answer to their rephrasings.
  **Locality**: the unedited target's own answer, right or wrong, to unrelated prompts. **Average**: the mean of the
  three. Each is a mean within a record, then over records.
- **Teacher-forced**: share of the answer's tokens predicted, given the right tokens before them.
  **Generation**: share of the answer's tokens that greedy decoding writes in their place.
  **Text match**: share of generated texts that start with the answer as whole words, letter case aside, however it
  is cut into tokens: the nearest of the three to what a user sees.
- The row `unedited` is the target before any edit: how often it gave the new answer already.
"""


@dataclass(frozen=True)
class ReportMeta:
    """How the run was made, which the summary does not contain.

    run: its name. dataset: which edits, in words. models: reference or description of each model by name.
    machine: `describe_machine()`. duration_seconds: of the whole run. command: the command that repeats it.
    versions: package versions. notes: what else a reader must know, one sentence each.
    """

    run: str
    dataset: str
    models: Mapping[str, str]
    machine: str
    duration_seconds: float
    command: str
    versions: Mapping[str, str] = field(default_factory=package_versions)
    notes: Sequence[str] = ()


def write_report(
    folder: str | Path,
    summary: Mapping[str, Any],
    records: Sequence[Record],
    gate_records: Sequence[GateRecord],
    meta: ReportMeta,
) -> Path:
    """Write `scores.png`, `gate.png` (where the gate was read), `summary.json` and, last, `report.md` into `folder`.

    Without the extra `plots` there are no pictures, and the report says so.

    Each file is written completely or not at all. `summary.json` is the summary with the key `meta` added.

    Returns:
        The path of `report.md`.

    Raises:
        ValueError: the summary holds no scores, or a number that is not finite.
        StoreError: a file cannot be written.
    """
    folder = Path(folder)
    numbers = json.dumps({**summary, "meta": asdict(meta)}, indent=2, allow_nan=False, ensure_ascii=False)
    if has_extra("plots"):
        from onceedit_ray.evaluation.figures import draw_gate, draw_scores

        draw_scores(folder / "scores.png", summary)
        if gate_records:
            draw_gate(folder / "gate.png", gate_records, summary["gate"]["threshold"])
    _write_text(folder / "summary.json", numbers + "\n")
    _write_text(folder / "report.md", "\n\n".join(_sections(summary, records, meta)) + "\n")
    return folder / "report.md"


def before_after_table(
    summary: Mapping[str, Any], records: Sequence[Record], n: int, strategy: str | None = None
) -> str:
    """Scores before and after, and the answers of `n` edits side by side, for every target, as fixed-width text.

    The answers shown are those of `strategy`; None takes the first strategy of the summary. Wide characters count as
    two columns; control characters are spelled out, because a terminal would execute them.
    """
    shown = strategy or _headline(summary)
    blocks = []
    for target, rows in summary["targets"].items():
        setting = _shown_setting(rows)
        title = f"{target}: {SETTING_LABELS[setting].lower()}, mean over records"
        blocks.append(f"{title}\n{plain_table(*_before_after(rows, setting))}")
        answers = _answers(records, target, shown, n)
        if answers:
            rows_shown = [[_ASKED_ONE[record.property], *_texts(record)] for record in answers]
            cells = [[fitted(text, at) for text, at in zip(row, _COLUMNS, strict=True)] for row in rows_shown]
            blocks.append(plain_table(["asked", "prompt", "wanted", "unedited", f"edited ({shown})"], cells))
    return "\n\n".join(blocks)


def _sections(summary: Mapping[str, Any], records: Sequence[Record], meta: ReportMeta) -> Iterable[str]:
    targets = summary["targets"]
    made, read = _count(summary["edits"], "edit"), _count(len(targets), "target")
    yield f"# {markdown_text(meta.run)}: {made} made once, read on {read}"
    yield _outcome(summary)
    yield "## What was run\n\n" + _facts(summary, meta)
    yield "## How to read the figures\n\n" + _READING.rstrip()
    yield "## Before and after\n\n" + "\n\n".join(_before_after_section(target, targets[target]) for target in targets)
    yield "## Answers side by side\n\n" + _answers_section(summary, records)
    yield f"## Scores\n\n{figure('Reliability, generality and locality of every target and strategy', 'scores.png')}"
    yield from _score_tables(targets)
    if summary["gate"]["shapes"]:
        yield "## The gate\n\n" + _gate_section(summary["gate"])
    if summary["drift"]:
        yield "## Drift\n\n" + _drift_section(summary["drift"])
    yield "## Cost of an answer\n\n" + _cost_section(targets)
    notes = _notes(summary, meta)
    if notes:
        yield "## Notes\n\n" + "\n".join(f"- {note}" for note in notes)


def _outcome(summary: Mapping[str, Any]) -> str:
    strategy = _headline(summary)
    lines = []
    for target, rows in summary["targets"].items():
        if strategy not in rows:
            continue
        setting = _shown_setting(rows)
        after, before = rows[strategy][setting], rows.get(UNEDITED, {}).get(setting, {})
        lines.append(
            f"- **{markdown_text(target)}** ({markdown_text(strategy)}, {SETTING_LABELS[setting].lower()}): "
            f"new answer to the edited prompts {_number(after['reliability'])} "
            f"(before {_number(before.get('reliability'))}), to rephrasings {_number(after['generality'])} "
            f"(before {_number(before.get('generality'))}); unrelated prompts answered as before "
            f"{_number(after['locality'])}; average {_number(after['average'])}."
        )
    return "\n".join(lines)


def _facts(summary: Mapping[str, Any], meta: ReportMeta) -> str:
    rows = [
        ["edits", f"{summary['edits']}, {markdown_text(meta.dataset)}"],
        ["plug-in", markdown_text(summary["plugin"])],
        ["editing took", _duration(summary["edit_seconds"])],
        *[[f"model {markdown_text(name)}", markdown_text(what)] for name, what in meta.models.items()],
        ["whole run took", _duration(meta.duration_seconds)],
        ["machine", markdown_text(meta.machine)],
        ["versions", markdown_text(", ".join(f"{name} {version}" for name, version in meta.versions.items()), 300)],
        ["command", markdown_text(meta.command, 500)],
    ]
    return markdown_table(["", ""], rows)


def _before_after_section(target: str, rows: Mapping[str, Any]) -> str:
    setting = _shown_setting(rows)
    header, cells = _before_after(rows, setting)
    title = f"**{markdown_text(target)}** ({SETTING_LABELS[setting].lower()}, mean over records)"
    return title + "\n\n" + markdown_table([markdown_text(name) for name in header], cells)


def _before_after(rows: Mapping[str, Any], setting: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table: a row for each property, a column for each strategy."""
    cells = [[label, *(_number(row[setting][prop]) for row in rows.values())] for prop, label in _ASKED.items()]
    cells.append(["average", *(_number(row[setting]["average"]) for row in rows.values())])
    return ["", *rows], cells


def _shown_setting(rows: Mapping[str, Any]) -> str:
    """Text match if answers were generated, because users see the text; else the first setting that was scored."""
    scored = [name for name in SETTINGS if any(row[name]["average"] is not None for row in rows.values())]
    return "text_match" if "text_match" in scored else next(iter(scored), SETTINGS[0])


def _headline(summary: Mapping[str, Any]) -> str:
    return next(iter(strategies_of(summary)), UNEDITED)


def _answers(records: Sequence[Record], target: str, strategy: str, n: int) -> list[Record]:
    """The first probe of each property for the first `n` edits, whatever their scores."""
    first: dict[tuple[int, int], Record] = {}
    for record in records:
        asked = (record.target, record.strategy, record.setting) == (target, strategy, "generation")
        if asked and record.property in PROPERTIES:
            first.setdefault((PROPERTIES.index(record.property), record.record), record)
    edits = sorted({index for _, index in first})[:n]
    return [first[key] for key in sorted(first) if key[1] in edits]


def _texts(record: Record) -> list[str]:
    """The question without its prompt shape, then the expected, the unedited and the edited answer."""
    wanted = "(as before)" if record.property == "locality" else record.expected
    return [unwrap(record.prompt), wanted, record.unedited_output or "(nothing)", record.output or "(nothing)"]


def _answers_section(summary: Mapping[str, Any], records: Sequence[Record]) -> str:
    strategy = _headline(summary)
    header = ["asked", "prompt", "wanted", "unedited", f"edited once ({markdown_text(strategy)})", "match"]
    parts = [f"Greedy answers to the first {ANSWERS_SHOWN} edits, however they came out."]
    for target in summary["targets"]:
        answers = _answers(records, target, strategy, ANSWERS_SHOWN)
        if not answers:
            parts.append(f"**{markdown_text(target)}**: no answers were generated.")
            continue
        rows = [
            [_ASKED_ONE[record.property], *(markdown_text(text) for text in _texts(record)), _verdict(record)]
            for record in answers
        ]
        parts.append(f"**{markdown_text(target)}**\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts)


def _verdict(record: Record) -> str:
    return "–" if record.text_match is None else ("yes" if record.text_match == 1.0 else "no")


def _score_tables(targets: Mapping[str, Any]) -> Iterable[str]:
    portability = any(row["records"]["portability"] for rows in targets.values() for row in rows.values())
    header = ["target", "strategy", "Rel", "Gen", "Loc", "Avg", *(["Portability"] if portability else [])]
    for setting in SETTINGS:
        cells = [
            [
                markdown_text(target),
                markdown_text(strategy),
                *(_number(row[setting][prop]) for prop in (*PROPERTIES, "average")),
                *([_number(row["portability"][setting])] if portability else []),
            ]
            for target, strategies in targets.items()
            for strategy, row in strategies.items()
            if row[setting]["average"] is not None
        ]
        if cells:
            yield f"### {SETTING_LABELS[setting]}\n\n{markdown_table(header, cells)}"


def _gate_section(gate: Mapping[str, Any]) -> str:
    threshold = f"{gate['threshold']:g}"
    rows = [
        [
            shape,
            KIND_LABELS[kind].lower(),
            str(figures["n"]),
            _number(figures["mean"]),
            _number(figures["share_above"]),
            _WANTED[kind],
        ]
        for shape, kinds in gate["shapes"].items()
        for kind, figures in kinds.items()
    ]
    text = (
        f"The plug-in is asked where its weight w reaches {threshold}; below, the target answers alone. Edited prompts "
        "and rephrasings under the threshold are missed edits, locality prompts and general text above it false alarms."
    )
    header = ["prompt shape", "prompts", "n", "mean w", f"share with w ≥ {threshold}", "wanted"]
    histogram = figure("Histogram of the gate weight by kind and shape of prompt", "gate.png")
    return f"{text}\n\n{markdown_table(header, rows)}\n\n{histogram}"


def _drift_section(drift: Mapping[str, Any]) -> str:
    rows = [
        [markdown_text(target), markdown_text(strategy), _number(figures["identical"]), str(figures["n"])]
        for target, strategies in drift.items()
        for strategy, figures in strategies.items()
    ]
    text = "Share of general prompts whose output is identical, token by token, to the unedited target's."
    return f"{text}\n\n" + markdown_table(["target", "strategy", "identical", "prompts"], rows)


def _cost_section(targets: Mapping[str, Any]) -> str:
    rows = []
    for target, strategies in targets.items():
        for strategy, row in strategies.items():
            cost = row["cost"]
            figures = [_number(cost[name]) for name in ("tokens_per_target_pass", "plugin_passes_per_answer", "alone")]
            rows.append([markdown_text(target), markdown_text(strategy), str(cost["answers"]), *figures])
    text = "Over the generated answers to the edits' prompts, rephrasings, locality and portability prompts."
    header = [
        "target",
        "strategy",
        "answers",
        "tokens per target pass",
        "plug-in passes per answer",
        "answered by the target alone",
    ]
    return f"{text}\n\n" + markdown_table(header, rows)


def _notes(summary: Mapping[str, Any], meta: ReportMeta) -> list[str]:
    notes = [markdown_text(note, 1000) for note in meta.notes]
    for target, strategies in summary["targets"].items():
        for strategy, row in strategies.items():
            where = f"{markdown_text(target)}, {markdown_text(strategy)}"
            notes += [f"{where}: {markdown_text(note.rstrip('.'), 1000)}." for note in row["restricted"]]
            missing = [PROPERTY_LABELS[prop].lower() for prop in PROPERTIES if not row["records"][prop]]
            if missing:
                notes.append(f"{where}: no {' or '.join(missing)} was scored (–); the average is over the others.")
    return notes


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
