"""A prompt given back before its answer, with how likely its tokens are, as OpenAI's `echo` does.

The target alone says how likely a prompt is: the plug-in takes part in answers, and where an answer would begin in a
prompt nobody knows.
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
        text: as the user wrote it; None takes the text of its tokens. likely: how many likely tokens to tell in each
            one's place; None tells no log probability.
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
