"""Variants of a prompt: the subject stays, chance is the caller's, and an edit's rephrasings are never looked at."""

from __future__ import annotations

import random
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_ray.editing.paraphrase import variant
from onceedit_ray.knowledge.edit import Edit

EDIT = Edit(
    prompt="What is the name of the river that flows through Hamburg-Altona?",
    target_new="Rhine",
    subject="Hamburg-Altona",
)
CONTEXT = ["Bread is baked in an oven.", "who was there"]


def variants(edit: Edit, count: int = 300, seed: int = 0, context: list[str] | None = None) -> list[str]:
    rng = random.Random(seed)
    return [variant(edit, rng, CONTEXT if context is None else context) for _ in range(count)]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def test_every_variant_keeps_the_subject() -> None:
    for text in variants(EDIT):
        assert EDIT.subject.casefold() in text.casefold(), text


@settings(deadline=None, max_examples=60)
@given(
    subject=st.from_regex(r"[A-Z][a-zé']{1,6}( (of )?[A-Z][a-z.-]{1,6}){0,2}", fullmatch=True),
    before=st.from_regex(r"[A-Za-z ]{0,20}", fullmatch=True),
    after=st.from_regex(r"[a-z ,']{0,20}\??", fullmatch=True),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_subject_and_wherever_it_stands(subject: str, before: str, after: str, seed: int) -> None:
    edit = Edit(prompt=before + subject + after, target_new="x", subject=subject)
    text = variant(edit, random.Random(seed), CONTEXT)
    assert subject.casefold() in text.casefold()
    assert "\0" not in text


def test_a_variant_asks_in_the_edits_own_words() -> None:
    """Most of the content words are there, and the answer never is."""
    texts = variants(EDIT)
    assert not any("rhine" in text.lower() for text in texts)
    content = {"name", "river", "flows", "through"}
    kept = [len(content & set(words(text))) for text in texts]
    assert sum(kept) / len(kept) > 3


def test_variants_are_of_many_kinds() -> None:
    texts = variants(EDIT)
    assert len(set(texts)) > 100
    first = {text.split()[0].strip(":,") for text in texts}
    assert any(text.endswith(EDIT.prompt) and text.startswith("Bread is baked") for text in texts), "after a context"
    assert {"Tell", "Hey", "About"} <= first, "after an opening, subject first"
    assert EDIT.prompt.lower().rstrip("?") in texts, "without capitals"
    keywords = ["name", "river", "flows", "through", "hamburg", "altona"]
    assert any(sorted(words(text)) == sorted(keywords) for text in texts), "key words alone"
    thinned = [text for text in texts if len(words(text)) < len(words(EDIT.prompt)) and text.startswith("What is")]
    assert thinned, "with words left out"


def test_an_opening_puts_the_question_in_lower_case_but_not_the_subject() -> None:
    first = Edit(prompt="Hamburg lies in", target_new="Spain", subject="Hamburg")
    assert any(text.endswith(": Hamburg lies in") for text in variants(first, context=[]))
    assert any(text.endswith(": what is " + EDIT.prompt.removeprefix("What is ")) for text in variants(EDIT))


def test_without_a_subject_the_prompt_stays_whole() -> None:
    for edit in (
        Edit(prompt="why is the Sky green?", target_new="copper"),
        Edit(prompt="why is the Sky green?", target_new="copper", subject="Not There"),
    ):
        texts = variants(edit)
        assert all("why is the sky green" in text.lower() for text in texts)
        assert len(set(texts)) > 10


def test_a_long_context_is_cut_to_its_last_words() -> None:
    long = " ".join(f"word{number}" for number in range(100)) + "!"
    cut = [text for text in variants(EDIT, context=[long]) if "word99" in text]
    assert cut and all(len(words(text)) < 30 and "word50" not in words(text) for text in cut)


def test_chance_is_the_callers() -> None:
    assert variants(EDIT, seed=5) == variants(EDIT, seed=5)
    assert variants(EDIT, seed=5) != variants(EDIT, seed=6)
    random.seed(1)
    once = variants(EDIT, seed=5)
    random.seed(2)
    assert variants(EDIT, seed=5) == once, "the module's own generator plays no part"


def test_the_edits_rephrasings_are_never_used() -> None:
    rephrased = EDIT.model_copy(update={"rephrasings": ("Through Hamburg-Altona runs which stream?",)})
    assert variants(rephrased) == variants(EDIT)
    assert not any("stream" in text for text in variants(rephrased))
