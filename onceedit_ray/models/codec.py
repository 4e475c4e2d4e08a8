"""Text and tokens of one model, exactly.

A draft travels between models as bytes, so what a token stands for must be exact in both directions: the surfaces of
`encode_bytes(data)` always join to `data`, in the middle of a word and in the middle of a character too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property, lru_cache

from transformers import PreTrainedTokenizerBase

from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.prompt_shapes import wrap
from onceedit_ray.models.surface import vocabulary_surfaces
from onceedit_ray.models.weight_token import weight_token_id

# Encoded before a continuation and dropped again, where a tokenizer puts a space before every text.
_SENTINELS = ("\n", "\x01", "~")


class Codec:
    """A tokenizer, seen as a map between token ids and bytes.

    Args:
        tokenizer: any Hugging Face tokenizer.
        end_ids: end-of-text tokens beyond the tokenizer's own (a model's generation config may name several).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int] = ()) -> None:
        self.tokenizer = tokenizer
        own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        self.end_ids = frozenset(end_ids) | frozenset(own)
        self.end_id = own[0] if own else min(end_ids, default=-1)
        self.weight_id = weight_token_id(tokenizer)
        self.surfaces = vocabulary_surfaces(tokenizer.get_vocab(), self.special_tokens)
        self._encode_exactly = lru_cache(maxsize=65536)(self._encode)

    @property
    def special_tokens(self) -> frozenset[str]:
        """Tokens that stand for no text."""
        added = self.tokenizer.added_tokens_decoder.values()
        return frozenset(self.tokenizer.all_special_tokens) | {token.content for token in added if token.special}

    def surface(self, token_id: int) -> bytes:
        """The bytes a token stands for; empty for special tokens."""
        return self.surfaces.get(int(token_id), b"")

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """The bytes that tokens stand for, joined."""
        return b"".join(self.surface(token_id) for token_id in ids)

    def text_of(self, ids: Iterable[int]) -> str:
        """The text of tokens; incomplete characters become U+FFFD."""
        return self.bytes_of(ids).decode("utf-8", errors="replace")

    def encode_prompt(self, prompt: str) -> list[int]:
        """A prompt's tokens, begin-of-text included where the model wants it."""
        begun = bool(self.tokenizer.bos_token) and prompt.startswith(self.tokenizer.bos_token)
        ids = self.tokenizer(prompt, add_special_tokens=not begun).input_ids
        if ids and ids[-1] in self.end_ids and not prompt.endswith(self.tokenizer.convert_ids_to_tokens(ids[-1])):
            ids = ids[:-1]  # a tokenizer that closes every text: a prompt is not closed
        if not ids:
            raise ModelError("the prompt is empty; give at least one word")
        return list(ids)

    def render(self, question: str, shape: str) -> str:
        """A question in a prompt shape; `chat` by the model's own chat template where it has one."""
        if shape == "chat" and self.tokenizer.chat_template:
            messages = [{"role": "user", "content": question}]
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return wrap(question, shape)

    def encode_bytes(self, data: bytes) -> tuple[int, ...]:
        """Tokens of a continuation (no begin-of-text, no added space) whose surfaces join to `data` exactly.

        Raises `ModelError` where the vocabulary has no token for a byte that occurs.
        """
        return self._encode_exactly(data)

    def _encode(self, data: bytes) -> tuple[int, ...]:
        try:
            text, rest = data.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text, rest = data[: error.start].decode("utf-8"), data[error.start :]
        whole = data[: len(data) - len(rest)]
        for candidate in self._candidates(text):
            if self.bytes_of(candidate) == whole:
                return (*candidate, *self._longest_match(rest))
        return self._longest_match(data)

    def _candidates(self, text: str) -> Iterable[tuple[int, ...]]:
        yield self._tokens(text)
        for sentinel in _SENTINELS:
            before, both = self._tokens(sentinel), self._tokens(sentinel + text)
            if both[: len(before)] == before:
                yield both[len(before) :]

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def _longest_match(self, data: bytes) -> tuple[int, ...]:
        ids: list[int] = []
        at = 0
        while at < len(data):
            for length in range(min(self._longest, len(data) - at), 0, -1):
                token_id = self._by_surface.get(data[at : at + length])
                if token_id is not None:
                    ids.append(token_id)
                    at += length
                    break
            else:
                raise ModelError(
                    f"the vocabulary has no token for the byte 0x{data[at]:02x}; the text cannot be written"
                )
        return tuple(ids)

    @cached_property
    def _by_surface(self) -> dict[bytes, int]:
        return {surface: token_id for token_id, surface in sorted(self.surfaces.items(), reverse=True)}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._by_surface))


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two sequences share from the start."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
