"""Text and tokens, exactly in both directions, for every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.prompt_shapes import SHAPES, unwrap, wrap
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec, common_prefix
from tests.families import FAMILIES, build_family
from tests.hard_texts import MARKUP, TEXTS
from tests.small_system import build_plugin

each_family = pytest.mark.parametrize("family", FAMILIES)
quickly = settings(max_examples=60)


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """The tokenizer of a plug-in, with its `[WEIGHT]` token."""
    return open_codec(build_plugin(tmp_path_factory.mktemp("plugin"), "llama")[1])


class TestEncodeBytes:
    @each_family
    @quickly
    @given(text=TEXTS)
    @example(text="")
    @example(text=" ")
    @example(text=" Michel Platini")
    @example(text="Michel\n\nPlatini  ")
    def test_surfaces_join_to_the_text(self, codecs: dict[str, Codec], family: str, text: str) -> None:
        codec = codecs[family]
        ids = codec.encode_bytes(text.encode())
        assert codec.bytes_of(ids) == text.encode()
        assert codec.text_of(ids) == text
        assert all(codec.surface(token) for token in ids), "a token that stands for nothing"

    @each_family
    @quickly
    @given(text=TEXTS.filter(bool), cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)))
    @example(text="né 東京 🙂", cuts=(0.2, 0.9))
    def test_in_the_middle_of_a_character(
        self, codecs: dict[str, Codec], family: str, text: str, cuts: tuple[float, float]
    ) -> None:
        whole = text.encode()
        begin, end = sorted(round(cut * len(whole)) for cut in cuts)
        for data in (whole[begin:], whole[:end], whole[begin:end]):
            assert codecs[family].bytes_of(codecs[family].encode_bytes(data)) == data

    @each_family
    @quickly
    @given(data=st.binary(max_size=12))
    def test_bytes_that_are_no_text(self, codecs: dict[str, Codec], family: str, data: bytes) -> None:
        assert codecs[family].bytes_of(codecs[family].encode_bytes(data)) == data

    @each_family
    @pytest.mark.parametrize("markup", MARKUP)
    def test_markup_is_text_and_never_a_special_token(
        self, codecs: dict[str, Codec], edited: Codec, family: str, markup: str
    ) -> None:
        for codec in (codecs[family], edited):
            special = set(codec.tokenizer.all_special_ids) | codec.end_ids | {codec.weight_id}
            for text in (markup, f" {markup}", f"Paris{markup}\n", f"{markup}{markup} Paris"):
                ids = codec.encode_bytes(text.encode())
                assert codec.text_of(ids) == text
                assert not special & set(ids)

    @each_family
    def test_words_are_the_tokenizers_own_tokens(self, codecs: dict[str, Codec], family: str) -> None:
        """A text may change only where the tokenizer cannot write it exactly."""
        codec = codecs[family]
        before = codec.encode_prompt("The capital")
        for text in (" of France", " is Paris, and the", " 1648."):
            both = codec.encode_prompt(f"The capital{text}")
            assert both[: len(before)] == before
            assert codec.encode_bytes(text.encode()) == tuple(both[len(before) :])

    @each_family
    def test_a_continuation_has_no_start_token_and_no_added_space(self, codecs: dict[str, Codec], family: str) -> None:
        codec = codecs[family]
        assert codec.encode_bytes(b"") == ()
        assert codec.tokenizer.bos_token_id not in codec.encode_bytes(b"Paris")
        assert codec.bytes_of(codec.encode_bytes(b"Paris")) == b"Paris"
        assert codec.bytes_of(codec.encode_bytes(b" Paris")) == b" Paris"

    def test_a_byte_without_a_token_is_named(self) -> None:
        backend = Tokenizer(models.WordLevel({"Paris": 0, "<unk>": 1, " ": 2}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        codec = Codec(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
        assert codec.encode_bytes(b"Paris") == (0,)
        with pytest.raises(ModelError, match="no token for the byte 0x52"):
            codec.encode_bytes(b"Rome")


class TestEncodePrompt:
    @each_family
    def test_begins_once_where_the_model_wants_it(self, codecs: dict[str, Codec], family: str) -> None:
        codec = codecs[family]
        start = codec.tokenizer.bos_token_id if family in ("llama", "mistral", "gemma3") else None
        ids = codec.encode_prompt("The capital of France is")
        assert ids[:1] == [start] if start is not None else ids == list(codec.encode_bytes(b"The capital of France is"))
        assert ids[1:].count(start) == 0
        if start is not None:
            begun = codec.encode_prompt(f"{codec.tokenizer.bos_token}The capital of France is")
            assert begun.count(start) == 1
            assert begun[0] == start

    @each_family
    def test_is_never_closed(self, codecs: dict[str, Codec], family: str) -> None:
        codec = codecs[family]
        for prompt in ("The capital of France is", "Paris.", " ", "東京"):
            assert codec.encode_prompt(prompt)[-1] not in codec.end_ids

    def test_a_closing_tokenizer_is_opened_again(self, tmp_path: Path) -> None:
        codec = open_codec(build_family("llama", tmp_path))
        codec.tokenizer.add_eos_token = True
        assert codec.tokenizer("Paris").input_ids[-1] == codec.end_id
        assert codec.encode_prompt("Paris")[-1] != codec.end_id
        assert codec.encode_prompt("Paris</s>")[-1] == codec.end_id

    @each_family
    def test_chat_markup_becomes_special_tokens(self, codecs: dict[str, Codec], family: str) -> None:
        codec = codecs[family]
        end = codec.tokenizer.convert_ids_to_tokens(codec.end_id)
        assert codec.end_id in codec.encode_prompt(f"Who?{end}\n")

    def test_an_empty_prompt_needs_a_start_token(self, codecs: dict[str, Codec]) -> None:
        assert codecs["llama"].encode_prompt("") == [codecs["llama"].tokenizer.bos_token_id]
        for family in ("gpt2", "gptj", "qwen2"):
            with pytest.raises(ModelError, match="the prompt is empty"):
                codecs[family].encode_prompt("")


class TestRender:
    @each_family
    @pytest.mark.parametrize("shape", SHAPES)
    def test_every_shape_can_be_taken_off_again(self, codecs: dict[str, Codec], family: str, shape: str) -> None:
        question = "Which country is [Hamburg] in?\nThink: of the sea"
        prompt = codecs[family].render(question, shape)
        assert question in prompt
        assert unwrap(prompt) == question

    def test_chat_is_the_models_own_template_where_it_has_one(self, codecs: dict[str, Codec]) -> None:
        codec = codecs["qwen2"]
        codec_with_another = Codec(codec.tokenizer)
        original = codec.tokenizer.chat_template
        try:
            codec.tokenizer.chat_template = "[INST] {{ messages[0]['content'] }} [/INST]"
            assert codec_with_another.render("Who?", "chat") == "[INST] Who? [/INST]"
            assert codec_with_another.render("Who?", "qa") == wrap("Who?", "qa")
        finally:
            codec.tokenizer.chat_template = original
        assert codec.render("Who?", "chat") == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"

    def test_chat_is_chatml_where_it_has_none(self, codecs: dict[str, Codec]) -> None:
        assert codecs["gpt2"].render("Who?", "chat") == wrap("Who?", "chat")


class TestTokens:
    @each_family
    def test_special_tokens_stand_for_no_text(self, codecs: dict[str, Codec], family: str) -> None:
        codec = codecs[family]
        assert codec.end_id in codec.end_ids
        for token in (*codec.tokenizer.all_special_ids, *codec.end_ids, 10**6):
            assert codec.surface(token) == b""

    def test_several_end_tokens(self, codecs: dict[str, Codec]) -> None:
        codec = Codec(codecs["qwen2"].tokenizer, end_ids=(3, 4))
        assert codec.end_ids == {3, 4, codec.tokenizer.eos_token_id}
        assert codec.end_id == codec.tokenizer.eos_token_id

    def test_only_an_edited_plugin_has_a_weight_token(self, codecs: dict[str, Codec], edited: Codec) -> None:
        assert [codec.weight_id for codec in codecs.values()] == [None] * len(FAMILIES)
        assert edited.weight_id == edited.tokenizer.convert_tokens_to_ids("[WEIGHT]")
        assert edited.surface(edited.weight_id) == b""

    def test_an_incomplete_character_is_shown_as_such(self, codecs: dict[str, Codec]) -> None:
        codec = codecs["llama"]
        assert codec.text_of(codec.encode_bytes("é".encode()[:1])) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("left", "right", "shared"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 2, 3], [1, 5, 3], 1), ([4], [5], 0)],
)
def test_common_prefix(left: list[int], right: list[int], shared: int) -> None:
    assert common_prefix(left, right) == common_prefix(right, left) == shared
