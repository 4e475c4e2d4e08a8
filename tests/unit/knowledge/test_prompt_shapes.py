"""The part of a request that the plug-in sees: the user's question, in any prompt shape."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from onceedit_ray.errors import ConfigError
from onceedit_ray.knowledge.prompt_shapes import SHAPES, VIEWS, plugin_view, unwrap, wrap

QUESTIONS = [
    "Who wrote the book?",
    "The mother tongue of Danielle Darrieux is",
    "Two lines:\nwhat is [this]: a question?",
    "First paragraph.\n\nSecond one, with: colons and {x} braces",
    "Is it A: yes or B: no?",
    "Translate [Answer]: into French",
    "Was \\1 a group of ^regular (expressions)*$?",
    "Où est né Jürgen Müller? 東京は 🙂",
    "<b>bold</b> & <i>",
    "Why Q: and A: in the middle?",
    "What does User: mean in a log",
    "a",
]

# The chat markups of common model families, as their own templates write a user's turn and open the answer.
CHATS = {
    "ChatML": "<|im_start|>user\n{x}<|im_end|>\n<|im_start|>assistant\n",
    "ChatML with a system prompt": "<|im_start|>system\nYou are kind.\nUser: be brief<|im_end|>\n"
    "<|im_start|>user\n{x}<|im_end|>\n<|im_start|>assistant\n",
    "ChatML, two turns": "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nMe.<|im_end|>\n"
    "<|im_start|>user\n{x}<|im_end|>\n<|im_start|>assistant\n",
    "Gemma": "<bos><start_of_turn>user\n{x}<end_of_turn>\n<start_of_turn>model\n",
    "Gemma, two turns": "<bos><start_of_turn>user\nWho?<end_of_turn>\n<start_of_turn>model\nMe.<end_of_turn>\n"
    "<start_of_turn>user\n{x}<end_of_turn>\n<start_of_turn>model\n",
    "Llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{x}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "Llama 2": "<s>[INST] <<SYS>>\nYou are kind.\n<</SYS>>\n\n{x} [/INST]",
    "Mistral": "<s>[INST] {x} [/INST]",
    "Mistral without spaces": "<s>[INST]{x}[/INST]",
    "Mistral, two turns": "<s>[INST] Who? [/INST] Me.</s>[INST] {x} [/INST]",
    "Phi": "<|user|>\n{x}<|end|>\n<|assistant|>\n",
    "Zephyr": "<|system|>\nYou are kind.</s>\n<|user|>\n{x}</s>\n<|assistant|>\n",
    "plain": "User: {x}\nAssistant:",
    "plain, two turns": "Human: Who?\nAI: Me.\nHuman: {x}\nAI:",
}


class TestUnwrap:
    @pytest.mark.parametrize("question", QUESTIONS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_takes_the_question_out_of_every_shape(self, shape: str, question: str) -> None:
        assert unwrap(wrap(question, shape)) == question

    @pytest.mark.parametrize("question", QUESTIONS)
    @pytest.mark.parametrize("view", VIEWS)
    def test_takes_the_question_out_of_every_view(self, view: str, question: str) -> None:
        assert unwrap(plugin_view(question, view)) == question

    @pytest.mark.parametrize("question", QUESTIONS)
    @pytest.mark.parametrize("chat", CHATS)
    def test_takes_the_last_question_out_of_a_chat(self, chat: str, question: str) -> None:
        assert unwrap(CHATS[chat].replace("{x}", question)) == question

    @pytest.mark.parametrize("chat", CHATS)
    @pytest.mark.parametrize("shape", ["raw", "qa", "template"])
    def test_takes_a_shape_out_of_a_chat(self, chat: str, shape: str) -> None:
        """Evaluation asks chat models in the paper's template, too."""
        assert unwrap(CHATS[chat].replace("{x}", wrap("Who wrote\nthe book?", shape))) == "Who wrote\nthe book?"

    @pytest.mark.parametrize("chat", ["ChatML", "Gemma", "Llama 3", "Mistral", "Phi"])
    def test_a_chat_without_an_opened_answer(self, chat: str) -> None:
        opened = ("<|im_start|>assistant\n", "<start_of_turn>model\n", "<|assistant|>\n")
        prompt = CHATS[chat].replace("{x}", "Who wrote it?")
        for opening in (*opened, "<|start_header_id|>assistant<|end_header_id|>\n\n"):
            prompt = prompt.removesuffix(opening)
        assert unwrap(prompt) == "Who wrote it?"

    @pytest.mark.parametrize(
        "prompt",
        [
            "Answer this question:\n[Question]: Who?\n[Answer]:",
            "  Answer this question:\n[Question]:  Who? \n[Answer]: ",
            "Answer this question:\r\n[Question]: Who?\r\n[Answer]:",
            "Q: Who?\nA: ",
            "Question: Who?\n\nAnswer:\n",
            "\nQ:Who?\nA:",
            " Who?\n",
        ],
    )
    def test_white_space_around_it_does_not_matter(self, prompt: str) -> None:
        assert unwrap(prompt) == "Who?"

    @pytest.mark.parametrize(
        "prompt",
        [
            "The capital of France is",
            "Q: is the letter before R",
            "Answer: forty-two. What was asked?",
            "He said: [INST is not a tag",
            "A list:\n- one\n- two",
            "What does [INST] mean in Llama prompts?",
            "[INST] is a tag of which model?",
            "Which models write [INST] and [/INST]",
            "What follows <|user|> in Phi's template?",
            "<|user|> begins the turn of whom?",
            "<|im_start|>user and <|im_end|>, what are they?",
            "Why is <|im_start|>user\n written before <|im_end|> in ChatML",
            "<start_of_turn>user\n is ended by <end_of_turn> in Gemma",
        ],
    )
    def test_what_has_no_known_shape_is_its_own_question(self, prompt: str) -> None:
        assert unwrap(prompt) == prompt

    @pytest.mark.parametrize("chat", ["ChatML", "Gemma", "Llama 3", "Mistral", "Mistral, two turns", "Phi", "Zephyr"])
    @pytest.mark.parametrize("mark", ["<|im_start|>user\n", "<start_of_turn>user\n", "[INST]", "<|user|>", "Q:"])
    def test_markup_that_a_question_in_a_chat_mentions_is_part_of_it(self, chat: str, mark: str) -> None:
        question = f"What does {mark} mean?"
        assert unwrap(CHATS[chat].replace("{x}", question)) == question

    @pytest.mark.parametrize("chat", CHATS)
    def test_an_answer_that_has_begun_is_no_part_of_the_question(self, chat: str) -> None:
        if not chat.startswith("plain"):
            assert unwrap(CHATS[chat].replace("{x}", "Who wrote it?") + "It was") == "Who wrote it?"

    @pytest.mark.parametrize("prompt", ["", " ", "\n", "Q: \nA:", wrap("", "template"), wrap("", "chat")])
    def test_nothing_asked_is_no_error(self, prompt: str) -> None:
        assert isinstance(unwrap(prompt), str)

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(
        question=st.lists(
            st.one_of(
                st.sampled_from([*"\n:[]{} ?Q", "A:", "Q: ", "[INST", "Answer", "<|", "\\"]), st.text(max_size=5)
            ),
            max_size=8,
        ).map("".join),
        shape=st.sampled_from(list(SHAPES)),
    )
    @example(question="{x}", shape="qa")
    def test_round_trip(self, question: str, shape: str) -> None:
        question = question.strip()
        assume(question)
        assume(unwrap(question) == question)  # it is not a shape itself
        assert unwrap(wrap(question, shape)) == question

    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(prompt=st.text(max_size=60))
    def test_once_is_enough(self, prompt: str) -> None:
        assert unwrap(unwrap(prompt)) == unwrap(prompt)

    def test_a_long_prompt_takes_no_time(self) -> None:
        prompt = "User: \n" * 2000 + "[INST] <|im_start|>user" * 2000 + "\n" * 2000
        assert isinstance(unwrap(prompt), str)


