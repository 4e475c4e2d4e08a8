"""Edited facts in conversations: `python -m benchmarks.conversations [--targets …] [--strategies …] [--limit N]`.

Every target answers every conversation of `data/conversations`, first unedited, then with each strategy, and
`onceedit_ray.evaluation.conversations` scores the answers. A target with a chat template is asked in chat, one without
continues a transcript. The plug-in is edited first if the run file's version was not made before; if `unedited` is the
only strategy, it is not edited. Prints the tables; writes `conversations.parquet` and `conversations.md`.

A target's unedited answer is asked for once, for all runs and strategies. An interrupted run continues where it
stopped: each row is kept in `rows.jsonl` of the results folder as soon as it is scored.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

from benchmarks.entailment import Judge, consistent, open_judge
from benchmarks.kept_rows import KeptRows, RowKey
from benchmarks.ratios import RESULTS
from onceedit_ray.comparison.unedited_answers import UneditedAnswers
from onceedit_ray.config import ModelConfig, RunConfig, load_config
from onceedit_ray.editing.run import edit_plugin, version_for
from onceedit_ray.errors import ConfigError, ContextLengthError
from onceedit_ray.evaluation.conversation_cases import Case, Kind, evenly, read_cases, two_hop_cases
from onceedit_ray.evaluation.conversation_report import (
    ConversationRow,
    figures,
    figures_by_kind,
    right_by_kind,
    write_conversations,
)
from onceedit_ray.evaluation.conversations import Answer, end_of, occurs, perplexity, score
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.members import Member
from onceedit_ray.fusion.strategies import STRATEGIES
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.prompt_shapes import unwrap
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.prompt import Prompt, asking_part, exchanges, system_text
from onceedit_ray.models.sources import resolve

ROOM = 96
"""Tokens in which an answer may end that has not ended within the limit, although the unedited one has."""
NEXT_QUESTION = "\nQ:"
"""Stop strings for a transcript: a base model also writes the next question."""


@dataclass(frozen=True)
class Asked:
    """An answer with its cost; `answer` is cut at the next question of a transcript."""

    answer: Answer
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    weight: float | None
    seconds: float | None


@dataclass
class Conversations:
    """Asks a decoder's targets the conversations.

    tokens: maximum length of an answer; None takes each case's own. at_once: number of concurrent conversations. edits:
        by prompt. judge: an NLI model, or None.
    measures_perplexity: whether the unedited target also scores the text after the new answer. kept: each target's
        unedited answers of this and earlier runs. places: the files in which they are saved. finished: the rows of this
        run and of an interrupted one. weights: the name of each target's weights in the key of a row.
    left_out: one line for each conversation that did not fit.
    """

    decoder: FusedDecoder
    edits: Mapping[str, Edit]
    tokens: int | None
    at_once: int
    judge: Judge | None = None
    measures_perplexity: bool = False
    kept: dict[str, UneditedAnswers] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    finished: KeptRows = field(default_factory=lambda: KeptRows(None))
    weights: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    async def ask(self, case: Case, target: str, strategy: str, tokens: int | None = None) -> Asked:
        """One answer, of at most `tokens` tokens if it is not the case's own limit; unedited answers are kept."""
        member = self.decoder.member(target)
        prompt = prompt_for(case, member.codec)
        kept = self.kept.setdefault(target, UneditedAnswers()).generations if strategy == UNEDITED else {}
        tokens = tokens or self.tokens_of(case)
        key = (" ".join(map(str, prompt.ids)), tokens)
        seconds = None
        if key not in kept:
            started = time.perf_counter()
            kept[key] = await self.decoder.generate(target, prompt, strategy, tokens)
            seconds = time.perf_counter() - started
            if strategy == UNEDITED and target in self.places:
                self.kept[target].save(self.places[target])
        written = kept[key]
        text, ended = written.text, written.ended
        if case.messages and not member.codec.tokenizer.chat_template and NEXT_QUESTION in text:
            text, ended = text[: text.index(NEXT_QUESTION)], True
        return Asked(Answer(text.strip(), ended), prompt.ids, written.token_ids, written.weight, seconds)

    def tokens_of(self, case: Case) -> int:
        """Maximum number of tokens of a case's answer."""
        return case.tokens if self.tokens is None else self.tokens

    async def rows(self, cases: Sequence[Case], target: str, strategies: Sequence[str]) -> list[ConversationRow]:
        """A row for each case and strategy, `UNEDITED` first; those that are finished are not asked again.

        All strategies answer a conversation before the next one is asked, so a run that is ended compares them on the
        same conversations. Conversations that do not fit the target's context are left out and listed.
        """
        slots = asyncio.Semaphore(self.at_once)
        order = (UNEDITED, *strategies)

        async def answer(case: Case) -> list[ConversationRow]:
            async with slots:
                found = []
                for strategy in order:
                    try:
                        found.append(await self.row(case, target, strategy))
                    except ContextLengthError as error:
                        self.left_out.append(f"{case.id} was not put to {target} ({strategy}): {error}")
                        if strategy == UNEDITED:
                            break
                return found

        rows = [row for of_case in await asyncio.gather(*map(answer, cases)) for row in of_case]
        return sorted(rows, key=lambda row: order.index(row.strategy))

    async def row(self, case: Case, target: str, strategy: str) -> ConversationRow:
        """The row of one answer: from the file of an earlier run, or asked and scored now."""
        scored = ("perplexity",) * self.measures_perplexity + ("nli",) * (self.judge is not None)
        version = "" if strategy == UNEDITED else self.decoder.plugin.version
        key = RowKey(case, self.weights.get(target, target), version, strategy, self.tokens_of(case), scored)
        if key.digest not in self.finished.rows:
            unedited = await self.ask(case, target, UNEDITED)
            asked = unedited if strategy == UNEDITED else await self.ask(case, target, strategy)
            if unedited.answer.ended and not asked.answer.ended and self.tokens_of(case) < ROOM:
                asked = await self.ask(case, target, strategy, ROOM)
            self.finished.add(key, await self._row(case, target, strategy, asked, unedited))
        return self.finished.rows[key.digest]

    async def _row(self, case: Case, target: str, strategy: str, asked: Asked, unedited: Asked) -> ConversationRow:
        scored = score(case, asked.answer, unedited.answer)
        said = case.due and scored.said
        return ConversationRow(
            case=case.id,
            kind=case.kind,
            due=case.due,
            target=target,
            strategy=strategy,
            question=case.question,
            answer=asked.answer.text,
            unedited=unedited.answer.text,
            holds_old=any(occurs(old, unedited.answer.text) for old in self._old_answers(case)),
            ended=asked.answer.ended,
            right=scored.right,
            identical=scored.identical,
            said=scored.said,
            stale=scored.stale,
            cut=scored.cut,
            length=scored.length,
            kept=scored.kept,
            perplexity=await self._perplexity(case, target, asked, unedited) if said else None,
            consistent=self._consistent(case, asked) if said else None,
            weight=asked.weight,
            tokens=len(asked.token_ids),
            seconds=asked.seconds,
        )

    def _old_answers(self, case: Case) -> list[str]:
        if case.must_not:
            return list(case.must_not)
        edits = (self.edits[prompt] for prompt in case.edits if prompt in self.edits)
        return [edit.ground_truth for edit in edits if edit.ground_truth]

    async def _perplexity(self, case: Case, target: str, asked: Asked, unedited: Asked) -> float | None:
        """Perplexity after the new answer over that after the old one in the unedited answer; None without either."""
        if not self.measures_perplexity:
            return None
        member = self.decoder.member(target)
        after = await rest_perplexity(member, asked, [text for group in case.must for text in group])
        before = await rest_perplexity(member, unedited, case.must_not)
        return after / before if after is not None and before is not None else None

    def _consistent(self, case: Case, asked: Asked) -> float | None:
        if self.judge is None or len(case.must) > 1:
            return None
        found = next((text for text in case.must[0] if end_of(text, asked.answer.text) is not None), "")
        return consistent(asked.answer.text, self.edits[case.edits[0]], found, self.judge)


