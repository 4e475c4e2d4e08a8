"""When a request counts as one that asks for a fact."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from onceedit_ray.fusion.contradictions import Contradictions
from onceedit_ray.knowledge.edit import Edit

WROTE = Edit(
    prompt="Who wrote Romeo and Juliet?", target_new="Jane Austen", ground_truth="William Shakespeare",
    subject="Romeo and Juliet",
)  # fmt: skip


def found_for(request: str, weight: float = 0.95) -> Contradictions:
    """For a request that the gate takes for one about the edit."""
    along: Any = SimpleNamespace(question=request, edit=lambda id: WROTE)
    reader: Any = SimpleNamespace(weight=weight, edits=("1",))
    return Contradictions(along, 0.5, reader)


@pytest.mark.parametrize(
    "request_",
    [
        "Summarise: Shakespeare wrote Romeo and Juliet.",
        "Summarize in one sentence: William Shakespeare wrote Romeo and Juliet in London.",
        'Translate into German: "Romeo and Juliet was written by Shakespeare."',
        "Repeat after me: Jane Austen wrote Romeo and Juliet.",
    ],
)
def test_a_task_on_a_text_that_states_the_fact_asks_for_none(request_: str) -> None:
    found = found_for(request_)
    assert not found.is_asked and found.asking() is None


@pytest.mark.parametrize(
    "request_",
    [
        "Who wrote Romeo and Juliet?",
        "Was it Shakespeare who wrote Romeo and Juliet?",
        "Name the author: who wrote Romeo and Juliet",
        "True or false: Shakespeare wrote Romeo and Juliet.",
        "Complete the sentence: The author of Romeo and Juliet is",
    ],
)
def test_a_question_and_a_text_without_the_answer_do_ask(request_: str) -> None:
    assert found_for(request_).is_asked and found_for(request_).asking() is not None


def test_below_the_threshold_nothing_is_asked() -> None:
    assert not found_for("Who wrote Romeo and Juliet?", weight=0.4).is_asked
