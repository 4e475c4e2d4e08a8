"""Conversations about edits: what is asked, and what the answer must and must not contain.

Reads and checks `data/conversations/`. It uses no model and scores nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from onceedit_ray.knowledge.dataset_records import DatasetRecord, read_records
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.validation import Strict, place, reason

Role = Literal["system", "user", "assistant"]
Kind = Literal[
    "plain",
    "full-sentence",
    "description",
    "second-turn",
    "third-turn",
    "pronoun",
    "system-prompt",
    "system-question",
    "question-before-text",
    "question-after-text",
    "paragraph",
    "two-facts",
    "yes-no",
    "reversed",
    "negated",
    "german",
    "french",
    "spanish",
    "chinese",
    "capitals",
    "typos",
    "chain-of-thought",
    "near-miss",
    "task-on-text",
]
TwoHopKind = Literal["two-hop", "two-hop-steps"]

LONG_KINDS = frozenset({"description", "two-facts", "paragraph", "chain-of-thought", "two-hop-steps"})
TOKENS, LONG_TOKENS = 40, 96
"""Maximum number of tokens of an answer: enough for a sentence, and for a paragraph in the kinds that need one."""

STEPS = "Think step by step: first say what the question builds on, then answer it."


class ChatMessage(Strict):
    """One message of a chat, as the OpenAI API writes it."""

    role: Role
    content: str = Field(min_length=1)


class Case(Strict):
    """One conversation.

    messages: a chat that ends with the user's turn; or prompt: a text to be continued. One of the two is given.
    edits: the edits that it is about, each named by its prompt.
    due: whether the answer has to state the edited facts. If not, the answer has to be the unedited one.
    must: groups of texts; one text of every group has to occur in the answer. Empty if the fact is not due.
    must_not: texts that must not occur, above all the old answer.
    """

    id: str = Field(pattern=r"^[a-z-]+-\d{2,4}$")
    kind: Literal[Kind, TwoHopKind]
    messages: tuple[ChatMessage, ...] = ()
    prompt: str = ""
    edits: tuple[str, ...] = Field(min_length=1)
    due: bool
    must: tuple[tuple[str, ...], ...] = ()
    must_not: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The last question of the conversation."""
        return self.prompt or self.messages[-1].content

    @property
    def tokens(self) -> int:
        """Maximum number of tokens of an answer."""
        return LONG_TOKENS if self.kind in LONG_KINDS else TOKENS

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.messages) == bool(self.prompt.strip()):
            raise ValueError("give either messages or a prompt")
        if not self.id.startswith(f"{self.kind}-"):
            raise ValueError(f"the id '{self.id}' does not begin with the kind '{self.kind}'")
        roles = [message.role for message in self.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if self.messages and turns != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
            raise ValueError(
                "the roles have to be user, assistant, …, user, with at most one system message before them"
            )
        if self.due != bool(self.must):
            raise ValueError("a fact that is due needs texts under 'must', one that is not due has none")
        if not self.due and self.must_not:
            raise ValueError("where the fact is not due the unedited answer decides; leave 'must_not' out")
        wanted = {text.casefold() for group in self.must for text in group}
        if "" in {text.strip() for text in (*wanted, *self.must_not)} or not all(self.must):
            raise ValueError("'must' or 'must_not' holds an empty text or an empty group")
        if both := wanted & {text.casefold() for text in self.must_not}:
            raise ValueError(f"'{min(both)}' is under 'must' and under 'must_not'")
        return self


def read_cases(path: str | Path, edits: Collection[str]) -> list[Case]:
    """The cases of a JSON lines file, in order.

    Args:
        edits: the prompts of all known edits.

    Raises:
        DataError: one line that names the file, the line and the field.
    """
    cases: list[Case] = []
    seen: set[str] = set()
    for record in read_records(path).records:
        case = _case(record)
        if unknown := [prompt for prompt in case.edits if prompt not in edits]:
            raise record.error("edits", f"no edit has the prompt '{unknown[0]}'; give the prompt of an edit")
        if case.id in seen:
            raise record.error("id", f"'{case.id}' was used before; give every case an id of its own")
        seen.add(case.id)
        cases.append(case)
    return cases


def _case(record: DatasetRecord) -> Case:
    try:
        return Case.model_validate(record.fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise record.error(place(first["loc"]) or "(the record)", f"{reason(first['msg'])}; correct it") from error


def two_hop_cases(edits: Sequence[Edit]) -> tuple[list[Case], int]:
    """The portability questions of edits, each asked directly and once more step by step.

    Returns:
        The cases, and how many questions were left out because they already contain the new answer.
    """
    cases: list[Case] = []
    left_out = 0
    questions = [(edit, probe) for edit in edits for probe in edit.portability if probe.answer.strip()]
    for number, (edit, probe) in enumerate(questions, start=1):
        if edit.target_new.casefold() in probe.prompt.casefold():
            left_out += 1
            continue
        asked: dict[TwoHopKind, str] = {"two-hop": probe.prompt, "two-hop-steps": f"{probe.prompt} {STEPS}"}
        for kind, text in asked.items():
            messages = (ChatMessage(role="user", content=text),)
            told = {"id": f"{kind}-{number:03d}", "kind": kind, "messages": messages, "edits": (edit.prompt,)}
            cases.append(Case.model_validate({**told, "due": True, "must": ((probe.answer,),)}))
    return cases, left_out


def evenly(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """At most `limit` cases, taken in turn from every kind, so that a short run covers all kinds; None: all cases."""
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_kind[case.kind].append(case)
    turns = (case for turn in zip_longest(*by_kind.values()) for case in turn if case is not None)
    chosen = {case.id for case, _ in zip(turns, range(len(cases) if limit is None else limit), strict=False)}
    return [case for case in cases if case.id in chosen]
