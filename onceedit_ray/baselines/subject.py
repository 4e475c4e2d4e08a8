"""Where the subject of an edit is read: the token that holds its last character.

Found by the tokenizer's offsets into the text, so that neither a begin token nor a space that the tokenizer adds moves
it. Knows nothing about models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from onceedit_ray.knowledge.edit import Edit


@dataclass(frozen=True)
class Anchor:
    """Where an edit is made: the last character before `end` of `text`. subject: as `text` spells it; "" if none."""

    text: str
    end: int
    subject: str

    def after(self, prefix: str) -> Anchor:
        """The same place in the text that begins with `prefix`."""
        return Anchor(prefix + self.text, len(prefix) + self.end, self.subject)


def anchor(edit: Edit) -> Anchor:
    """The end of the edit's subject in its prompt, or the end of the prompt where the subject does not occur there.

    Of several occurrences the last one counts, for its token has read the others. Whole words are preferred to parts
    of words ("US" is not in "USA" if it stands alone elsewhere), and the same letters to those of another case.
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
    if not tokenizer.is_fast:  # no offsets: where a token straddles the end, this is the token that begins there
        ids = tokenizer(place.text[: place.end], add_special_tokens=not begun).input_ids
        closed = bool(ids) and ids[-1] == tokenizer.eos_token_id
        return len(ids) - closed - 1
    spans = tokenizer(place.text, add_special_tokens=not begun, return_offsets_mapping=True).offset_mapping
    return max(index for index, (start, end) in enumerate(spans) if start < end and start < place.end)
