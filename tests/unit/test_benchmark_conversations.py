"""The benchmark of conversations on small random models: how each target is asked, and what a run leaves."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.conversations import (
    Asked,
    Conversations,
    chosen_cases,
    main,
    prompt_for,
    read_options,
    rest_perplexity,
)
from benchmarks.kept_rows import KeptRows
from onceedit_ray.comparison.unedited_answers import UneditedAnswers
from onceedit_ray.config import FusionConfig, load_config
from onceedit_ray.errors import ConfigError
from onceedit_ray.evaluation.conversation_cases import Case, ChatMessage, read_cases
from onceedit_ray.evaluation.conversations import Answer
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import read_edits
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.prompt import Exchange, Prompt
from tests.bench_run import small_run_file
from tests.families import build_family
from tests.paths import ROOT
from tests.small_system import full_logits, small_decoder

CHAT = Case(
    id="pronoun-01",
    kind="pronoun",
    messages=(
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="I like France."),
        ChatMessage(role="assistant", content="So do I."),
        ChatMessage(role="user", content="What is its capital?"),
    ),
    edits=("What is the capital of France?",),
    due=True,
    must=(("Lyon",),),
    must_not=("Paris",),
)
CONTINUE = Case(
    id="paragraph-01",
    kind="paragraph",
    prompt="We went to the capital of France,",
    edits=CHAT.edits,
    due=True,
    must=CHAT.must,
)
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"


@pytest.fixture
def codec(tmp_path: Path) -> Codec:
    return open_codec(build_family("gpt2", tmp_path / "gpt2"))


def test_a_chat_model_is_asked_in_chat_and_another_by_transcript(codec: Codec) -> None:
    codec.tokenizer.chat_template = None
    transcript = "Be brief.\nQ: I like France.\nA: So do I.\nQ: What is its capital?\nA:"
    by_transcript = prompt_for(CHAT, codec)
    assert by_transcript == Prompt(
        question="What is its capital?",
        ids=tuple(codec.encode_prompt(transcript)),
        turns=(Exchange("I like France.", "So do I."),),
        system="Be brief.",
    )
    codec.tokenizer.chat_template = TEMPLATE
    in_chat = "[system]Be brief.[user]I like France.[assistant]So do I.[user]What is its capital?[assistant]"
    assert prompt_for(CHAT, codec) == replace(by_transcript, ids=tuple(codec.encode_prompt(in_chat)), is_chat=True)
    assert prompt_for(CONTINUE, codec).ids == tuple(codec.encode_prompt(CONTINUE.prompt))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> FusedDecoder:
    return small_decoder(tmp_path_factory.mktemp("conversations"), ["gpt2"], FusionConfig(top_k=1024))


async def test_an_answer_to_a_transcript_ends_where_the_next_question_begins(
    decoder: FusedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = decoder.generate

    async def talkative(*args: Any) -> Any:
        return replace(await generate(*args), text=" Lyon.\nQ: And then?", ended=False)

    monkeypatch.setattr(decoder, "generate", talkative)
    conversations = Conversations(decoder, {}, 8, 2)
    asked = await conversations.ask(CHAT, "gpt2", "unedited")
    assert asked.answer == Answer("Lyon.", True)
    continued = await conversations.ask(CONTINUE, "gpt2", "unedited")
    assert continued.answer == Answer("Lyon.\nQ: And then?", False)


async def test_what_does_not_fit_is_left_out_and_named(decoder: FusedDecoder) -> None:
    long = CONTINUE.model_copy(update={"prompt": "France " * 400})
    conversations = Conversations(decoder, {}, 8, 2)
    rows = await conversations.rows([long, CHAT], "gpt2", [])
    assert [row.case for row in rows] == ["pronoun-01"]
    assert len(conversations.left_out) == 1
    assert conversations.left_out[0].startswith("paragraph-01 was not put to gpt2 (unedited): ")


async def test_a_case_without_forbidden_texts_takes_the_edits_old_answers(decoder: FusedDecoder) -> None:
    edit = Edit(prompt=CHAT.edits[0], target_new="Lyon", ground_truth="Marseille")
    conversations = Conversations(decoder, {edit.prompt: edit}, 4, 2)
    near = Case(id="near-miss-01", kind="near-miss", messages=CHAT.messages, edits=CHAT.edits, due=False)
    for case, text, expected in [(CHAT, "Paris", True), (CHAT, "Marseille", False), (near, "Marseille", True)]:
        said = Asked(Answer(f"It is {text}.", True), (), (), None, None)
        row = await conversations._row(case, "gpt2", "unedited", said, said)
        assert row.holds_old is expected


async def test_perplexity_of_the_rest_is_the_unedited_targets(decoder: FusedDecoder) -> None:
    member = decoder.member("gpt2")
    prompt = tuple(member.codec.encode_prompt("The capital of France is"))
    before, rest = member.codec.encode_bytes(b" Lyon"), member.codec.encode_bytes(b", a city")
    asked = Asked(Answer("Lyon, a city", True), prompt, (*before, *rest), 0.0, 1.0)
    model: Any = member.model
    log_p = full_logits(model.network, [*prompt, *before, *rest]).log_softmax(-1)
    places = torch.arange(len(rest)) + len(prompt) + len(before) - 1
    expected = math.exp(-log_p[places, torch.tensor(rest)].mean().item())
    assert await rest_perplexity(member, asked, ["Lyon"]) == pytest.approx(expected, rel=1e-3)
    assert await rest_perplexity(member, asked, ["Paris"]) is None
    assert await rest_perplexity(member, replace(asked, token_ids=before), ["Lyon"]) is None


def test_a_run_writes_a_row_for_each_case_target_and_strategy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = small_run_file(tmp_path)
    near = {
        "id": "near-miss-01",
        "kind": "near-miss",
        "messages": [{"role": "user", "content": "Which river is in France?"}],
        "edits": list(CHAT.edits),
        "due": False,
    }
    dumped = [case.model_dump(mode="json", exclude_defaults=True) for case in (CHAT, CONTINUE)]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in [*dumped, near]))
    arguments = ["--config", str(run_file), "--cases", str(tmp_path / "cases.jsonl"), "--tokens", "6"]
    arguments += ["--targets", "gpt2", "--results", str(tmp_path / "results")]
    main([*arguments, "--strategies", "unedited", "--limit", "2"])
    rows = pq.read_table(tmp_path / "results" / "conversations.parquet").to_pylist()
    assert [(row["case"], row["strategy"]) for row in rows] == [
        ("pronoun-01", "unedited"),
        ("paragraph-01", "unedited"),
    ]
    assert "editing" not in capsys.readouterr().out, "nothing is trained where nothing edited is asked"
    main([*arguments, "--strategies", "draft", "--perplexity"])
    rows = pq.read_table(tmp_path / "results" / "conversations.parquet").to_pylist()
    assert [(row["case"], row["strategy"]) for row in rows] == [
        (case, strategy)
        for strategy in ("unedited", "draft")
        for case in ("pronoun-01", "paragraph-01", "near-miss-01")
    ]
    assert [row["seconds"] is None for row in rows] == [True, True, False, False, False, False], (
        "asked in the first run"
    )
    assert {row["weight"] is None for row in rows if row["strategy"] == "draft"} == {False}
    report = (tmp_path / "results" / "conversations.md").read_text()
    assert "3 conversations about 1 edits" in report and "| **fact due** | 2 | 0.00 |" in report


async def test_a_run_that_was_ended_goes_on(
    decoder: FusedDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [CHAT.model_copy(update={"id": f"pronoun-0{number}"}) for number in range(1, 4)]
    generate, answers, fails = decoder.generate, [], True

    async def counted(*arguments: Any) -> Any:
        if fails and len(answers) == 3:
            raise RuntimeError("the power went")
        answers.append(await generate(*arguments))
        return answers[-1]

    def begin(tokens: int = 6) -> Conversations:
        kept = {"gpt2": UneditedAnswers.load(tmp_path / "kept.json")}
        rows = KeptRows.load(tmp_path / "rows.jsonl")
        return Conversations(decoder, {}, tokens, 1, kept=kept, places={"gpt2": tmp_path / "kept.json"}, finished=rows)

    monkeypatch.setattr(decoder, "generate", counted)
    with pytest.raises(RuntimeError, match="the power went"):
        await begin().rows(cases, "gpt2", ["draft", "calibrated"])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"key": "cut off')
    fails = False
    rows = await begin().rows(cases, "gpt2", ["draft", "calibrated"])
    assert len(answers) == 1 + 2 * 3, "all cases have one prompt, asked unedited once, and each strategy answers each"
    again = await begin().rows(cases, "gpt2", ["draft", "calibrated"])
    assert len(answers) == 7 and again == rows, "nothing is asked again"
    assert [(row.strategy, row.case) for row in rows] == [
        (strategy, case.id) for strategy in ("unedited", "draft", "calibrated") for case in cases
    ]
    await begin(tokens=7).rows(cases[:1], "gpt2", [])
    assert len(answers) == 8, "another limit is another answer"


def test_a_case_has_its_own_limit_unless_one_is_given(decoder: FusedDecoder) -> None:
    conversations = Conversations(decoder, {}, None, 1)
    assert (conversations.tokens_of(CHAT), conversations.tokens_of(CONTINUE)) == (40, 96)
    conversations.tokens = 8
    assert conversations.tokens_of(CONTINUE) == 8


async def test_an_answer_gets_room_to_end_if_the_unedited_one_has_ended(
    decoder: FusedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    generate = decoder.generate

    async def ends(target: str, prompt: Prompt, strategy: str, tokens: int) -> Any:
        asked.append((strategy, tokens))
        written = await generate(target, prompt, strategy, 4)
        return replace(written, ended=strategy == "unedited" or tokens > 40)

    monkeypatch.setattr(decoder, "generate", ends)
    conversations = Conversations(decoder, {}, None, 1)
    row = await conversations.row(CHAT, "gpt2", "draft")
    assert asked == [("unedited", 40), ("draft", 40), ("draft", 96)] and row.ended and not row.cut
    await conversations.row(CONTINUE, "gpt2", "draft")
    assert asked[3:] == [("unedited", 96), ("draft", 96)], "a paragraph has that room already"


def test_names_may_be_separated_by_commas() -> None:
    options = read_options(["--strategies", "selective,draft", "deck", "--kinds", "plain,near-miss"])
    assert options.strategies == ["selective", "draft", "deck"] and options.kinds == ["plain", "near-miss"]
    with pytest.raises(SystemExit):
        read_options(["--kinds", "mumble"])


async def test_unedited_answers_are_kept_by_prompt_and_budget(decoder: FusedDecoder) -> None:
    conversations = Conversations(decoder, {}, 4, 2)
    first = await conversations.ask(CONTINUE, "gpt2", "unedited")
    again = await conversations.ask(CONTINUE, "gpt2", "unedited")
    assert first.seconds is not None and again == replace(first, seconds=None)
    conversations.tokens = 5
    assert (await conversations.ask(CONTINUE, "gpt2", "unedited")).seconds is not None
    assert (await conversations.ask(CHAT, "gpt2", "unedited")).seconds is not None


def test_portability_questions_take_the_place_of_the_file() -> None:
    edit = Edit(prompt="The capital of France is", target_new="Lyon", portability=(Probe(prompt="Why?", answer="so"),))
    chosen, notes = chosen_cases(read_options(["--portability"]), {edit.prompt: edit})
    assert [case.kind for case in chosen] == ["two-hop", "two-hop-steps"] and notes == []
    with pytest.raises(ConfigError, match="no portability questions; leave --portability out"):
        chosen_cases(read_options(["--portability"]), {})


def test_unknown_targets_and_strategies_are_named(tmp_path: Path) -> None:
    run_file = small_run_file(tmp_path)
    (tmp_path / "cases.jsonl").write_text(json.dumps(CHAT.model_dump(mode="json", exclude_defaults=True)) + "\n")
    arguments = ["--config", str(run_file), "--cases", str(tmp_path / "cases.jsonl")]
    with pytest.raises(ConfigError, match="unknown target 'opt': the run file has gemma3, gpt2"):
        main([*arguments, "--targets", "opt"])
    with pytest.raises(ConfigError, match="'mumble'"):
        main([*arguments, "--strategies", "mumble"])


def test_the_example_run_file_fits_the_cases() -> None:
    options = read_options([])
    config = load_config(ROOT / options.config)
    edits = read_edits(ROOT / config.knowledge.path, config.knowledge.format)
    assert read_cases(ROOT / options.cases, [edit.prompt for edit in edits])
    assert set(config.targets) == {"smollm2", "qwen", "gemma"}
