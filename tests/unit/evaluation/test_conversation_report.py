"""Tables of conversations: shares by kind, figures, and what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from onceedit_ray.evaluation.conversation_report import (
    ConversationRow,
    figures,
    figures_by_kind,
    markdown,
    right_by_kind,
    some_answers,
    write_conversations,
)

ROW = ConversationRow(
    case="plain-01",
    kind="plain",
    due=True,
    target="one",
    strategy="unedited",
    question="What is the capital of Australia?",
    answer="Canberra.",
    unedited="Canberra.",
    holds_old=True,
    ended=True,
    right=False,
    identical=True,
    said=False,
    stale=True,
    cut=False,
    length=1.0,
    kept=None,
    perplexity=None,
    consistent=None,
    weight=None,
    tokens=4,
    seconds=2.0,
)
EDITED = replace(
    ROW,
    strategy="draft",
    answer="It is <Perth>|.",
    right=True,
    said=True,
    stale=False,
    length=2.0,
    kept=0.5,
    perplexity=1.25,
    weight=0.9,
    tokens=6,
)
ROWS = [
    ROW,
    replace(ROW, case="plain-02", stale=False, holds_old=False, seconds=None),
    replace(ROW, case="near-miss-01", kind="near-miss", due=False, right=True, stale=False, holds_old=False),
    replace(ROW, case="near-miss-02", kind="near-miss", due=False, right=True, stale=False),
    EDITED,
    replace(EDITED, case="plain-02", holds_old=False, right=False, cut=True, length=1.0, kept=None),
    replace(EDITED, case="near-miss-01", kind="near-miss", due=False, right=True, holds_old=False),
    replace(EDITED, case="near-miss-02", kind="near-miss", due=False, right=False),
]


def test_shares_of_right_answers_by_kind() -> None:
    assert right_by_kind(ROWS).splitlines() == [
        "| kind | cases | unedited | draft |",
        "| --- | --- | --- | --- |",
        "| plain | 2 | 0.00 | 0.50 |",
        "| near-miss | 2 | 1.00 | 0.50 |",
        "| **fact due** | 2 | 0.00 | 0.50 |",
        "| due, and the unedited answer holds the old one | 1 | 0.00 | 1.00 |",
        "| **not due** | 2 | 1.00 | 0.50 |",
        "| not due, and the unedited answer holds no old one | 1 | 1.00 | 1.00 |",
    ]


def test_figures_are_about_answers_in_which_the_fact_is_due() -> None:
    unedited, draft = figures(ROWS).splitlines()[2:]
    assert unedited == "| unedited | 0.00 | 0.50 | 0.00 | – | – | – | – | 2.0 |"
    # Two answers with the new one: lengths 2.0 and 1.0, words kept known of one, 12 tokens in 4 seconds.
    assert draft == "| draft | 1.00 | 0.00 | 0.50 | 1.50 | 0.50 | 1.25 | – | 3.0 |"


def test_figures_by_kind_compare_with_the_unedited_answers_of_the_same_conversations() -> None:
    assert figures_by_kind(ROWS).splitlines() == [
        "| kind | strategy | right | length | words kept | perplexity | tokens/s ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        # plain-02 was not timed unedited: 6 tokens in 2 s over 4 tokens in 2 s.
        "| plain | draft | 0.50 | 1.50 | 0.50 | 1.25 | 1.50 |",
        "| near-miss | draft | 0.50 | 2.00 | 0.50 | 1.25 | 1.50 |",
    ]
    assert figures_by_kind(ROWS[:4]) == ""


def test_of_a_long_question_both_ends_are_shown() -> None:
    long = replace(ROW, question="Who wrote it?\n\n" + "word " * 100 + "The end.")
    line = some_answers([long]).splitlines()[2]
    assert "Who wrote it? word" in line and "The end. |" in line and len(line) < 260


def test_one_answer_of_each_kind_is_shown_and_stays_in_its_cell() -> None:
    lines = some_answers(ROWS).splitlines()
    assert lines[0] == "| kind | asked last | unedited | draft | right |" and len(lines) == 4
    assert lines[2].endswith("| Canberra. | It is &lt;Perth&gt;\\|. | yes |")
    assert some_answers(ROWS[:4]).splitlines()[0] == "| kind | asked last | unedited |"


def test_the_report_names_command_notes_and_targets(tmp_path: Path) -> None:
    rows = [*ROWS, *(replace(row, target="two") for row in ROWS)]
    text = markdown(rows, "python -m x", ["2 cores", "plain-03 was left out"])
    assert "`python -m x`" in text and "- plain-03 was left out" in text
    assert text.count("| **fact due** | 2 |") == 2 and "## one" in text and "## two" in text
    write_conversations(tmp_path, rows, "python -m x", [])
    assert (tmp_path / "conversations.md").read_text() == markdown(rows, "python -m x", [])
    table = pq.read_table(tmp_path / "conversations.parquet").to_pylist()
    assert [ConversationRow(**row) for row in table] == rows
