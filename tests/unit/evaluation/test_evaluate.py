"""The evaluation loop, on a scripted system with known tokens: the questions, and the score of each answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from onceedit_ray.config import EvaluationConfig, KnowledgeConfig, ModelConfig, PluginConfig, RunConfig
from onceedit_ray.errors import ContextLengthError, OnceEditError, PromptError
from onceedit_ray.evaluation.evaluate import EXTRA_TOKENS, Evaluation, Probed, probes, read_gate
from onceedit_ray.evaluation.evaluate_targets import evaluate_targets
from onceedit_ray.evaluation.records import Record
from onceedit_ray.fusion.outputs import Generation, Score
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.progress import Count

END = 0
UNEDITED, DRAFT = "unedited", "draft"
EDIT = Edit(
    prompt="Q",
    target_new="new york city",
    rephrasings=("R1", "R2"),
    locality=(Probe(prompt="L", answer="gold gold"),),
    portability=(Probe(prompt="P", answer="port"),),
)
PLAIN = Edit(prompt="Q2", target_new="red")
"""An edit without any probes."""


@dataclass
class Words:
    """A system that speaks in words: a token is a word's number, 0 the end of text, and every answer is laid down here.

    generated, forced: the answer to (question, strategy), as words; "." is the end of text.
    """

    generated: dict[tuple[str, str], str] = field(default_factory=dict)
    forced: dict[tuple[str, str], str] = field(default_factory=dict)
    vocabulary: list[str] = field(default_factory=lambda: ["."])
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def ids(self, words: str) -> tuple[int, ...]:
        for word in words.split():
            if word not in self.vocabulary:
                self.vocabulary.append(word)
        return tuple(self.vocabulary.index(word) for word in words.split())

    async def render(self, target: str, question: str, shape: str) -> str:
        return f"{target}/{shape}/{question}"

    async def gold(self, target: str, prompt: str, answer: str) -> tuple[int, ...]:
        return self.ids(answer)

    async def text(self, target: str, ids: Sequence[int]) -> str:
        return "".join(f" {self.vocabulary[token]}" for token in ids if token != END)

    async def restriction(self, target: str, strategy: str) -> str:
        return "top-k only" if strategy == "onceedit" else ""

    async def gate(self, prompt: str) -> float:
        self.asked.append(("gate", prompt))
        return 0.9 if prompt.endswith(("Q", "R1", "R2")) else 0.2

    async def score(self, target: str, prompt: str, gold: Sequence[int], strategy: str | None = None) -> Score:
        self.asked.append(("score", prompt, str(strategy), str(len(gold))))
        predicted = self.ids(self.forced[prompt.rpartition("/")[2], str(strategy)])
        own = strategy == UNEDITED
        return Score(predicted, None if own else 0.9, own, 0 if own else 5)

    async def generate(
        self, target: str, prompt: str, strategy: str | None = None, max_new_tokens: int | None = None
    ) -> Generation:
        self.asked.append(("generate", prompt, str(strategy), str(max_new_tokens)))
        ids = self.ids(self.generated[prompt.rpartition("/")[2], str(strategy)])[:max_new_tokens]
        own = strategy == UNEDITED
        return Generation(
            target, await self.text(target, ids), ids, None if own else 0.9, own, 3, 0 if own else 7, END in ids
        )


def evaluated(system: Words, edits: list[Edit], general: Sequence[str] = (), **config: object) -> list[Record]:
    settings = EvaluationConfig.model_validate({"shape": "qa", "drift_tokens": 5} | config)
    return asyncio.run(Evaluation(system, "small", "run", settings).run(edits, general))


def forced(**answers: tuple[str, str]) -> Words:
    """A system that predicts, teacher-forced, (unedited, edited) for each question."""
    system = Words()
    for question, (before, after) in answers.items():
        system.forced[question, UNEDITED], system.forced[question, DRAFT] = before, after
    return system


def generating(**answers: tuple[str, str]) -> Words:
    """A system that writes (unedited, edited) for each question."""
    system = Words()
    for question, (before, after) in answers.items():
        system.generated[question, UNEDITED], system.generated[question, DRAFT] = before, after
    return system


def only(records: list[Record], strategy: str = DRAFT) -> Record:
    (found,) = [record for record in records if record.strategy == strategy]
    return found


def test_every_probe_of_every_edit_is_asked_in_order() -> None:
    assert list(probes([EDIT, PLAIN])) == [
        Probed(0, "reliability", "Q", "new york city"),
        Probed(0, "generality", "R1", "new york city"),
        Probed(0, "generality", "R2", "new york city"),
        Probed(0, "locality", "L", "gold gold"),
        Probed(0, "portability", "P", "port"),
        Probed(1, "reliability", "Q2", "red"),
    ]


def test_an_edit_without_rephrasings_is_scored_on_its_prompt_alone() -> None:
    records = evaluated(forced(Q2=("blue", "red")), [PLAIN], settings=("teacher_forced",))
    assert [(record.strategy, record.property, record.score) for record in records] == [
        (UNEDITED, "reliability", 0.0),
        (DRAFT, "reliability", 1.0),
    ]


def test_teacher_forced_partial_credit() -> None:
    system = forced(Q=("old york old", "new york town"))
    records = evaluated(system, [Edit(prompt="Q", target_new="new york city")], settings=("teacher_forced",))
    before, after = records
    assert before.score == pytest.approx(1 / 3)
    assert after.score == pytest.approx(2 / 3)
    assert (after.expected, after.output, after.unedited_output) == ("new york city", " new york town", " old york old")
    assert (after.run, after.record, after.target, after.shape, after.prompt) == ("run", 0, "small", "qa", "small/qa/Q")
    assert (before.gate_weight, before.alone, before.plugin_passes) == (None, True, 0)
    assert (after.gate_weight, after.alone, after.plugin_passes, after.new_tokens) == (0.9, False, 5, 3)
    assert after.text_match is None


def test_teacher_forced_locality_is_against_the_unedited_targets_own_tokens() -> None:
    """It is wrong about the gold answer both times; only the change counts."""
    edit = Edit(prompt="Q2", target_new="red", locality=(Probe(prompt="L", answer="gold gold"),))
    system = forced(Q2=("blue", "red"), L=("tin lead", "tin gold"))
    records = [r for r in evaluated(system, [edit], settings=("teacher_forced",)) if r.property == "locality"]
    assert only(records).score == 0.5
    assert only(records, UNEDITED).score == 1.0
    assert only(records).expected == " tin lead"


def test_generation_asks_for_as_many_tokens_as_the_target_has_and_a_few_more() -> None:
    system = generating(Q2=("blue . red red", "red wine and bread and more"))
    evaluated(system, [PLAIN], settings=("generation",))
    assert EXTRA_TOKENS > 0
    assert {asked[3] for asked in system.asked} == {str(1 + EXTRA_TOKENS)}


def test_tokens_beyond_the_target_do_not_count_as_generated() -> None:
    record = only(evaluated(generating(Q2=("blue x y", "red wine and")), [PLAIN], settings=("generation",)))
    assert record.score == 1.0
    assert record.text_match == 1.0
    assert record.output == " red wine and"
    assert record.new_tokens == 3


def test_a_word_that_goes_on_is_no_text_match() -> None:
    """Tokens match, the text does not: the extra tokens show that the word did not end."""
    system = generating(Q2=("blue x y", "red dish brown"))

    async def joined(target: str, ids: Sequence[int]) -> str:
        return "".join(system.vocabulary[token] for token in ids if token != END)

    system.text = joined  # type: ignore[method-assign]
    record = only(evaluated(system, [PLAIN], settings=("generation",)))
    assert (record.score, record.text_match) == (1.0, 0.0)


def test_an_early_end_of_text_counts_as_mismatches() -> None:
    edit = Edit(prompt="Q", target_new="new york city")
    record = only(evaluated(generating(Q=(".", "new .")), [edit], settings=("generation",)))
    assert record.score == pytest.approx(1 / 3)
    assert record.text_match == 0.0
    assert record.new_tokens == 2


def test_an_empty_answer_scores_nothing_and_does_not_raise() -> None:
    edit = Edit(prompt="Q", target_new="new york city", locality=(Probe(prompt="L", answer="gold"),))
    records = evaluated(generating(Q=("", ""), L=("", "")), [edit], settings=("generation",))
    reliability = only([record for record in records if record.property == "reliability"])
    locality = only([record for record in records if record.property == "locality"])
    assert (reliability.score, reliability.text_match, reliability.output) == (0.0, 0.0, "")
    assert (locality.score, locality.text_match) == (1.0, 1.0), "saying nothing, as before, is no change"


def test_generated_locality_is_against_the_unedited_targets_own_answer() -> None:
    edit = Edit(prompt="Q2", target_new="red", locality=(Probe(prompt="L", answer="gold gold gold"),))

    def locality(before: str, after: str) -> Record:
        system = generating(Q2=("blue", "red"), L=(before, after))
        records = evaluated(system, [edit], settings=("generation",))
        return only([record for record in records if record.property == "locality"])

    same = locality("tin . .", "tin . .")
    assert (same.score, same.text_match, same.expected) == (1.0, 1.0, " tin")
    later = locality("tin lead ore dust", "tin lead ore mine")
    assert (later.score, later.text_match) == (1.0, 1.0), "what differs lies beyond the gold answer's length"
    other = locality("tin lead ore dust", "tin gold ore dust")
    assert other.score == pytest.approx(2 / 3)
    assert other.text_match == 0.0
    right = locality("tin lead ore", "gold gold gold")
    assert (right.score, right.text_match) == (0.0, 0.0), "the right answer is a change too"
    silenced = locality("tin lead ore", ".")
    assert (silenced.score, silenced.text_match) == (0.0, 0.0)
    begun = locality("", "gold gold gold")
    assert (begun.score, begun.text_match) == (0.0, 0.0)


def test_an_answer_without_tokens_is_left_out() -> None:
    edit = Edit(prompt="Q2", target_new="red", locality=(Probe(prompt="L", answer=""),))
    records = evaluated(forced(Q2=("blue", "red")), [edit], settings=("teacher_forced",))
    assert {record.property for record in records} == {"reliability"}


def test_drift_is_bit_identity_with_the_unedited_target() -> None:
    system = generating(G1=("a b c d e f g", "a b c d e x"), G2=("a b .", "a b"), G3=("a", "b"))
    records = evaluated(system, [], ["G1", "G2", "G3"])
    assert [record.score for record in records] == [1.0, 0.0, 0.0], "five tokens count; an end of text is a token"
    assert [record.record for record in records] == [0, 1, 2]
    assert {(record.property, record.strategy) for record in records} == {("general", DRAFT)}
    assert {asked[3] for asked in system.asked} == {"5"}
    assert (records[2].expected, records[2].output) == (" a", " b")


def test_each_strategy_is_compared_with_one_unedited_answer() -> None:
    system = generating(Q2=("blue", "red"))
    system.generated["Q2", "onceedit"] = "blue"
    records = evaluated(system, [PLAIN], settings=("generation",), strategies=("onceedit", DRAFT))
    assert [(record.strategy, record.score, record.restricted) for record in records] == [
        (UNEDITED, 0.0, ""),
        ("onceedit", 0.0, "top-k only"),
        (DRAFT, 1.0, ""),
    ]
    assert [asked[2] for asked in system.asked].count(UNEDITED) == 1


async def test_an_error_ends_what_is_still_asked() -> None:
    """Else the other probes would go on asking the models, for nobody."""
    system = generating(Q2=("blue x y", "red wine and"))
    render, waiting = system.render, asyncio.Event()

    async def fails_once(target: str, question: str, shape: str) -> str:
        if question == "Q2":
            raise ValueError("no such shape")
        await waiting.wait()
        return await render(target, question, shape)

    system.render = fails_once  # type: ignore[method-assign]
    settings = EvaluationConfig(shape="qa", concurrency=3)
    before = asyncio.all_tasks()
    with pytest.raises(ValueError, match="no such shape"):
        await Evaluation(system, "small", "run", settings).run([PLAIN, EDIT], ["G"])
    waiting.set()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before and system.asked == []


@pytest.mark.parametrize("error", [ContextLengthError("594 tokens do not fit"), PromptError("no row for a token")])
async def test_what_a_model_cannot_take_is_a_named_miss_and_the_others_go_on(error: OnceEditError) -> None:
    system = generating(Q2=("blue", "red"), G=("a", "a"))
    generate, notes = system.generate, list[str]()

    async def refusing(target: str, prompt: str, *rest: Any) -> Generation:
        if prompt.rpartition("/")[2] not in ("Q2", "G"):
            raise error
        return await generate(target, prompt, *rest)

    system.generate = refusing  # type: ignore[method-assign, assignment]
    settings = EvaluationConfig(shape="qa", settings=("generation",))
    evaluation = Evaluation(system, "small", "run", settings, note=notes.append)
    records = await evaluation.run([EDIT, PLAIN], ["long", "G"])
    assert [(record.record, record.property, record.score) for record in records if record.strategy == DRAFT] == [
        (0, "reliability", 0.0),
        (0, "generality", 0.0),
        (0, "generality", 0.0),
        (0, "portability", 0.0),
        (1, "reliability", 1.0),
        (1, "general", 1.0),
    ], "what must stay as it was is no miss: it is left out"
    assert records[0].restricted == f'edit 1, reliability: "Q" cannot be asked ({error})'
    assert [note.partition(":")[2].partition(":")[0].strip() for note in notes] == [
        *("edit 1, reliability", "edit 1, generality", "edit 1, generality", "edit 1, locality"),
        *("edit 1, portability", "general prompt 1"),
    ]


async def test_a_prompt_that_the_gate_cannot_take_is_named_and_left_out() -> None:
    system, notes = Words(), list[str]()
    gate = system.gate

    async def refusing(prompt: str) -> float:
        if prompt.endswith("Q"):
            raise ContextLengthError("too long")
        return await gate(prompt)

    system.gate = refusing  # type: ignore[method-assign]
    records = await read_gate(
        system, "small", [PLAIN.model_copy(update={"prompt": "Q"}), PLAIN], [], ("raw",), 1, note=notes.append
    )
    assert [record.prompt for record in records] == ["Q2"]
    assert notes == ['the gate, edit: "Q" cannot be asked (too long)']


async def test_the_gate_is_read_for_every_prompt_in_every_shape() -> None:
    records = await read_gate(Words(), "small", [EDIT, PLAIN], ["G"], ("raw", "chat"))
    assert [(record.kind, record.shape, record.prompt, record.weight) for record in records] == [
        (kind, shape, prompt, weight)
        for kind, prompt, weight in (
            ("edit", "Q", 0.9),
            ("edit", "Q2", 0.2),
            ("rephrasing", "R1", 0.9),
            ("rephrasing", "R2", 0.9),
            ("locality", "L", 0.2),
            ("general", "G", 0.2),
        )
        for shape in ("raw", "chat")
    ]


@pytest.mark.parametrize("gpus", [0.0, 1.0])
async def test_all_targets_are_scored_and_progress_comes_to_an_end(gpus: float) -> None:
    """Targets with a GPU each are asked at the same time, others one after another; the records are the same."""
    system = generating(Q2=("blue", "red"), G=("a", "a"), G2=("a", "a"))
    target = ModelConfig(model="m", num_gpus=gpus)
    config = RunConfig(
        name="run",
        knowledge=KnowledgeConfig(path="edits.jsonl"),  # type: ignore[arg-type]
        plugin=PluginConfig(model="p", num_gpus=gpus),
        targets={"one": target, "two": target},
        evaluation=EvaluationConfig(settings=("generation",), drift_limit=1, gate_shapes=("raw",)),
    )
    lines: list[str | Count] = []
    records, gate = await evaluate_targets(system, config, [PLAIN], ["G", "G2"], lines.append)
    assert [(record.target, record.strategy, record.property) for record in records] == [
        (target, strategy, of)
        for target in ("one", "two")
        for strategy, of in ((UNEDITED, "reliability"), (DRAFT, "reliability"), (DRAFT, "general"))
    ]
    assert [(reading.kind, reading.prompt) for reading in gate] == [("edit", "Q2"), ("general", "G"), ("general", "G2")]
    counts = [line for line in lines if isinstance(line, Count)]
    assert {str(count).partition(" (")[0] for count in counts if count.done == count.total} == {
        "evaluating one: 2/2",
        "evaluating two: 2/2",
        "reading the gate: 3/3",
    }
