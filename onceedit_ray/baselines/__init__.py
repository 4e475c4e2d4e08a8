"""The methods with which OnceEdit is compared: editors that each change one target model.

A baseline is one file in `methods` and one registry entry: a class that takes its settings. It edits a transformers
decoder in place and returns an `EditedModel`, which can be undone exactly, saved and loaded again. `prepare` makes its
other inputs (statistics of a corpus, a trained hyper-network) and caches them on disk.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.teacher_forcing import check_edits
from onceedit_ray.errors import ConfigError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Progress
from onceedit_ray.registry import Registry
from onceedit_ray.validation import Strict

S = TypeVar("S", bound="BaselineSettings")


class BaselineSettings(Strict):
    """Base class of every method's settings: unknown keys are errors."""

    seed: int = 0


@dataclass(frozen=True)
class Material:
    """Data from which a method may learn, besides the edits.

    corpus: texts for statistics. training: edits of the dataset's training part, with rephrasings and locality probes,
    disjoint from the edits to be made. unrelated: prompts that are about no edit. cache: a folder for results that are
    made once per model; digest: identifies the model's weights there.
    """

    corpus: Sequence[str]
    training: Sequence[Edit]
    unrelated: Sequence[str]
    cache: Path
    digest: str

    def draw_unrelated(self, count: int, seed: int) -> tuple[str, ...]:
        """`count` of the unrelated prompts, or all if there are fewer; the same for the same seed."""
        return tuple(random.Random(seed).sample(list(self.unrelated), min(count, len(self.unrelated))))


class Baseline(ABC, Generic[S]):
    """A method with its settings, S. A subclass overrides `check`, `_edit` and the defaults that differ.

    name: in the registry. paper: its reference, with a URL. Settings: its typed settings. presets: published settings
        by `config.model_type` of their model; "default" for all others. `preset` chooses among them.

    Args:
        settings: its own; raises `ConfigError` for those of another method. No work is done yet.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    Settings: ClassVar[type[BaselineSettings]]
    presets: ClassVar[Mapping[str, BaselineSettings]]

    def __init__(self, settings: BaselineSettings) -> None:
        if not isinstance(settings, self.Settings):
            raise ConfigError(f"{self.name} was given {type(settings).__name__}; give it {self.Settings.__name__}")
        self.settings = cast("S", settings)

    @abstractmethod
    def check(self, model: PreTrainedModel) -> None:
        """Raise `ModelError`, before any work, if the method cannot edit a model of this structure."""

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material, progress: Progress
    ) -> None:
        """Make, or read from the cache, the method's inputs besides the edits. The model is unchanged.

        By default there are none.
        """

    def edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """Make all `edits`, in the method's own way (at once, or one after another).

        Raises `ModelError`, before any work, for an edit that the model cannot be given, and if `prepare` was needed.
        """
        check_edits(model, tokenizer, edits)
        return self._edit(model, tokenizer, edits, progress)

    @abstractmethod
    def _edit(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, edits: Sequence[Edit], progress: Progress
    ) -> EditedModel:
        """As `edit`, for edits that the model can be given."""

    def load(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> EditedModel:
        """Put an edit that `EditedModel.save` wrote onto the unedited `model`.

        By default the edit has changed parameters, and wraps no module.
        """
        return EditedModel.restored(model, folder, self.name)

    def begin(self, model: PreTrainedModel) -> EditedModel:
        """An edit of `model` by this method that has changed nothing yet."""
        return EditedModel(model, self.name, self.settings.model_dump(mode="json"))


BASELINES: Registry[Callable[[BaselineSettings], Baseline[Any]]] = Registry(
    "baseline", "onceedit_ray.baselines.methods"
)


WIDTHS: Mapping[str, int] = {
    "gemma3_text": 640,
    "gpt2": 1600,
    "gptj": 4096,
    "llama": 4096,
    "mistral": 4096,
    "qwen2": 3584,
}
"""The width of the model of a family's presets: Gemma 3 270M, GPT-2 XL, and models of 6 to 8 billion parameters."""


def preset(name: str, model: PreTrainedModel) -> BaselineSettings:
    """The settings of a method that were published for a similar model, or the method's default settings.

    The family alone is not enough: SmolLM2-135M is a Llama too, but the settings for Llama-2-7B do not fit it.
    Published settings are used if the family is the same and the model is at least half and at most twice as wide.
    """
    method: Baseline[Any] = BASELINES.get(name)  # type: ignore[assignment]
    family = model.config.model_type
    width = model.config.get_text_config().hidden_size
    alike = family in WIDTHS and WIDTHS[family] <= 2 * width <= 4 * WIDTHS[family]
    return method.presets[family if alike and family in method.presets else "default"]
