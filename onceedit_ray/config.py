"""Run files: typed, checked before anything expensive starts.

A run file is YAML; every key is declared here and an unknown one is an error that names the nearest known key.
This module knows no model, no data and no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ByteSize, Field, ValidationError, field_validator, model_validator

from onceedit_ray.errors import ConfigError
from onceedit_ray.location import DataFile, refusal
from onceedit_ray.validation import Strict, problems

Setting = Literal["teacher_forced", "generation"]
Shape = Literal["raw", "qa", "template", "chat"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Config = TypeVar("Config", bound=BaseModel)


TRANSFORMERS = "transformers"
"""The engine that loads a model into a process of this system."""
OPENAI_TOKENS = "openai_tokens"
"""The engine that uses a server's tokens and log probabilities."""
_SCHEMES = ("local:", "gguf:", "reader:")
GRID_KEYS = ("rows", "like")
"""Keys by which a grid file (`comparison.grid_config`) is told from a run file."""
RESERVED_NAMES = ("plug-in", "all")
"""Names that no target may have: the name of the plug-in, and the name that means all targets."""


class ModelConfig(Strict):
    """One model, the engine that runs it, and the hardware that it runs on.

    engine: a name in the engines' registry (`models.engines`): "transformers" loads the model here, "openai" uses a
        server that runs already, "openai_tokens" its token ids and log probabilities, too. url: of that server's API,
        with its `/v1`. key_env: the environment variable that holds its key, "" for a server without keys. tokenizer:
        a reference to the model's own tokenizer, as for `model`; "openai_tokens" needs it, "openai" uses it where the
        server continues no reply, but has completions.
    model: a reference that `onceedit models list` explains: catalogue name, `org/name`, folder or GGUF file; for
        "openai" the name that the server gives the model, "auto" for its only one.
    dtype: "auto" is float32 on CPU and bfloat16 on GPU.
    num_gpus: GPUs reserved for its actor; more than one spreads the layers (accelerate `device_map`).
    num_cpus: CPUs reserved for its actor, a scheduling figure; torch uses `threads`.
    threads: torch threads of the model; 0 takes every core, or one core for a small model on a CPU (`assembly.SMALL`).
    context: tokens that its window holds, at most what its configuration states; None takes what model and tokenizer
        state, and no limit for a network that has none.
    kv_cache_bytes: most memory for the keys and values of all sessions, such as 2GiB; a session that does not fit
        waits. None takes a share of what is free (`models.free_memory`).
    """

    model: str = Field(min_length=1)
    engine: str = TRANSFORMERS
    url: str = ""
    key_env: str = ""
    tokenizer: str = ""
    dtype: DType = "auto"
    num_gpus: float = Field(0.0, ge=0.0)
    num_cpus: float = Field(0.5, gt=0.0)
    threads: int = Field(0, ge=0)
    context: int | None = Field(None, ge=16)
    kv_cache_bytes: ByteSize | None = Field(None, ge=1)

    @property
    def is_loaded(self) -> bool:
        """Whether this system loads the model's weights; otherwise a server has it."""
        return not self.url

    @model_validator(mode="before")
    @classmethod
    def _served_model(cls, values: Any) -> Any:
        """A server with one model needs no name for it."""
        return {"model": "auto", **values} if isinstance(values, dict) and values.get("url") else values

    @model_validator(mode="after")
    def _of_its_engine(self) -> ModelConfig:
        if self.engine == TRANSFORMERS and (self.url or self.key_env or self.tokenizer):
            raise ValueError("url, key_env and tokenizer are for a server; add 'engine: openai', or leave them out")
        if self.engine == OPENAI_TOKENS and not self.tokenizer:
            raise ValueError(f"engine {self.engine} needs the model's own 'tokenizer': a folder or a catalogue name")
        if self.engine != TRANSFORMERS and not self.url.startswith(("http://", "https://")):
            raise ValueError(
                f"engine {self.engine} needs a server's 'url', such as http://127.0.0.1:8000/v1; found '{self.url}'"
            )
        return self

    @field_validator("num_gpus")
    @classmethod
    def _whole_beyond_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} GPUs: above 1 it must be a whole number")
        return value


class PluginConfig(ModelConfig):
    """The plug-in model.

    view: the prompt template in which it reads each question (`knowledge.prompt_shapes.VIEWS`).
    dtype: "auto" is bfloat16 where the hardware supports bfloat16 matrix products; editing uses the same type.
    """

    view: str = "short"

    @model_validator(mode="after")
    def _loaded_here(self) -> PluginConfig:
        if not self.is_loaded:
            raise ValueError("the plug-in is loaded here, and cannot be a server's model; leave url and engine out")
        return self


class KnowledgeConfig(Strict):
    """Which edits are made.

    path: JSON, JSONL or Parquet, as a path or a URI; a relative path is looked for beside the run file, then in the
        working directory. None begins without edits.
    format: a reader's name, or "auto".
    limit: how many edits; None takes all.
    seed: None takes the first `limit`, a number a deterministic sample.
    on_conflict: what to do when one prompt is given two answers; "first_per_subject" keeps one edit of each subject.
    """

    path: DataFile | None = None
    format: str = "auto"
    limit: int | None = Field(None, ge=1)
    seed: int | None = None
    on_conflict: Literal["error", "first", "last", "first_per_subject"] = "error"


