"""Texts that tokenizers get wrong: what looks like markup, and what a tokenizer writes in its own way."""

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
