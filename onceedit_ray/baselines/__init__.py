"""The methods OnceEdit is compared with: editors that change one target model each.

A baseline is one file in `methods` and one registry entry: a class that takes its settings. It edits a transformers
decoder in place and returns an `EditedModel`, which can be undone exactly, saved and loaded again. What it
needs beside the edits (statistics of a corpus, a trained hyper-network) is made by `prepare` and cached on disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.errors import ConfigError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.progress import Progress
from onceedit_ray.registry import Registry

S = TypeVar("S", bound="BaselineSettings")


class BaselineSettings(BaseModel):
    """What every method's settings share: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0


def own_settings(settings: BaselineSettings, kind: type[S], name: str) -> S:
    """`settings`, which must be of the kind that the baseline `name` takes; raises `ConfigError` otherwise."""
    if not isinstance(settings, kind):
        raise ConfigError(f"{name} was given {type(settings).__name__}; give it {kind.__name__}")
    return settings


@dataclass(frozen=True)
class Material:
    """What a method may learn from beside the edits.

    corpus: texts for statistics. training: edits of the dataset's training part, with rephrasings and locality probes,
    disjoint from what is edited. unrelated: prompts that are about no edit.
    cache: a folder for what is made once per model; digest: names the model's weights there.
    """

    corpus: Sequence[str]
    training: Sequence[Edit]
    unrelated: Sequence[str]
    cache: Path
    digest: str

    def draw_unrelated(self, count: int, seed: int) -> tuple[str, ...]:
        """`count` of the unrelated prompts, or all of them where there are fewer; the same for the same seed."""
        return tuple(random.Random(seed).sample(list(self.unrelated), min(count, len(self.unrelated))))


class Baseline(Protocol):
    """A method with its settings.

    paper: its reference, with a URL. Settings: its typed settings. presets: settings by the `config.model_type` of the
    model they were published for; "default" for all others. `preset` chooses among them.
    """

    paper: ClassVar[str]
    Settings: ClassVar[type[BaselineSettings]]
    presets: ClassVar[Mapping[str, BaselineSettings]]

    def __init__(self, settings: BaselineSettings) -> None:
        """Hold the settings; no work is done."""

    def check(self, model: PreTrainedModel) -> None:
        """Raise `ModelError` where the model's shape cannot be edited this way, before any work."""

    def prepare(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, material: Material, progress: Progress
    ) -> None:
        """Make, or read from the cache, what the method needs besides the edits. The model is left as it was."""

    def edit(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        edits: Sequence[Edit],
        progress: Progress,
    ) -> EditedModel:
        """Make all `edits`, in the method's own way (at once, or one after another)."""

    def load(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> EditedModel:
        """Put an edit that `EditedModel.save` wrote onto the unedited `model`."""


BASELINES: Registry[Callable[[BaselineSettings], Baseline]] = Registry("baseline", "onceedit_ray.baselines.methods")


WIDTHS: Mapping[str, int] = {
    "gemma3_text": 640,
    "gpt2": 1600,
    "gptj": 4096,
    "llama": 4096,
    "mistral": 4096,
    "qwen2": 3584,
}
"""How wide the model is that a family's presets are for: Gemma 3 270M, GPT-2 XL, and models of 6 to 8 billion."""


def preset(name: str, model: PreTrainedModel) -> BaselineSettings:
    """The settings of a method that were published for a model like this one, or the method's default ones.

    A family's name says little: SmolLM2-135M is a Llama too, and what was published for Llama-2-7B does not fit it.
    Published settings are taken where the family is theirs, and the model at most twice, at least half as wide.
    """
    method: Baseline = BASELINES.get(name)  # type: ignore[assignment]
    family = model.config.model_type
    width = model.config.get_text_config().hidden_size
    alike = family in WIDTHS and WIDTHS[family] <= 2 * width <= 4 * WIDTHS[family]
    return method.presets[family if alike and family in method.presets else "default"]
