"""Continues an answer that is decoded again after its process died: the client gets only what it does not have yet.

Decoding is deterministic: a token depends on the prompt, the version, the seed and the position. So an answer that is
made again begins with the text already sent; if it does not (another version answers now), it is not continued.
"""

from __future__ import annotations

from dataclasses import dataclass

from onceedit_ray.errors import ModelError
from onceedit_ray.serving.logprobs import Piece

DIFFERS = "the process that wrote this answer died, and its version does not answer any more; ask again"


@dataclass
class Given:
    """What a client has of an answer. text: all of it. tokens: the number of scored tokens.

    Call `again` when the answer begins anew, and `beyond` for each of its pieces.
    """

    text: str = ""
    tokens: int = 0
    _text_read: int = 0
    _tokens_read: int = 0

    def again(self) -> None:
        """The answer is made again from its beginning."""
        self._text_read = self._tokens_read = 0

    def beyond(self, piece: Piece) -> Piece | None:
        """The part of a piece that the client does not have; None if there is none.

        Raises `ModelError` if the answer differs from what the client has.
        """
        known = self.text[self._text_read : self._text_read + len(piece.text)]
        if not piece.text.startswith(known):
            raise ModelError(DIFFERS)
        text, tokens = piece.text[len(known) :], piece.tokens[max(self.tokens - self._tokens_read, 0) :]
        self._text_read += len(piece.text)
        self._tokens_read += len(piece.tokens)
        self.text += text
        self.tokens += len(tokens)
        return Piece(text, tokens) if text or tokens or not (known or piece.tokens) else None

    def check_ended(self) -> None:
        """Raises `ModelError` if the answer has ended before what the client has."""
        if self._text_read < len(self.text):
            raise ModelError(DIFFERS)
