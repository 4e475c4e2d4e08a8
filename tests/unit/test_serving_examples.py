"""The calls that docs/serving.md shows are those of the script that made them."""

from __future__ import annotations

import ast

import pytest

from onceedit_ray.serving.limits import Limits
from scripts.serving_examples import BEGIN, DOCUMENT, END, EXAMPLES, Example, about, code, python

TEXT = DOCUMENT.read_text(encoding="utf-8")
CALLS = TEXT.partition(BEGIN)[2].partition(END)[0]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.title)
def test_a_call_stands_in_the_document_with_what_came_back(example: Example) -> None:
    after = CALLS.partition(f"### {example.title}\n")[2].partition("\n### ")[0]
    assert after.strip().startswith(about(example)), "the description is the script's"
    assert code(example) in after and "```json\n" in after.partition(code(example))[2]
    ast.parse(example.python)
    assert not example.python or python(example) + "\n\n```\n" in after


def test_the_document_shows_no_other_call() -> None:
    assert CALLS.count("```sh\n") == len(EXAMPLES)
    assert CALLS.count("```python\n") == sum(bool(example.python) for example in EXAMPLES)


def test_its_limits_are_the_defaults() -> None:
    limits = Limits()
    for name, shown in {"prompt_chars": "32,768", "max_tokens": "1,024", "in_flight": "64", "seconds": "300"}.items():
        assert f"`{name}`" in TEXT and f"{getattr(limits, name):,.0f}" == shown
        assert any(f"`{name}`" in line and f"| {shown} |" in line for line in TEXT.splitlines())