def prompt_for(case: Case, codec: Codec) -> Prompt:
    """The case as a prompt of this model: a text to continue, a chat in its template, or a transcript."""
    if case.prompt:
        return codec.text_prompt(case.prompt)
    messages = [message.model_dump() for message in case.messages]
    if codec.tokenizer.chat_template:
        return codec.chat_prompt(messages)
    begin = {"system": "", "user": "Q: ", "assistant": "A: "}
    lines = [begin[message.role] + message.content for message in case.messages]
    transcript = codec.text_prompt("\n".join([*lines, "A:"]))
    question = asking_part(unwrap(case.question))
    return replace(transcript, question=question, turns=exchanges(messages), system=system_text(messages))


async def rest_perplexity(member: Member, asked: Asked, wanted: Sequence[str]) -> float | None:
    """Perplexity under the unedited target of the tokens after the first of `wanted` texts; None where none occurs.

    A token outside the model's most likely ones counts with the probability of the last of those, which is higher than
    its own, so the perplexity is a lower bound.
    """
    first = _after(member, asked.token_ids, wanted)
    if first is None or first >= len(asked.token_ids):
        return None
    rest = asked.token_ids[first:]
    step = await member.model.open([*asked.prompt_ids, *asked.token_ids[:-1]], rows=len(rest))
    await member.model.close(step.session)
    probabilities = []
    for position, token in enumerate(rest):
        ids, p = step.top.row(position)
        found = p[ids == token]
        probabilities.append(max(float(found[0] if len(found) else p[-1]), 1e-12))
    return perplexity(probabilities)


