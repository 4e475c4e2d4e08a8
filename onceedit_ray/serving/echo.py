"""Returns a prompt before its answer, with the log probabilities of its tokens, as OpenAI's `echo` does.

The target alone scores the prompt: the plug-in takes part only in answers, and a prompt does not show where an answer
would begin.
"""

from __future__ import annotations

from onceedit_ray.fusion.members import Member
from onceedit_ray.fusion.outputs import Trace
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.serving.detokenizer import Detokenizer
from onceedit_ray.serving.logprobs import Piece, Scored, scored, unscored


async def echoed(member: Member, prompt: Prompt, text: str | None, likely: int | None) -> Piece:
    """The prompt as a piece.

    Args:
        text: as the user wrote it; None takes the text of its tokens. likely: how many of the most likely tokens to
            return at each position; None returns no log probabilities.
    """
    codec = member.codec
    shown = codec.text_of(prompt.ids) if text is None else text
    if likely is None:
        return Piece(shown)
    reading = await member.model.score(prompt.ids)
    trace, read = Trace(likely), Detokenizer()
    tokens: list[Scored] = [unscored(prompt.ids[0], codec)]
    for before, token in enumerate(prompt.ids[1:]):
        read.feed(codec.surface(prompt.ids[before]))
        trace.add(token, *reading.top.row(before), float(reading.p_N[before]))
        tokens.append(scored(trace.chances[-1], codec, read.read))
    return Piece(shown, tuple(tokens))
