"""How a request is answered, and the answer with its statistics. The decoder chooses the route."""

from __future__ import annotations

from dataclasses import dataclass

from onceedit_ray.fusion.drafter import DraftReader
from onceedit_ray.fusion.in_prompt import InPromptAnswer
from onceedit_ray.fusion.members import Member
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.fusion.selective_answer import SelectiveAnswer
from onceedit_ray.fusion.speculative import SpeculativeAnswer
from onceedit_ray.fusion.strategies import Strategy
from onceedit_ray.models.protocol import Step


@dataclass(frozen=True)
class Route:
    """How a request is answered: by the target alone, or fused.

    weight: the gate's w, 0 if the screen found no edited subject; None if the gate was not evaluated. strategy: how the
        two are fused; None if the target answers alone. reader: of the plug-in's drafts, if the plug-in was called.
        prefill: the result of the target's own prefill, if it was made in parallel. version: the plug-in's; "" if the
        plug-in was not called. selective: the answer if the plug-in reads along. in_prompt: the answer if the target
        reads edits in its prompt.
    """

    weight: float | None
    strategy: Strategy | None = None
    reader: DraftReader | None = None
    prefill: Step | None = None
    version: str = ""
    selective: SelectiveAnswer | None = None
    in_prompt: InPromptAnswer | None = None

    @property
    def alone(self) -> bool:
        """Whether the target answers alone."""
        return self.strategy is None or (self.selective is not None and self.selective.untouched)

    @property
    def plugin_passes(self) -> int:
        """Forward passes of the plug-in so far."""
        along = self.selective.found.along.passes if self.selective else 0
        return along + (self.reader.passes if self.reader else 0)

    @property
    def gate_weight(self) -> float | None:
        """The gate's w; the highest one along the text if the plug-in reads along."""
        return self.weight if self.selective is None else max(self.weight or 0.0, self.selective.found.weight)

    @property
    def edits(self) -> tuple[str, ...]:
        """Ids of the edits that the answer states, or that stood in the target's prompt."""
        if self.selective is not None:
            return self.selective.found.edits
        if self.in_prompt is not None:
            return self.in_prompt.edits
        return self.reader.edits if self.reader is not None and not self.alone else ()

    @property
    def fused_weight(self) -> float:
        """The weight with which the plug-in is fused: the gate's, unless the strategy has a fixed one."""
        assert self.strategy is not None and self.weight is not None, "the target does not answer alone"
        return self.weight if self.strategy.fixed_weight is None else self.strategy.fixed_weight


def generation_of(member: Member, answering: SpeculativeAnswer, route: Route) -> Generation:
    """The answer with its statistics."""
    ids = tuple(answering.ids)
    return Generation(
        target=member.name,
        text=member.codec.text_of(ids),
        token_ids=ids,
        weight=route.gate_weight,
        alone=route.alone,
        target_passes=answering.passes,
        plugin_passes=route.plugin_passes,
        ended=answering.ended,
        version=route.version,
        prompt_tokens=len(answering.prompt_ids),
        drafted=answering.drafted,
        accepted=answering.accepted,
        edits=route.edits,
    )