class TestPluginView:
    def test_ends_where_the_answer_begins(self) -> None:
        assert plugin_view(" Who? ") == "Question: Who?\nAnswer:"
        assert all(plugin_view("Who?", view)[-1] == ":" for view in VIEWS)

    def test_the_papers_views_are_those_of_its_appendix(self) -> None:
        assert plugin_view("Who?", "question") == "Answer this question:\n[Question]: Who?\n[Answer]:"
        assert (
            plugin_view("Who is", "completion") == "Complete this half sentence.\n [Half Sentence]: Who is\n[Answer]:"
        )

    def test_a_question_with_braces_is_put_in_as_it_is(self) -> None:
        assert plugin_view("What is {x} in {}?") == "Question: What is {x} in {}?\nAnswer:"
        assert wrap("{x}{x}", "qa") == "Q: {x}{x}\nA:"

    def test_an_unknown_view_or_shape_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown plug-in view 'brief': known are short, question, completion"):
            plugin_view("Who?", "brief")
        with pytest.raises(ConfigError, match=r"unknown prompt shape 'faq': known are raw, qa, template, chat"):
            wrap("Who?", "faq")


# The shapes as plain regular expressions: what `unwrap` finds must be what they find, wherever they end in time.
_OPENINGS = {
    r"<\|im_start\|>user\s*\n": (r"<\|im_end\|>", ""),
    r"<start_of_turn>user\s*\n": ("<end_of_turn>", ""),
    r"<\|start_header_id\|>user<\|end_header_id\|>": (r"<\|eot_id\|>", ""),
    r"\[INST\](?>(?:\s*<<SYS>>.*?<</SYS>>)?)": ("", r"\[/INST\]"),
    r"<\|user\|>": (r"<\|end\|>|</s>", r"<\|assistant\|>"),
}
_MARKUP = r"(?:<[^<>\s]+>|\[\w+\])"


