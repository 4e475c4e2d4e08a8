"""Facts made one after another, up to thousands: `python -m benchmarks.growing_facts [--quick]`.

Edits are made in a random order. After 10, 100, 1,000 and 9,000 of them the first ones (100 at most) are
asked through a target: their prompts and rephrasings for the new answer, unrelated prompts for the unedited answer (as
text). These come from ZsRE's edit part, one for each subject; the other edits are those of `live_edit`. Nothing is
trained, so an answer can become worse only if the right fact is not found among more facts. Writes `growing_facts.md`.
"""

from __future__ import annotations

import asyncio
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.many_facts import asked_edits, open_reader
from benchmarks.options import chosen_config, parse, parser_for
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.metrics import text_match
from onceedit_ray.evaluation.tables import markdown_table
from onceedit_ray.files import replacing
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.system import index_of
from onceedit_ray.knowledge.edit import Edit

SIZES = (10, 100, 1000, 9000)
ASKED = 100
TOKENS = 12
NAME = "growing_facts"


async def properties(decoder: FusedDecoder, target: str, edits: Sequence[Edit], own: dict[str, str]) -> list[float]:
    """Reliability, generality and locality of the edits, as text.

    own: the unedited answers to unrelated prompts so far; those that are missing are added.
    """

    async def answer(prompt: str, strategy: str | None = None) -> str:
        return (await decoder.generate(target, prompt, strategy, TOKENS)).text

    told = [text_match(await answer(edit.prompt), edit.target_new) for edit in edits]
    general = [text_match(await answer(edit.rephrasings[0]), edit.target_new) for edit in edits]
    kept = []
    for prompt in (probe.prompt for edit in edits for probe in edit.locality[:1]):
        if prompt not in own:
            own[prompt] = await answer(prompt, UNEDITED)
        kept.append(float(await answer(prompt) == own[prompt]))
    return [statistics.fmean(of) for of in (told, general, kept)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the models, add the edits, write the table."""
    parser = parser_for(NAME, __doc__, "10 and 100 edits, of which 10 are asked")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="of the run file (default: its last one)")
    options = parse(parser, arguments)
    config = chosen_config(options, last=1)
    names = list(config.targets)
    sizes, count = ((10, 100), 10) if options.quick else (SIZES, ASKED)
    filler, edits = asked_edits(count)
    made = [*edits, *filler]
    with tempfile.TemporaryDirectory() as folder:
        decoder = open_reader(config, Path(folder))
    now, rows = decoder.plugin, []
    own: dict[str, dict[str, str]] = {name: {} for name in names}
    for size in sizes:
        decoder.plugin = Plugin(now.model, now.codec, now.view, facts=index_of(made[:size]))
        for name in names:
            found = asyncio.run(properties(decoder, name, edits[:size], own[name]))
            rows.append([name, f"{size:,}", str(len(edits[:size])), *(f"{value:.3f}" for value in found)])
            print(*rows[-1])
    table = markdown_table(["target", "live edits", "asked", "Rel", "Gen", "Loc"], rows, figures=5)
    command = shlex.join(["python", "-m", f"benchmarks.{NAME}", *sys.argv[1:]])
    page = f"{table}\n\nText match, `{config.fusion.strategy}`. {describe_machine()}.\n\n`{command}`"
    options.results.mkdir(parents=True, exist_ok=True)
    with replacing(options.results / f"{NAME}.md") as path:
        path.write_text(f"# Facts made one after another\n\n{page}\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
