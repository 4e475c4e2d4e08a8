"""Where a subject is found in a prompt's text, and which of its tokens that is."""

from __future__ import annotations

import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from onceedit_ray.baselines.subject import Anchor, anchor, anchor_index
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.loading import load_tokenizer
from tests.families import FAMILIES, build_family


@pytest.fixture(scope="module", params=FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(build_family(request.param, tmp_path_factory.mktemp(request.param)))


def an_edit(prompt: str, subject: str) -> Edit:
    return Edit(prompt=prompt, subject=subject, target_new="x")


@pytest.mark.parametrize("prefix", ["", "I was there. ", "\n\n 1969: "])
@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("What is the native language of Marie Curie?", "Marie Curie"),
        ("Marie Curie is a", "Marie Curie"),
        ("Who is Zoë?", "Zoë"),
        ("東京 is a city in", "東京"),
        ("The twin city of Lyon", "Lyon"),
    ],
)
def test_the_token_holds_the_subjects_last_character(
    tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str, prefix: str
) -> None:
    codec = Codec(tokenizer)
    place = anchor(an_edit(prompt, subject)).after(prefix)
    index = anchor_index(tokenizer, place)
    ids = codec.encode_prompt(place.text)
    read = codec.bytes_of(ids[: index + 1]).strip()
    up_to_subject = place.text[: place.end].strip().encode()
    assert read.startswith(up_to_subject)
    assert not codec.bytes_of(ids[:index]).strip().startswith(up_to_subject)


def test_without_a_subject_it_is_the_prompts_last_token(tokenizer: PreTrainedTokenizerBase) -> None:
    codec = Codec(tokenizer)
    for edit in (an_edit("Who walked on the Moon?", ""), an_edit("Who walked on the Moon?", "Paris")):
        place = anchor(edit)
        assert place.subject == ""
        assert anchor_index(tokenizer, place) == len(codec.encode_prompt(edit.prompt)) - 1


@pytest.mark.parametrize(
    ("prompt", "subject", "end"),
    [
        ("Lyon is near Lyon, is it?", "Lyon", 17),  # the last of two
        ("What does US mean in USA?", "US", 12),  # a whole word before a part of one
        ("The Nilerivers", "Nile", 8),  # a part where there is no whole word
        ("who is marie curie?", "Marie Curie", 18),  # another case
        ("Is C++ (language) old?", "C++ (language)", 17),  # signs that a pattern would read
        ("Who is she?  ", "", 11),  # not the space after the prompt
    ],
)
def test_which_occurrence_counts(prompt: str, subject: str, end: int) -> None:
    assert anchor(an_edit(prompt, subject)).end == end


def test_the_subject_is_spelt_as_in_the_prompt() -> None:
    assert anchor(an_edit("who is marie curie?", "Marie Curie")).subject == "marie curie"


def test_a_tokenizer_without_offsets_counts_the_tokens_before_the_end() -> None:
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    assert anchor_index(tokenizer, Anchor("Zoë is a", 3, "Zoë")) == len("Zoë".encode()) - 1