class EditingConfig(Strict):
    """How the plug-in is edited (§3.1).

    editor: a name in the editors' registry.
    weight_loss: λ of eq. 7; 0 leaves the gate untrained.
    unrelated: files of unrelated prompts, beside the shipped ones; paths or URIs.
    unrelated_per_epoch: unrelated instances drawn for one epoch; None scales with the number of edits.
    hard_negatives: share of the unrelated instances that are made from the edits themselves.
    paraphrases: paraphrase-like variants of each edit in one epoch.
    precision: "auto" is bfloat16 autocast where the hardware has it, float32 weights always.
    """

    editor: str = "onceedit"
    learning_rate: float = Field(1e-4, gt=0)
    batch_size: int = Field(16, ge=1)
    max_epochs: int = Field(20, ge=1)
    min_epochs: int = Field(4, ge=1)
    weight_loss: float = Field(0.6, ge=0.0)
    unrelated: tuple[DataFile, ...] = ()
    unrelated_per_epoch: int | None = Field(None, ge=1)
    hard_negatives: float = Field(0.3, ge=0.0, le=1.0)
    paraphrases: int = Field(2, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0


class AlignmentConfig(Strict):
    """How the two vocabularies are aligned (§2.2, algorithm.md §3.2).

    rule: "text" compares the texts that tokens decode to, "paper" compares the token strings.
    keep: entries kept in a row of the calibrated matrix.
    own_mass: probability mass that the median anchor keeps on itself after calibration.
    """

    rule: Literal["text", "paper"] = "text"
    keep: int = Field(32, ge=1)
    own_mass: float = Field(0.95, gt=0.0, lt=1.0)


class FusionConfig(Strict):
    """How one answer is decoded (§3.2).

    strategy: a name in the strategies' registry.
    screen: "subject" asks the gate only about questions that mention an edited subject, "none" about every one.
    threshold: lowest gate weight at which answers are fused; below it the target answers alone.
    top_k: entries of each distribution that travel between models.
    draft_tokens: plug-in tokens drafted in the first round; later rounds draft more while drafts are accepted; 0 fuses
        token by token.
    max_new_tokens: maximum number of target tokens that are generated.
    """

    strategy: str = "draft"
    screen: Literal["subject", "none"] = "subject"
    threshold: float = Field(0.5, ge=0.0, le=1.0)
    top_k: int = Field(64, ge=1)
    draft_tokens: int = Field(8, ge=0)
    max_new_tokens: int = Field(32, ge=1)


class EvaluationConfig(Strict):
    """What is scored (metrics.md).

    strategies: fusion strategies compared; the first is the one shown in the before/after table.
    portability: whether the consequences of the edits are evaluated too; they are not part of the average.
    shape: the prompt shape that the targets get.
    general: file of general prompts, a path or a URI, for gate and drift; None uses shipped prompts that were held out
        of training.
    general_limit: how many general prompts. drift_limit: for how many of those an answer is generated to measure drift.
    concurrency: probes in flight at once; they share the models' passes.
    """

    strategies: tuple[str, ...] = ("draft",)
    settings: tuple[Setting, ...] = ("teacher_forced", "generation")
    portability: bool = True
    shape: Shape = "raw"
    gate_shapes: tuple[Shape, ...] = get_args(Shape)
    general: DataFile | None = None
    general_limit: int = Field(100, ge=0)
    drift_limit: int = Field(20, ge=0)
    drift_tokens: int = Field(16, ge=1)
    concurrency: int = Field(8, ge=1)


class LivingConfig(Strict):
    """How a served plug-in learns edits while it answers, and the figures a new version must reach to go live.

    adding: "continue" trains the live version further and rehearses old edits, "base" starts from the base plug-in with
        all edits. Deleting always starts from the base plug-in.
    rehearsal: number of old edits that one epoch repeats for each new edit.
    learnt, kept: lowest reliability of the new and of the old edits, through the fused decoder, teacher-forced.
    locality: lowest locality on the edits' own locality prompts. false_alarms: largest share of held-out general
        prompts for which the gate opens. near_misses: largest share of requests near an edit that open it, of each kind
        of `living.hard_negatives`.
    old_limit, general_limit: how many old edits and how many general prompts are evaluated.
    join: waiting batches are trained together, up to this number of edits.
    queued: maximum number of waiting edits; a call that would exceed it is refused.
    num_cpus, num_gpus: CPUs and GPUs reserved while a version is made. niceness: of that process; 19 is the lowest
        priority.
    """

    adding: Literal["continue", "base"] = "continue"
    rehearsal: int = Field(1, ge=1)
    learnt: float = Field(0.97, ge=0.0, le=1.0)
    kept: float = Field(0.97, ge=0.0, le=1.0)
    locality: float = Field(0.95, ge=0.0, le=1.0)
    false_alarms: float = Field(0.05, ge=0.0, le=1.0)
    near_misses: float = Field(0.25, ge=0.0, le=1.0)
    old_limit: int = Field(200, ge=0)
    general_limit: int = Field(100, ge=1)
    join: int = Field(64, ge=1)
    queued: int = Field(1024, ge=1)
    num_cpus: float = Field(0.5, gt=0.0)
    num_gpus: float = Field(0.0, ge=0.0)
    niceness: int = Field(19, ge=0, le=19)


class RunConfig(Strict):
    """One run: edit once, evaluate on every target. `name` names the folder under `results/`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    knowledge: KnowledgeConfig
    plugin: PluginConfig
    targets: dict[str, ModelConfig] = Field(min_length=1)
    editing: EditingConfig = EditingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    fusion: FusionConfig = FusionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    living: LivingConfig = LivingConfig()

    @property
    def loaded_targets(self) -> dict[str, ModelConfig]:
        """The targets whose weights this system loads."""
        return {name: target for name, target in self.targets.items() if target.is_loaded}

    @property
    def served_targets(self) -> dict[str, ModelConfig]:
        """The targets that servers have."""
        return {name: target for name, target in self.targets.items() if not target.is_loaded}

    def check_targets(self, names: Iterable[str]) -> None:
        """Raise `ConfigError` for a name that no target of the run has."""
        for name in names:
            if name not in self.targets:
                raise ConfigError(f"unknown target '{name}': the run file has {', '.join(self.targets)}")

    @field_validator("targets")
    @classmethod
    def _usable_names(cls, targets: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        for name in targets:
            if name in RESERVED_NAMES:
                raise ValueError(f"a target cannot be called '{name}'")
        return targets

    @model_validator(mode="before")
    @classmethod
    def _short_models(cls, values: Any) -> Any:
        """`gemma: gemma-3-270m` is short for `gemma: {model: gemma-3-270m}`; the same holds for the plug-in."""
        if isinstance(values, dict):
            values = dict(values)
            if isinstance(values.get("plugin"), str):
                values["plugin"] = {"model": values["plugin"]}
            if isinstance(values.get("targets"), dict):
                values["targets"] = {
                    name: {"model": target} if isinstance(target, str) else target
                    for name, target in values["targets"].items()
                }
        return values


def load_config(path: str | Path) -> RunConfig:
    """Read and check a run file; raises `ConfigError`, one line that says where the fault is and what to do.

    A relative path in it is looked for beside the run file first, then in the working directory.
    """
    refuse_grid(path)
    return beside(parse_config(read_yaml(path), str(path)), Path(path).parent)


def is_grid(path: str | Path) -> bool:
    """Whether a file is a grid file and not a run file; raises `ConfigError` where it cannot be read."""
    return bool(set(GRID_KEYS) & read_yaml(path).keys())


def refuse_grid(path: str | Path) -> None:
    """Raise `ConfigError` for a grid file, which has no run."""
    if is_grid(path):
        raise ConfigError(f"{path} is a grid file; use `onceedit compare --config {path}`")


def beside(settings: Config, folder: Path) -> Config:
    """`settings` with each relative path that exists in `folder` as a path there.

    A model's path begins with "./", "../", "local:" or "gguf:", or ends in ".gguf"; a reader's begins with "reader:".
    """
    found = {name: _beside(getattr(settings, name), folder) for name in type(settings).model_fields}
    changed = {name: value for name, value in found.items() if value != getattr(settings, name)}
    return settings.model_copy(update=changed) if changed else settings


def _beside(value: Any, folder: Path) -> Any:
    if isinstance(value, BaseModel):
        return beside(value, folder)
    if isinstance(value, dict):
        return {name: _beside(each, folder) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_beside(each, folder) for each in value)
    if isinstance(value, Path):
        return folder / value if (folder / value).exists() else value
    if isinstance(value, str):
        scheme = next((scheme for scheme in _SCHEMES if value.startswith(scheme)), "")
        path = value.removeprefix(scheme)
        is_path = bool(scheme and path) or value.startswith(("./", "../")) or value.lower().endswith(".gguf")
        if is_path and (folder / path).exists():
            return f"{scheme}{(folder / path).absolute()}"
    return value


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a local YAML file, unchecked; raises `ConfigError` if the file holds none."""
    if reason := refusal(path):
        raise ConfigError(reason)
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no run file at {path}; see configs/ for examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no settings; expected keys such as {', '.join(RunConfig.model_fields)}")
    return values


def parse_config(values: dict[str, Any], where: str) -> RunConfig:
    """`values` as a `RunConfig`; raises `ConfigError` naming `where`, the key, and the nearest known key."""
    return parse_as(RunConfig, values, where)


def parse_as(kind: type[Config], values: dict[str, Any], where: str) -> Config:
    """`values` as a `kind`; raises `ConfigError` naming `where`, the key, and the nearest known key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {problems(error, kind)}") from None
