"""A target that a baseline edits, as an `Answerer`: the same code scores it before and after the edit.

Both use one copy of the weights. The unedited answers are computed before the edit and remembered; afterwards the
edited network answers. The modules that some editors insert handle one prompt at a time (`EditedModel.asked`), so
requests are served one at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel

from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.comparison.unedited_answers import UneditedAnswers
from onceedit_ray.errors import ContextLengthError, ModelError, PromptError
from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.fusion.outputs import Generation, Score
from onceedit_ray.fusion.speculative import SpeculativeAnswer
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.sampling import GREEDY


class EditedTarget:
    """Answers for one target: with strategy `UNEDITED` without the edit, with any other strategy with the current edit.

    Args:
        name: the target's. network: the model, unedited; an editor changes it in place. codec: its codec.
        own: the unedited answers that are known already; new ones are added.

    edited: the current edit; None before the first edit and after it was undone.
    """

    def __init__(self, name: str, network: PreTrainedModel, codec: Codec, own: UneditedAnswers | None = None) -> None:
        self.edited: EditedModel | None = None
        self._name = name
        self._codec = codec
        self._model = LocalModel(network, codec.end_ids, None, top_k=1, name=name)
        self.own = own or UneditedAnswers()
        self._refused: dict[object, ContextLengthError | PromptError] = {}

    async def generate(
        self, target: str, prompt: str, strategy: str | None = None, max_new_tokens: int | None = None
    ) -> Generation:
        """The target's greedy answer. The unedited answer is only there if it was computed before the edit."""
        budget = max_new_tokens or 1
        if strategy != UNEDITED:
            return await self._generate(prompt, budget)
        key = (prompt, budget)
        if key not in self.own.generations:
            with self._unedited(key, prompt):
                self.own.generations[key] = await self._generate(prompt, budget)
        return self.own.generations[key]

    async def score(self, target: str, prompt: str, gold: Sequence[int], strategy: str | None = None) -> Score:
        """Teacher-forced predictions for `gold`. Unedited ones are only there if they were computed before the edit."""
        if strategy != UNEDITED:
            return await self._score(prompt, gold)
        key = (prompt, tuple(gold))
        if key not in self.own.scores:
            with self._unedited(key, prompt):
                self.own.scores[key] = await self._score(prompt, gold)
        return self.own.scores[key]

    async def gate(self, prompt: str) -> float:
        """Raises `ModelError`: a target that is edited itself has no gate."""
        raise ModelError(f"{self._name} is edited itself and has no gate to read")

    async def render(self, target: str, question: str, shape: str) -> str:
        """A question in a prompt shape."""
        return self._codec.render(question, shape)

    async def gold(self, target: str, prompt: str, answer: str) -> tuple[int, ...]:
        """The tokens of `answer` after `prompt`, as a fused decoder counts them."""
        return self._codec.encode_answer(prompt, answer)

    async def text(self, target: str, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self._codec.text_of(ids)

    async def restriction(self, target: str, strategy: str) -> str:
        """Always "": an edited target is not restricted to candidates."""
        return ""

    async def _generate(self, prompt: str, budget: int) -> Generation:
        prompt_ids = self._codec.encode_prompt(prompt)
        answering = SpeculativeAnswer(self._model, self._codec, prompt_ids, budget, GREEDY)
        with self._asked(len(prompt_ids)):
            async with contextlib.aclosing(answering):
                async for _ in answering.alone():
                    pass
        ids = tuple(answering.ids)
        return Generation(
            target=self._name,
            text=self._codec.text_of(ids),
            token_ids=ids,
            weight=None,
            alone=True,
            target_passes=answering.passes,
            plugin_passes=0,
            ended=answering.ended,
            prompt_tokens=len(prompt_ids),
        )

    async def _score(self, prompt: str, gold: Sequence[int]) -> Score:
        prompt_ids = self._codec.encode_prompt(prompt)
        with self._asked(len(prompt_ids)):
            step = await self._model.open(prompt_ids + list(gold[:-1]), rows=len(gold))
        await self._model.close(step.session)
        return Score(tuple(int(token) for token in step.top.ids_NK[:, 0]), None, True, 0)

    @contextlib.contextmanager
    def _asked(self, prompt_tokens: int) -> Iterator[None]:
        """Tell the edit where the prompt ends; do nothing if there is no edit."""
        if self.edited is None:
            yield
            return
        if self.edited.question.prompt_tokens is not None:
            raise RuntimeError("an edited target was asked two things at once; ask one after the other")
        with self.edited.asked(prompt_tokens):
            yield

    @contextlib.contextmanager
    def _unedited(self, key: object, prompt: str) -> Iterator[None]:
        """Wraps the computation of an unedited answer; a prompt that the target refused before the edit is refused
        again.
        """
        if key in self._refused:
            raise self._refused[key]
        if self.edited is not None:
            raise RuntimeError(f"the unedited answer to {prompt!r} was not taken before the edit")
        try:
            yield
        except (ContextLengthError, PromptError) as error:
            self._refused[key] = error
            raise