def _after(member: Member, token_ids: Sequence[int], wanted: Sequence[str]) -> int | None:
    """The first token that begins at or after the end of the first of `wanted` texts."""
    text = member.codec.text_of(token_ids)
    ends = [end for end in (end_of(each, text) for each in wanted) if end is not None]
    if not ends:
        return None
    reached, end = 0, len(text[: min(ends)].encode())
    for index, token in enumerate(token_ids):
        if reached >= end:
            return index
        reached += len(member.codec.surface(token))
    return len(token_ids)


def open_system(config: RunConfig, options: argparse.Namespace) -> FusedDecoder:
    """The decoder that answers: over the version named, the run file's, or the base plug-in if nothing is edited."""
    targets = options.targets or list(config.targets)
    config.check_targets(targets)
    for strategy in options.strategies:
        if strategy != UNEDITED:
            STRATEGIES.get(strategy)
    if set(options.strategies) == {UNEDITED}:
        edited: Version | Path = resolve(config.plugin.model, print).path
    elif options.version:
        edited = version_for(config, options.version)
    else:
        edited = edit_plugin(config, open_store()).path
    return open_decoder(config, edited, print, targets)


def chosen_cases(options: argparse.Namespace, edits: Mapping[str, Edit]) -> tuple[list[Case], list[str]]:
    """The conversations that are asked, and notes about their choice."""
    if options.portability:
        cases, left_out = two_hop_cases(list(edits.values()))
        if not cases:
            raise ConfigError("the run file's edits have no portability questions; leave --portability out")
        notes = [f"{left_out} portability questions hold the new answer and were left out"] if left_out else []
        return evenly(cases, options.limit), notes
    kinds = options.kinds or get_args(Kind)
    return evenly([case for case in read_cases(options.cases, edits) if case.kind in kinds], options.limit), []


def weights_of(target: ModelConfig) -> str:
    """A name of a target's weights and hardware: if two names are equal, the answers are equal."""
    device = "gpu" if target.num_gpus else "cpu"
    return f"{resolve(target.model).digest[:12]}-{target.dtype}-{device}"


