"""`selective`: the target answers in its own voice, and is fused with the plug-in only where a fact's answer is due.

The fusion at such a place is that of `draft`; which places they are is found by a plug-in that reads along
(`fusion.selective`). A plug-in that was trained on its edits reads no facts: with it, this is `draft`. Scored
teacher-forced, where the answer stands at once, it is `draft`, too.
"""

from __future__ import annotations

from typing import ClassVar

from onceedit_ray.fusion.strategies import STRATEGIES
from onceedit_ray.fusion.strategies.draft import Draft


@STRATEGIES.register("selective")
class Selective(Draft):
    """Fuses where an answer is due."""

    selective: ClassVar[bool] = True
