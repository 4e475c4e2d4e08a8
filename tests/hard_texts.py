"""Texts that tokenizers often get wrong: text that looks like markup, and text that a tokenizer normalises."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.families import SENTENCES

# Words of the training text, and everything that is written otherwise: controls, accents, emoji, what looks special.
PIECES = st.one_of(
    st.sampled_from(" ".join(SENTENCES).split(" ")),
    st.sampled_from([" ", "  ", "\n", "\n\n", "\t", "\r\n", "▁", "Ġ", "Ċ", "<0x0A>", "<s>", "</s>", "<|im_end|>"]),
    st.text(max_size=6),
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)
MARKUP = [
    "<|im_end|>",
    "</s>",
    "<s>",
    "<eos>",
    "<bos>",
    "<|endoftext|>",
    "<unk>",
    "<pad>",
    "[WEIGHT]",
    "<|extratoken_1|>",
]