def kept_answers(target: ModelConfig) -> Path:
    """The file of a target's unedited answers."""
    return onceedit_home() / "conversations" / f"{weights_of(target)}.json"


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options in `arguments`, or on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conversations", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--config", type=Path, default=Path("configs/conversations.yaml"))
    parser.add_argument("--cases", type=Path, default=Path("data/conversations/cases.jsonl"), metavar="FILE")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="default: all of the run file")
    names = "default: those of the run file; separated by commas or spaces"
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help=names)
    parser.add_argument("--version", metavar="ID", help="answer with this version instead of editing")
    parser.add_argument("--limit", type=int, help="so many conversations, the kinds in turn")
    parser.add_argument(
        "--portability", action="store_true", help="the portability questions of the run file's edits, in place of FILE"
    )
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="only these; separated by commas or spaces")
    parser.add_argument("--fresh", action="store_true", help="ask everything again, and time unedited answers too")
    parser.add_argument("--at-once", type=int, metavar="N", help="conversations at once; default: of the run file")
    parser.add_argument("--tokens", type=int, help="of an answer at most; default: 40, or 96 for a paragraph")
    parser.add_argument("--perplexity", action="store_true", help="of what follows the new answer; reads it once more")
    parser.add_argument("--nli", type=Path, metavar="FOLDER", help="an entailment model for a second opinion")
    parser.add_argument("--results", type=Path, default=RESULTS / "conversations", metavar="FOLDER")
    options = parser.parse_args(arguments)
    for name in ("targets", "strategies", "kinds"):
        given = getattr(options, name)
        setattr(options, name, given and [part for text in given for part in text.split(",") if part])
    if unknown := set(options.kinds or ()) - set(get_args(Kind)):
        parser.error(f"unknown kind '{min(unknown)}': there are {', '.join(get_args(Kind))}")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask everything, print the tables, write them after each target."""
    options = read_options(arguments)
    config = load_config(options.config)
    options.strategies = options.strategies or list(config.evaluation.strategies)
    edits = {edit.prompt: edit for edit in selected_edits(config.knowledge)}
    cases, notes = chosen_cases(options, edits)
    judge = open_judge(options.nli) if options.nli else None
    decoder = open_system(config, options)
    at_once = options.at_once or config.evaluation.concurrency
    conversations = Conversations(decoder, edits, options.tokens, at_once, judge, options.perplexity)
    begun = options.results / "rows.jsonl"
    if options.fresh:
        begun.unlink(missing_ok=True)
    conversations.finished = KeptRows.load(begun)
    if conversations.finished.rows:
        print(f"{begun} holds {len(conversations.finished.rows)} answers of a run that was begun; --fresh asks again")
    command = shlex.join(["python", "-m", "benchmarks.conversations", *(arguments or sys.argv[1:])])
    about = [
        f"{len(cases)} conversations about {len({prompt for case in cases for prompt in case.edits})} edits",
        f"plug-in {config.plugin.model}, version {decoder.plugin.version}; targets "
        + ", ".join(f"{name} ({config.targets[name].model})" for name in decoder.members),
        describe_machine(),
        *notes,
    ]
    strategies = [strategy for strategy in options.strategies if strategy != UNEDITED]
    rows: list[ConversationRow] = []
    for target in decoder.members:
        place = kept_answers(config.targets[target])
        conversations.places[target], conversations.weights[target] = place, weights_of(config.targets[target])
        conversations.kept[target] = UneditedAnswers() if options.fresh else UneditedAnswers.load(place)
        answered = asyncio.run(conversations.rows(cases, target, strategies))
        rows += answered
        write_conversations(options.results, rows, command, [*about, *conversations.left_out])
        print(
            f"\n{target}\n{right_by_kind(answered)}\n\n{figures(answered)}\n\n{figures_by_kind(answered)}", flush=True
        )
    print(f"\nwritten: {options.results}/conversations.parquet, {options.results}/conversations.md")


if __name__ == "__main__":
    main()
