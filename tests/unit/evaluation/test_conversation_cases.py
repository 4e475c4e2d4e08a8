"""The conversations of `data/conversations/`, and what a file of them may hold."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest

from onceedit_ray.errors import DataError
from onceedit_ray.evaluation.conversation_cases import Case, Kind, evenly, read_cases, two_hop_cases
from onceedit_ray.evaluation.conversations import occurs
from onceedit_ray.fusion.screen import Screen
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import read_edits
from tests.paths import ROOT

DATA = ROOT / "data" / "conversations"
PROMPT = "What is the capital of Australia?"
DUE: dict[str, Any] = {
    "id": "plain-01",
    "kind": "plain",
    "messages": [{"role": "user", "content": PROMPT}],
    "edits": [PROMPT],
    "due": True,
    "must": [["Perth"]],
    "must_not": ["Canberra"],
}


@pytest.fixture(scope="module")
def edits() -> dict[str, Edit]:
    return {edit.prompt: edit for edit in read_edits(DATA / "edits.jsonl")}


@pytest.fixture(scope="module")
def cases(edits: dict[str, Edit]) -> list[Case]:
    return read_cases(DATA / "cases.jsonl", edits)


def write(folder: Path, *cases: dict[str, Any]) -> Path:
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    return path


def test_there_are_enough_of_each(cases: list[Case], edits: dict[str, Edit]) -> None:
    kinds = Counter(case.kind for case in cases)
    assert len(edits) >= 40 and len(cases) >= 220
    assert set(kinds) == set(get_args(Kind)) and min(kinds.values()) >= 5
    assert kinds["near-miss"] >= 100
    assert {case.kind for case in cases if not case.due} == {"near-miss", "task-on-text"}
    plain = {case.edits[0] for case in cases if case.kind == "plain"}
    assert plain == set(edits), "every edit is asked about plainly"
    assert len({(case.messages, case.prompt) for case in cases}) == len(cases), "no conversation occurs twice"


def test_every_edit_is_whole(edits: dict[str, Edit]) -> None:
    for edit in edits.values():
        assert edit.subject and edit.subject in edit.prompt, edit.prompt
        assert len(edit.rephrasings) >= 2, edit.prompt
        assert edit.ground_truth and not occurs(edit.ground_truth, edit.target_new), edit.prompt


def test_what_must_occur_is_the_edits(cases: list[Case], edits: dict[str, Edit]) -> None:
    """Unless the kind asks for something else, the new answer must occur and the old one must not."""
    for case in cases:
        if case.kind in ("plain", "full-sentence", "description", "pronoun", "paragraph", "two-facts", "typos"):
            for prompt, group in zip(case.edits, case.must, strict=True):
                assert any(occurs(text, edits[prompt].target_new) for text in group), case.id
                assert any(occurs(text, edits[prompt].ground_truth) for text in case.must_not), case.id


def test_no_question_gives_its_answer_away(cases: list[Case]) -> None:
    """Elsewhere than in the kinds that name an answer on purpose, nothing said before holds the (first) new answer."""
    for case in cases:
        if case.due and case.kind not in ("yes-no", "reversed", "negated"):
            said = case.prompt + " ".join(message.content for message in case.messages)
            assert not any(occurs(text, said) for text in case.must[0]), case.id


def test_a_near_miss_names_the_subject(cases: list[Case], edits: dict[str, Edit]) -> None:
    for case in cases:
        if case.kind == "near-miss":
            said = " ".join(message.content for message in case.messages)
            (edit,) = (edits[prompt] for prompt in case.edits)
            assert Screen([edit]).mentions(said), case.id


def test_long_texts_are_long_and_about_something_else(cases: list[Case], edits: dict[str, Edit]) -> None:
    for case in cases:
        if case.kind in ("question-before-text", "question-after-text"):
            paragraphs = case.question.split("\n\n")
            asked = 0 if case.kind == "question-before-text" else len(paragraphs) - 1
            assert len(case.question) >= 2800, case.id
            mentioned = [n for n, text in enumerate(paragraphs) if occurs(edits[case.edits[0]].subject, text)]
            assert mentioned == [asked], case.id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "x"}, "give either messages or a prompt"),
        ({"messages": []}, "give either messages or a prompt"),
        ({"kind": "plane"}, "field 'kind'"),
        ({"kind": "typos"}, "does not begin with the kind 'typos'"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "roles have to be"),
        ({"must": []}, "needs texts under 'must'"),
        ({"must": [[]]}, "an empty group"),
        ({"must_not": [" "]}, "an empty text"),
        ({"must_not": ["perth"]}, "'perth' is under 'must' and under 'must_not'"),
        ({"due": False}, "one that is not due has none"),
        ({"due": False, "must": []}, "leave 'must_not' out"),
        ({"edits": ["Who?"]}, "no edit has the prompt 'Who?'"),
        ({"answer": "Perth"}, "field 'answer'"),
    ],
)
def test_a_wrong_case_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = write(tmp_path, DUE, {**DUE, "id": "plain-02", **change})
    with pytest.raises(DataError, match="line 2") as caught:
        read_cases(path, [PROMPT])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_id_is_used_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2, field 'id': 'plain-01' was used before"):
        read_cases(write(tmp_path, DUE, DUE), [PROMPT])


def test_a_short_run_takes_the_kinds_in_turn(cases: list[Case]) -> None:
    chosen = evenly(cases, 30)
    assert len(chosen) == 30 and len({case.kind for case in chosen}) == len(get_args(Kind))
    assert [case.id for case in chosen] == [case.id for case in cases if case in chosen]
    assert evenly(cases, None) == cases and evenly(cases, 5000) == cases


def test_portability_questions_are_asked_plainly_and_step_by_step() -> None:
    telling, asking = Probe(prompt="Is Perth warm?", answer="yes"), Probe(prompt="Where does it lie?", answer="west")
    edit = Edit(prompt=PROMPT, target_new="Perth", portability=(telling, asking))
    cases, left_out = two_hop_cases([edit])
    assert left_out == 1 and [case.id for case in cases] == ["two-hop-002", "two-hop-steps-002"]
    assert cases[0].question == "Where does it lie?"
    assert cases[1].question.startswith("Where does it lie? Think step by step")
    assert {(case.due, case.must, case.edits) for case in cases} == {(True, (("west",),), (PROMPT,))}
