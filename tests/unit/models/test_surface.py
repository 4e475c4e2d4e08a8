"""What tokens stand for, in the spellings of the common model families."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from onceedit_ray.models.surface import special_tokens, vocabulary_spelling, vocabulary_surfaces
from tests.vocabularies import published


def ids(*tokens: str) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


def test_byte_level_tokens_are_spelt_in_gpt2s_alphabet():
    vocab = ids("Ġhello", "Ċ", "Ã©", "Ġ", "ł", "<|endoftext|>", "[WEIGHT]", "<file_sep>", "<think>")
    assert vocabulary_spelling(vocab) == "byte-level"
    assert vocabulary_surfaces(vocab) == {0: b" hello", 1: b"\n", 2: "é".encode(), 3: b" ", 4: b"\xa0", 8: b"<think>"}


def test_added_tokens_outside_the_byte_alphabet_are_literal_text():
    vocab = ids("Ġa", "Ġb", "Ċ", "  ", "\t", "中")
    surfaces = vocabulary_surfaces(vocab)
    assert (surfaces[3], surfaces[4], surfaces[5]) == (b"  ", b"\t", "中".encode())


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
@example("<h1>")
def test_byte_level_surfaces_undo_the_tokenizers_own_spelling(text):
    spelt = "".join(piece for piece, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text))
    vocab = ids("Ġ", "Ċ", "Ġa", "Ċb") | {spelt: 9}
    assume(not special_tokens(vocab))  # "<s>", which stands for no text
    assert vocabulary_surfaces(vocab)[9] == text.encode()


def test_gemmas_vocabulary_keeps_html_newlines_and_bytes_as_text():
    vocab = ids(
        *("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<unused12>", "<start_of_turn>"),
        *(
            "\n\n",
            "▁▁",
            "<table>",
            "</td>",
            "<h1>",
            "<s>",
            "</s>",
            "<0x0A>",
            "▁Michel",
            "[]",
            "<?>",
            "<start_of_image>",
        ),
    )
    assert vocabulary_spelling(vocab) == "sentencepiece"
    texts = [b"\n\n", b"  ", b"<table>", b"</td>", b"<h1>", b"<s>", b"</s>", b"\n", b" Michel", b"[]", b"<?>"]
    assert vocabulary_surfaces(vocab) == dict(enumerate(texts, start=8))


def test_llamas_sentence_marks_are_special_and_its_maltese_letter_is_text():
    vocab = ids("<unk>", "<s>", "</s>", "<0x20>", "▁the", "▁", "Ġ", "[INST]", "[/INST]")
    assert special_tokens(vocab) == {"<unk>", "<s>", "</s>", "[INST]", "[/INST]"}
    assert vocabulary_surfaces(vocab) == {3: b" ", 4: b" the", 5: b" ", 6: "Ġ".encode()}


CONTROL = """<|im_start|> <|reserved_special_token_7|> <｜begin▁of▁sentence｜> <extra_id_3> <SPECIAL_20> [PAD]
[control_8] <fim_prefix> <repo_name> <reponame> <gh_stars> <issue_start> <jupyter_code> <empty_output> <unk>
<end_of_turn>"""


@pytest.mark.parametrize("token", CONTROL.split())
def test_usual_control_tokens_are_recognised(token):
    assert special_tokens({token: 0}) == {token}


@pytest.mark.parametrize(
    "token", ["<b>", "<div>", "[X]", "[]", "<>", "<|>", "<=>", "[...]", "<0x0A>", "<think>", "<td>"]
)
def test_brackets_alone_do_not_make_a_control_token(token):
    assert special_tokens({token: 0}) == set()


def test_given_special_tokens_are_absent_and_unknown_ones_ignored():
    assert vocabulary_surfaces(ids("a", "stop"), special={"stop", "elsewhere"}) == {0: b"a"}


def test_plain_vocabularies_stand_for_themselves():
    assert vocabulary_surfaces({"b": 3, " a": 1}) == {1: b" a", 3: b"b"}
    assert vocabulary_spelling(ids("Ġ", " word", "line\n")) == "plain"


@pytest.mark.parametrize(
    ("name", "spelling", "special"),
    [
        ("gpt-j-6b", "byte-level", {"<|endoftext|>"}),
        ("tinyllama", "sentencepiece", {"<unk>", "<s>", "</s>"}),
        ("tinyllama-weight", "sentencepiece", {"<unk>", "<s>", "</s>", "[WEIGHT]"}),
        ("mistral-7b-v0.1", "sentencepiece", {"<unk>", "<s>", "</s>"}),
    ],
)
def test_published_vocabularies(name, spelling, special):
    vocab = published(name)
    assert vocabulary_spelling(vocab) == spelling
    assert special_tokens(vocab) == special
    surfaces = vocabulary_surfaces(vocab)
    assert len(surfaces) == len(vocab) - len(special)
    assert {surface[0] for surface in surfaces.values() if len(surface) == 1} == set(range(256))