def _chats(opening: str, ends: str, answers: str) -> tuple[str, str]:
    """A chat whose last turn is closed, and one whose last turn is not. answers: endings that open the answer, too."""
    closing = "|".join(filter(None, (ends, answers)))
    between, turn = rf"(?:(?!{opening}).)*", rf"(?:(?!{closing}).)*"
    begin = rf"\s*(?={_MARKUP})(?:(?!{'|'.join(_OPENINGS)}).)*"
    told = rf"(?:{opening}{turn}(?:{closing}){between})"
    rest = [rf"(?:{ends})(?:\s*|\s*(?={_MARKUP}){between})"] if ends else []
    rest += [rf"(?:{answers}){between}"] if answers else []
    return rf"{begin}{told}*{opening}({turn})(?:{'|'.join(rest)})", rf"{begin}{told}+{opening}({turn})"


REFERENCE = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        *(pattern for opening, endings in _OPENINGS.items() for pattern in _chats(opening, *endings)),
        r"(?:.*\n)?(?:User|Human):\s*(.*?)\s*\n\s*(?:Assistant|AI):\s*",
        r"\s*Answer this question:\s*\[Question\]:\s*(.*?)\s*\[Answer\]:\s*",
        r"\s*Complete this half sentence\.\s*\[Half Sentence\]:\s*(.*?)\s*\[Answer\]:\s*",
        r"\s*(?:Q|Question):\s*(.*?)\s*\n\s*(?:A|Answer):\s*",
    )
]
MARKS = """Q: Question: A: Answer: x <|im_start|>user <|im_end|> <start_of_turn>user <end_of_turn> <|eot_id|>
<|start_header_id|>user<|end_header_id|> [INST] <<SYS>> <</SYS>> [/INST] <|user|> <|end|> </s> <|assistant|>
User: Human: Assistant: AI: [Question]: [Answer]: [Half Sentence]:""".split()
PARTS = [*MARKS, "\n", " ", "\t", "Answer this question:", "Complete this half sentence."]


def by_reference(prompt: str) -> str:
    matches = (pattern.fullmatch(prompt) for pattern in REFERENCE)
    inside = next((match[1].strip() for match in matches if match and match[1].strip()), None)
    return prompt.strip() if inside is None else by_reference(inside)


@settings(max_examples=1000, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(PARTS), max_size=9).map("".join))
def test_the_search_finds_what_the_expressions_find(prompt: str) -> None:
    assert unwrap(prompt) == by_reference(prompt)


@pytest.mark.parametrize("blank", ["\n", " ", " \n", "\t", "\n\n \r\n"])
@pytest.mark.parametrize("mark", [*MARKS, "Answer this question:", "User: x", "Q: x", "[INST] x", "<|user|> x"])
def test_the_search_is_linear(mark: str, blank: str) -> None:
    """A million blanks or marks: a search in quadratic time would not end."""
    unwrap(mark + blank * 1_000_000)
    unwrap((mark + blank) * 100_000)
    unwrap(mark + "\nx" * 300_000 + "\nA:")


def test_many_layers_end() -> None:
    assert isinstance(unwrap("Q: " * 100_000 + "Who?" + "\nA:" * 100_000), str)
