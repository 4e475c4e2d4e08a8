"""Edits about relations that the reader never saw: `python -m benchmarks.unseen_relations [--quick]`.

Some relations are kept from the reader's training (`onceedit_ray/reader/training_data.py`). Edits about them are taken
from the edit parts of CounterFact and ZsRE, one for each subject, and beside them as many edits about the other
relations. All are live; each is asked through a target: prompt and rephrasing for the new answer, an unrelated prompt
for the unedited answer (as text). The page also gives the share of the edit parts that is about relations seen in
training. Writes `unseen_relations.md`.
"""

from __future__ import annotations

import asyncio
import random
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.growing_facts import properties
from benchmarks.live_edit import FILES
from benchmarks.many_facts import open_reader
from benchmarks.options import chosen_config, parse, parser_for
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.system import index_of
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.reader.facts import HELD_OUT_QUESTIONS, held_out_relations
from onceedit_ray.reader.training_data import relation_by_template

PORTABILITY = Path("data/counterfact_portability.parquet")
ASKED = 100
NAME = "unseen_relations"


def is_unseen(name: str, edit: Edit, relation_of: dict[str, str]) -> bool:
    """Whether an edit of a data set is about a relation that is kept from training."""
    if name == "ZsRE":
        return bool(HELD_OUT_QUESTIONS.search(" ".join((edit.prompt, *edit.rephrasings))))
    return relation_of.get(edit.prompt.replace(edit.subject, "{}")) in held_out_relations()


def usable(edits: Sequence[Edit]) -> list[Edit]:
    """Edits with a rephrasing and an unrelated prompt, one for each subject, in a drawn order."""
    drawn = list(edits)
    random.Random(0).shuffle(drawn)
    by_subject = {edit.subject: edit for edit in reversed(drawn) if edit.rephrasings and edit.locality}
    return list(reversed(by_subject.values()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the models, ask, write the table."""
    parser = parser_for(NAME, __doc__, "ten edits of each kind")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="of the run file (default: its last one)")
    options = parse(parser, arguments)
    config = chosen_config(options, last=1)
    names = list(config.targets)
    relation_of = relation_by_template(pq.read_table(PORTABILITY).to_pylist())
    groups, shares, live = {}, [], []
    taken: set[str] = set()
    for name, file in zip(("CounterFact", "ZsRE"), FILES, strict=False):
        edits = read_edits(Path(file))
        unseen = [is_unseen(name, edit, relation_of) for edit in edits]
        share = 1 - sum(unseen) / len(edits)
        shares.append(
            f"Of {name}'s edit part {share:.0%} ({len(edits):,} records) is about relations seen in training."
        )
        for wanted, kind in ((True, "never seen"), (False, "seen in training")):
            of_kind = usable([edit for edit, one in zip(edits, unseen, strict=True) if one is wanted])
            chosen = [edit for edit in of_kind if edit.subject not in taken][: 10 if options.quick else ASKED]
            taken.update(edit.subject for edit in chosen)
            groups[name, kind] = chosen
            live += chosen
    with tempfile.TemporaryDirectory() as folder:
        decoder = open_reader(config, Path(folder))
    now = decoder.plugin
    decoder.plugin = Plugin(now.model, now.codec, now.view, facts=index_of(live))
    rows = []
    for (name, kind), edits in groups.items():
        for target in names:
            found = asyncio.run(properties(decoder, target, edits, {}))
            rows.append([name, kind, target, str(len(edits)), *(f"{value:.3f}" for value in found)])
            print(*rows[-1])
    table = markdown_table(["edits", "relations", "target", "asked", "Rel", "Gen", "Loc"], rows, figures=4)
    command = shlex.join(["python", "-m", f"benchmarks.{NAME}", *sys.argv[1:]])
    about = f"{len(live)} edits live; text match, `{config.fusion.strategy}`. {describe_machine()}."
    page = "\n\n".join(["# Relations that the reader never saw", table, about, " ".join(shares), f"`{command}`"])
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / f"{NAME}.md") as path:
        path.write_text(f"{page}\n", encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
