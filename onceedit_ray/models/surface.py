"""The surface of a token: the bytes of text that its spelling represents.

Needs only the `token -> id` mapping, no tokenizer: three spellings are distinguished by their word marks.

byte-level      GPT-2's alphabet, one printable character for each of the 256 bytes: `Ġ` is a space, `Ċ` a newline.
SentencePiece   `▁` is a space; `<0x0A>` is one byte, for text that the pieces cannot spell (byte fallback).
plain           a token is its own text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal

Spelling = Literal["byte-level", "sentencepiece", "plain"]

_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")

# Control tokens as the common model families spell them. Angle brackets alone are not enough: `<table>` is text.
_SPECIAL = re.compile(
    r"""
      <\|[^<>]+\|>                                             # <|endoftext|>, <|im_start|>
    | <｜[^<>]+｜>                                             # DeepSeek's full-width bars
    | </?(?:unk|pad|bos|eos|mask|cls|sep|blank)>
    | <(?:start|end)_of_(?:turn|image|text|audio|document)>
    | <(?:unused|reserved|extra_id|extra|dummy|special|image|control)_?(?:token)?_?\d+>
    | <SPECIAL_\d+>
    | <(?:fim|issue|jupyter|commit|gh|file)_[a-z]+>            # StarCoder's, also SmolLM's
    | <(?:repo_name|reponame|filename|empty_output)>
    | \[/?[A-Z][A-Z_]{2,}\]                                    # [WEIGHT], [INST], [/INST], [PAD], [TOOL_CALLS]
    | \[control_\d+\]
    | \[multimodal\]
    """,
    re.VERBOSE,
)
_SENTENCE_MARKS = frozenset({"<s>", "</s>"})


def vocabulary_surfaces(
    vocab: Mapping[str, int], special: Collection[str] = (), literal: Collection[str] = ()
) -> dict[int, bytes]:
    """Token id -> the bytes that the token represents, in the order of ids; special tokens are absent.

    Args:
        vocab: token -> id.
        special: tokens that represent no text, in addition to those recognised by their spelling.
        literal: tokens that were added to the vocabulary as text. In a byte-level vocabulary they are not spelled in
            GPT-2's alphabet, though their letters may be in it ("ß", "é").
    """
    spelling = vocabulary_spelling(vocab)
    control = special_tokens(vocab, special)
    as_text = set(literal) if spelling == "byte-level" else set()
    texts = ((token_id, token) for token, token_id in vocab.items() if token not in control)
    return {token_id: _surface(token, "plain" if token in as_text else spelling) for token_id, token in sorted(texts)}


def special_tokens(vocab: Mapping[str, int], special: Collection[str] = ()) -> set[str]:
    """Tokens of `vocab` that represent no text: those of `special` and the usual control tokens.

    `<s>` and `</s>` count as HTML if the vocabulary has a `<bos>`, as Gemma's has.
    """
    found = {token for token in vocab if token[:1] in "<[" and _SPECIAL.fullmatch(token)}
    if "<bos>" not in vocab:
        found |= _SENTENCE_MARKS & vocab.keys()
    return found | (set(special) & vocab.keys())


def vocabulary_spelling(vocab: Mapping[str, int]) -> Spelling:
    """Which of the three spellings a vocabulary uses, by the word mark most of its tokens carry.

    Tokens are counted, because a mark is also a letter: Llama's SentencePiece vocabulary has the Maltese `Ġ`.
    """
    pieces = sum("▁" in token or is_byte_fallback(token) for token in vocab)
    byte_level = sum("Ġ" in token or "Ċ" in token for token in vocab)
    blanks = sum(" " in token or "\n" in token for token in vocab)
    if byte_level > max(pieces, blanks):
        return "byte-level"
    return "sentencepiece" if pieces else "plain"


def is_byte_fallback(token: str) -> bool:
    """Whether a SentencePiece token is a bare byte, which tokenizers use only if no piece fits."""
    return token.startswith("<0x") and _BYTE_FALLBACK.fullmatch(token) is not None


def _surface(token: str, spelling: Spelling) -> bytes:
    if spelling == "byte-level":
        try:
            return token.translate(_BYTE_LEVEL).encode("latin-1")
        except UnicodeEncodeError:  # outside the alphabet: a token added as text, such as a run of real spaces
            return token.encode("utf-8", errors="replace")
    if spelling == "sentencepiece":
        if is_byte_fallback(token):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode("utf-8", errors="replace")
    return token.encode("utf-8", errors="replace")


def _byte_level_table() -> dict[int, int]:
    """For `str.translate`: GPT-2's character -> byte; Latin-1 outside its alphabet -> a character that is no byte.

    Printable Latin-1 stands for itself, the other bytes for U+0100 onwards.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = sorted(set(range(256)) - set(printable))
    return {byte: 0xFFFF for byte in rest} | {0x100 + i: byte for i, byte in enumerate(rest)}


_BYTE_LEVEL = _byte_level_table()
