"""`selective`: the target writes its own answer, and is fused with the plug-in only where a fact's answer is due. The
fusion at such a position is that of `draft`; a plug-in that reads along finds the positions (see
`fusion.selective_answer`). For a target that only writes text, the new answer is the plug-in's own (see
`fusion.engine_answer`). A plug-in that was trained on its edits does not read along; with it, this strategy is `draft`.
It is also `draft` for teacher-forced scores, where the answer comes at the beginning.
"""

from __future__ import annotations

from typing import ClassVar

from onceedit_ray.fusion.strategies import STRATEGIES
from onceedit_ray.fusion.strategies.draft import Draft


@STRATEGIES.register("selective")
class Selective(Draft):
    """Fuses where an answer is due."""

    selective: ClassVar[bool] = True
    needs_distributions: ClassVar[bool] = False
