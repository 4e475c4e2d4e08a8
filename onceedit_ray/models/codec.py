"""Exact conversion between text and tokens of one model.

A draft is passed between models as bytes, so the conversion must be exact in both directions: the surfaces of
`encode_bytes(data)` always join to `data`, even in the middle of a word or of a character.

A prompt is either a text whose markup becomes control tokens (`prompt`), or user text without markup (`text_prompt`,
`chat_prompt`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import groupby, islice

from transformers import PreTrainedTokenizerBase

from onceedit_ray.errors import ModelError, PromptError, UnwritableError
from onceedit_ray.knowledge.prompt_shapes import unwrap, wrap
from onceedit_ray.models.control_tokens import ControlTokens, Part, rendered
from onceedit_ray.models.prompt import (
    PLAIN_CHAT_STOPS,
    Message,
    Prompt,
    answer_lead,
    asking_part,
    exchanges,
    last_request,
    messages_with_note,
    plain_chat,
    question_in,
    system_text,
    text_to_continue,
    text_with_note,
)
from onceedit_ray.models.surface import vocabulary_surfaces
from onceedit_ray.models.weight_token import weight_token_id

# Encoded before a continuation and then dropped, for tokenizers that put a space before every text.
_SENTINELS = ("\n", "\x01", "~")


class Codec:
    """A tokenizer as a map between token ids and bytes.

    Args:
        tokenizer: any Hugging Face tokenizer.
        end_ids: end-of-text tokens beyond the tokenizer's own (a model's generation config may name several).
        rows: how many tokens the model has embeddings for; None where every token has one. Tokens beyond them are not
            in `vocab` and are never written.

    Raises `ModelError` for a vocabulary whose tokens do not spell spaces (WordPiece, whole words): what it writes can
    not be read back exactly.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int] = (), rows: int | None = None
    ) -> None:
        self.tokenizer = tokenizer
        vocab = tokenizer.get_vocab()
        self.vocab = {token: number for token, number in vocab.items() if rows is None or number < rows}
        own = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
        self.end_ids = frozenset(end_ids) | frozenset(own)
        self.end_id = own[0] if own else min(end_ids, default=-1)
        self.weight_id = weight_token_id(tokenizer)
        self.surfaces = vocabulary_surfaces(self.vocab, self.special_tokens, self.literal_tokens)
        if not any(b" " in surface for surface in self.surfaces.values()) or not self._keeps_spaces():
            raise ModelError(
                f"the vocabulary ({_kind(tokenizer)}, {len(self.vocab)} tokens) does not spell spaces, so its text "
                "cannot be handed to another model exactly; choose one with a byte-level or SentencePiece vocabulary"
            )
        self._encode_exactly = lru_cache(maxsize=65536)(self._encode)

    @property
    def special_tokens(self) -> frozenset[str]:
        """Tokens that represent no text."""
        added = self.tokenizer.added_tokens_decoder.values()
        return frozenset(self.tokenizer.all_special_tokens) | {token.content for token in added if token.special}

    @property
    def literal_tokens(self) -> frozenset[str]:
        """Tokens added to the vocabulary as text; those that the vocabulary itself spells are not among them."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        own = backend.get_vocab(with_added_tokens=False) if backend is not None else {}
        added = self.tokenizer.added_tokens_decoder.values()
        return frozenset(token.content for token in added if not token.special and token.content not in own)

    def surface(self, token_id: int) -> bytes:
        """The bytes that a token represents; empty for special tokens."""
        return self.surfaces.get(int(token_id), b"")

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """The bytes that tokens represent, joined."""
        return b"".join(self.surface(token_id) for token_id in ids)

    def text_of(self, ids: Iterable[int]) -> str:
        """The text of tokens; incomplete characters become U+FFFD."""
        return self.bytes_of(ids).decode("utf-8", errors="replace")

    def tokens_within(self, ids: Sequence[int], size: int) -> int:
        """How many of the first tokens lie as a whole in the first `size` bytes of their text."""
        end = 0
        for number, token in enumerate(ids):
            end += len(self.surface(token))
            if end > size:
                return number
        return len(ids)

    def encode_prompt(self, prompt: str) -> list[int]:
        """A prompt's tokens, with begin-of-text if the model uses it; markup becomes control tokens.

        Raises `PromptError` for an empty prompt.
        """
        begun = bool(self.tokenizer.bos_token) and prompt.startswith(self.tokenizer.bos_token)
        ids = self.tokenizer(prompt, add_special_tokens=not begun).input_ids
        if ids and ids[-1] in self.end_ids and not prompt.endswith(self.tokenizer.convert_ids_to_tokens(ids[-1])):
            ids = ids[:-1]  # drop the end-of-text that some tokenizers append
        if not ids:
            raise PromptError("the prompt is empty; give at least one word")
        return list(ids)

    def encode_answer(self, prompt: str, answer: str) -> tuple[int, ...]:
        """The tokens of `answer` after `prompt`, its leading space included unless the prompt ends in one."""
        return self.encode_bytes((b"" if answer_lead(prompt) else b" ") + answer.strip().encode())

    def render(self, question: str, shape: str) -> str:
        """A question in a prompt shape; `chat` uses the model's own chat template if it has one."""
        if shape == "chat" and self.tokenizer.chat_template:
            messages = [{"role": "user", "content": question}]
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return wrap(question, shape)

    # --- prompts -----------------------------------------------------------------------------------------------------

    def prompt(self, text: str) -> Prompt:
        """A text in any known shape, whose markup becomes control tokens; raises `PromptError` for an empty text."""
        ids, continued = tuple(self.encode_prompt(text)), text_to_continue(text)
        return Prompt(unwrap(text), ids, answer_lead(text), continued=continued, source=text, has_markup=True)

    def text_prompt(self, text: str) -> Prompt:
        """A text to continue, without markup; raises `PromptError` for a text that cannot be encoded."""
        ids = self._encode_parts([(text, True)])
        question, continued = question_in(text), text_to_continue(text)
        return Prompt(question, ids, answer_lead(text), continued=continued, source=text)

    def token_prompt(self, ids: Sequence[int]) -> Prompt:
        """Tokens to continue, unchanged; their control tokens are markup, in which the user's question is found.

        Raises `PromptError` for a token that the tokenizer does not have.
        """
        unknown = next((token for token in ids if token not in self._numbers), None)
        if unknown is not None:
            raise PromptError(f"the model's tokenizer has no token {unknown}; encode the prompt with that tokenizer")
        text, marked = self.text_of(ids), self._marked_text(ids)
        in_markup = unwrap(marked) != marked.strip()
        return Prompt(question_in(marked if in_markup else text), tuple(ids), answer_lead(text))

    def chat_prompt(self, messages: Sequence[Message]) -> Prompt:
        """Messages in the model's chat template, or in `plain_chat` if it has none; markup in a message is plain text.

        Raises `PromptError` if the template refuses them, or if they cannot be encoded.
        """
        parts = rendered(messages, self._apply_template, self._controls)
        at = last_request(messages)
        question = "" if at is None else asking_part(unwrap(messages[at]["content"]))
        lead = answer_lead(parts[-1][0]) if parts else b""
        ids = self._encode_parts(parts)
        turns, system = exchanges(messages), system_text(messages)
        return Prompt(question, ids, lead, turns, system, is_chat=True, source=tuple(messages))

    def with_note(self, prompt: Prompt, note: str) -> tuple[int, ...]:
        """The tokens of a prompt in which a note comes before the request: in a chat in the user's last message.

        Raises `PromptError` if the note cannot be encoded.
        """
        if isinstance(prompt.source, str):
            text = text_with_note(prompt.source, "" if prompt.continued else prompt.question, note)
            return (self.prompt if prompt.has_markup else self.text_prompt)(text).ids
        if prompt.source is not None:
            return self.chat_prompt(messages_with_note(prompt.source, note)).ids
        begin = len(self._begin) if list(prompt.ids[: len(self._begin)]) == self._begin else 0
        written = self._encode_parts([(f"{note}\n\n", True)])[len(self._begin) :]
        return (*prompt.ids[:begin], *written, *prompt.ids[begin:])

    @property
    def chat_stops(self) -> tuple[str, ...]:
        """Strings that end a reply in a chat, besides the end-of-text tokens."""
        return () if self.tokenizer.chat_template else PLAIN_CHAT_STOPS

    @property
    def chat_note(self) -> str:
        """What a user should know of how chats are written; "" if the model has a chat template."""
        return (
            "" if self.tokenizer.chat_template else "no chat template: a chat is written as Question: ..., Answer: ..."
        )

    def _apply_template(self, messages: Sequence[Message]) -> str:
        if not self.tokenizer.chat_template:
            return plain_chat(messages)
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program and may raise any exception
            reason = " ".join(str(error).split())[:200]
            raise PromptError(f"the model's chat template refuses these messages: {reason}") from None

    @cached_property
    def _numbers(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab().values())

    @cached_property
    def _controls(self) -> ControlTokens:
        return ControlTokens({token: number for token, number in self.vocab.items() if number not in self.surfaces})

    @cached_property
    def _control_names(self) -> dict[int, str]:
        return {number: name for name, number in self._controls.numbers.items()}

    def _marked_text(self, ids: Sequence[int]) -> str:
        """The text of tokens, in which control tokens have their names."""
        names = self._control_names
        return "".join(name * len(list(run)) if name else self.text_of(run) for name, run in groupby(ids, names.get))

    @cached_property
    def _begin(self) -> list[int]:
        """The control tokens at the beginning of every prompt."""
        return self._controls_among(self.encode_prompt("a"))

    def _encode_parts(self, parts: Sequence[Part]) -> tuple[int, ...]:
        """The tokens of a prompt in which only markup may become control tokens."""
        try:
            if not any(literal and self._controls.occur(text) for text, literal in parts):
                ids = self.encode_prompt("".join(text for text, _ in parts))
                # A tokenizer that normalises text may still make a control token out of similar text.
                begin = [] if self._is_begun(parts) else self._begin
                if self._controls_among(ids) == begin + self._known(self._controls.written(parts)):
                    return tuple(ids)
            return self._spelled_out(parts)
        except ModelError as error:
            raise PromptError(str(error)) from None

    def _spelled_out(self, parts: Sequence[Part]) -> tuple[int, ...]:
        """Encode markup as control tokens, and all other text as bytes without control tokens."""
        ids = [] if self._is_begun(parts) else list(self._begin)
        text = ""
        for part, literal in parts:
            at = 0
            for start, end in () if literal else self._controls.places(part):
                ids += self.encode_bytes((text + part[at:start]).encode())
                ids.append(self._controls.numbers[part[start:end]])
                text, at = "", end
            text += part[at:]
        return (*ids, *self.encode_bytes(text.encode()))

    def _controls_among(self, ids: Sequence[int]) -> list[int]:
        return self._known([number for number in ids if number not in self.surfaces])

    def _known(self, ids: Sequence[int]) -> list[int]:
        return [number for number in ids if number != self.tokenizer.unk_token_id]

    def _is_begun(self, parts: Sequence[Part]) -> bool:
        """Whether the template writes the begin-of-text itself."""
        bos = self.tokenizer.bos_token
        return bool(bos and parts and not parts[0][1] and parts[0][0].startswith(bos))

    def _keeps_spaces(self) -> bool:
        """Whether two words of the vocabulary come back from their tokens with the space between them.

        Two words are tried, since one token with a space in it may have been added to a vocabulary that has no other
        spaces.
        """
        words = (word for surface in self.surfaces.values() if (word := surface.strip()).isalpha())
        text = b" ".join(islice(words, 2)).decode()
        return self.text_of(self._tokens(text)).strip().casefold() == text.casefold()

    # --- bytes -------------------------------------------------------------------------------------------------------

    def encode_bytes(self, data: bytes) -> tuple[int, ...]:
        """Tokens of a continuation (no begin-of-text, no added space) whose surfaces join to `data` exactly.

        Raises `UnwritableError` where the vocabulary has no token for a byte that occurs.
        """
        return self._encode_exactly(data)

    def first_token(self, data: bytes) -> int | None:
        """The first token of a continuation that begins with `data`; None where its first bytes cannot be written.

        Later bytes that cannot be written are ignored, and so is a character that is cut off at the end of `data`.
        """
        while data:
            try:
                return self.encode_bytes(data)[0]
            except UnwritableError as error:
                data = data[: error.at]
        return None

    def _encode(self, data: bytes) -> tuple[int, ...]:
        try:
            text, rest = data.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text, rest = data[: error.start].decode("utf-8"), data[error.start :]
        whole = data[: len(data) - len(rest)]
        for candidate in self._candidates(text):
            if self.bytes_of(candidate) == whole:
                return (*candidate, *self._longest_match(data, len(whole)))
        return self._longest_match(data)

    def _candidates(self, text: str) -> Iterable[tuple[int, ...]]:
        yield self._tokens(text)
        for sentinel in _SENTINELS:
            before, both = self._tokens(sentinel), self._tokens(sentinel + text)
            if both[: len(before)] == before:
                yield both[len(before) :]

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)

    def _longest_match(self, data: bytes, at: int = 0) -> tuple[int, ...]:
        """Tokens for `data` from byte `at` on, always the longest that fits."""
        ids: list[int] = []
        while at < len(data):
            for length in range(min(self._longest, len(data) - at), 0, -1):
                token_id = self._by_surface.get(data[at : at + length])
                if token_id is not None:
                    ids.append(token_id)
                    at += length
                    break
            else:
                raise UnwritableError(
                    f"the vocabulary has no token for the byte 0x{data[at]:02x}; the text cannot be written", at
                )
        return tuple(ids)

    @cached_property
    def _by_surface(self) -> dict[bytes, int]:
        return {surface: token_id for token_id, surface in sorted(self.surfaces.items(), reverse=True)}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._by_surface))


def _kind(tokenizer: PreTrainedTokenizerBase) -> str:
    """The name of a tokenizer's kind of vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return type(backend.model).__name__ if backend is not None else type(tokenizer).__name__


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix of two token sequences."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
