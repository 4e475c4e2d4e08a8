"""Finds the last token of an edit's subject: the token that holds its last character.

It is found by the tokenizer's offsets into the text, so that a begin token or a space that the tokenizer adds does not
shift it. This module does not know models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from onceedit_ray.knowledge.edit import Edit


@dataclass(frozen=True)
class Anchor:
    """The position of an edit: the last character before `end` of `text`. subject: as spelled in `text`; "" if none."""

    text: str
    end: int
    subject: str

    def after(self, prefix: str) -> Anchor:
        """The same position in the text with `prefix` before it."""
        return Anchor(prefix + self.text, len(prefix) + self.end, self.subject)


def anchor(edit: Edit) -> Anchor:
    """The end of the edit's subject in its prompt, or the end of the prompt if the subject does not occur there. The
    last of several occurrences is used, since its token attends to the others. Whole words are preferred to parts of
    words ("US" does not match "USA" if it occurs alone elsewhere), and the same case to another case.
    """
    prompt, subject = edit.prompt.rstrip(), edit.subject.strip()
    literal = re.escape(subject)
    for pattern in (rf"(?<!\w){literal}(?!\w)", literal, rf"(?i:{literal})"):
        found = list(re.finditer(pattern, prompt)) if subject else []
        if found:
            return Anchor(edit.prompt, found[-1].end(), found[-1][0])
    return Anchor(edit.prompt, len(prompt), "")


def anchor_index(tokenizer: PreTrainedTokenizerBase, place: Anchor) -> int:
    """The number of the token that holds the last character before `place.end`, among the text's own tokens.

    Tokens are counted as `Codec.encode_prompt` makes them, the begin token included.
    """
    begun = bool(tokenizer.bos_token) and place.text.startswith(tokenizer.bos_token)
    if not tokenizer.is_fast:  # no offsets: if a token crosses the end, this is the token after it
        ids = tokenizer(place.text[: place.end], add_special_tokens=not begun).input_ids
        closed = bool(ids) and ids[-1] == tokenizer.eos_token_id
        return len(ids) - closed - 1
    spans = tokenizer(place.text, add_special_tokens=not begun, return_offsets_mapping=True).offset_mapping
    return max(index for index, (start, end) in enumerate(spans) if start < end and start < place.end)
