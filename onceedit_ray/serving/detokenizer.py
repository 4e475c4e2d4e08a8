"""Makes text from the bytes of tokens, piece by piece, without incomplete characters and without stop strings.

A token may end in the middle of a character, and a stop string may be spread over several tokens. So bytes that may
become part of either are held back.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from onceedit_ray.models.prompt import first_stop


class Detokenizer:
    """Turns bytes into text.

    Args:
        stop: strings that end the text; the text ends before the first one that occurs.

    read, given: the number of characters read so far, and of those returned.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stop = [string for string in stop if string]
        self._held = ""
        self.stopped = False
        self.given = 0

    @property
    def read(self) -> int:
        return self.given + len(self._held)

    def feed(self, data: bytes, final: bool = False) -> str:
        """The new text that is certain; `final` returns all the rest, with U+FFFD for an incomplete character."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data, final)
        stop = first_stop(text, self._stop)
        self.stopped = stop is not None
        certain = stop if stop is not None else len(text) if final else len(text) - self._begun(text)
        self._held = "" if self.stopped else text[certain:]
        self.given += certain
        return text[:certain]

    def _begun(self, text: str) -> int:
        """The number of characters at the end that may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(string.startswith(text[-length:]) for string in self._stop):
                return length
        return 0
