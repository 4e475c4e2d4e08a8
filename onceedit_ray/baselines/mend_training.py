"""Training MEND's hyper-network on a dataset's training part (Mitchell et al. 2022, algorithm 1).

    L = c_edit L_edit + c_loc L_loc
    L_edit = -log p(y_e | x'_e; W̃)                  x'_e the prompt of an edit that was just made, or a rephrasing
    L_loc  = KL(p(. | x_loc; W) || p(. | x_loc; W̃))  at the answer's tokens of a prompt that is about something else

A step draws edits, makes them together as the editor does, and updates only the hyper-network by Adam. The draws of a
step depend only on the seed and the step number, and a checkpoint holds weights and Adam's state, so an interrupted
training resumes exactly. The files are safetensors, written atomically.

New answers: the paper takes ZsRE's alternative answers. EasyEdit's training part, which OnceEdit's authors used, has
the true answers, as has ours. A model that partly knows them gives small gradients, while later edits are false
answers. So a share of the edits (`swapped_answers`) takes the answer of another record: among a few candidates the one
whose prompt has the most similar beginning, so that the answer is mostly of the right kind.

Shapes: B edits or prompts, N answer positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import BaselineSettings, Material
from onceedit_ray.baselines.gradient_transform import GradientFactors, GradientTransform, frozen, gradient_factors
from onceedit_ray.baselines.teacher_forcing import OUTSIDE, AnswerBatch, answer_batch, answer_logits, check_tokens
from onceedit_ray.errors import DataError
from onceedit_ray.files import replacing
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.progress import Count, Progress

# Part of every network's name: raise it when what is computed, or how it is stored, changes.
FORMAT = 1
_NETWORK = "network.safetensors"
_CHECKPOINT = "checkpoint.safetensors"
_CANDIDATES = 8
_TOGETHER = 8  # edits in one pass through the model

PromptAnswer = tuple[str, str]
"""A prompt and its answer."""


class TrainingSettings(BaselineSettings):
    """How the hyper-network is trained.

    steps: of Adam. edits_per_step: edits made together in one step; best near the number that the editor will make at
        once. probes_per_step: how many of them are evaluated afterwards, each with one locality prompt.
    learning_rate: of the networks. rate_learning_rate: of the logarithms of the rates. edit_weight: c_edit.
    locality_weight: c_loc. gradient_clip: largest norm of a step's gradient. statistics_edits: training edits whose
    gradients give the normalisation, before the first step. swapped_answers: share of edits that take another record's
    answer. checkpoint_every: steps from one checkpoint to the next.
    """

    steps: int = Field(default=300, ge=0)
    edits_per_step: int = Field(default=8, ge=1)
    probes_per_step: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-5, gt=0)
    rate_learning_rate: float = Field(default=0.05, gt=0)
    edit_weight: float = Field(default=0.1, gt=0)
    locality_weight: float = Field(default=1.0, ge=0)
    gradient_clip: float = Field(default=100.0, gt=0)
    statistics_edits: int = Field(default=100, ge=1)
    swapped_answers: float = Field(default=0.5, ge=0, le=1)
    checkpoint_every: int = Field(default=50, ge=1)


@dataclass(frozen=True)
class Draw:
    """The data of one step: pairs to edit, pairs that must hold afterwards, pairs that must not change."""

    made: list[PromptAnswer]
    asked: list[PromptAnswer]
    untouched: list[PromptAnswer]


def network_folder(settings: TrainingSettings, material: Material) -> Path:
    """The folder of the hyper-network for this model, these settings and this training set."""
    # Unrelated prompts are part of the name only if they may be drawn: see `Training._untouched`.
    unrelated = [] if all(edit.locality for edit in material.training) else list(material.unrelated)
    what = [
        FORMAT,
        material.digest,
        settings.model_dump(mode="json", exclude={"checkpoint_every"}),
        data_hash(material.training),
        unrelated,
    ]
    return material.cache / "mend" / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]


def train(
    transform: GradientTransform,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    material: Material,
    settings: TrainingSettings,
    progress: Progress,
) -> None:
    """Train a new `transform`, or load it from the cache; resumes an interrupted training.

    Raises `DataError` if there is no training data; the message says what to give.
    """
    folder = network_folder(settings, material)
    stored = _read(folder / _NETWORK, transform.log_rates.device, progress)
    if stored is not None:
        transform.load_state_dict(stored[0])
        progress(f"mend: using the hyper-network trained before, {folder}")
        return
    check_material(material)
    training = Training(transform, model, tokenizer, material, settings, folder / _CHECKPOINT)
    training.resume(progress)
    training.run(progress)
    _write(folder / _NETWORK, transform.state_dict(), {})
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def check_material(material: Material) -> None:
    """Raise `DataError` if MEND cannot be trained on `material`."""
    if not material.training:
        raise DataError(
            "mend trains a hyper-network and was given no training edits; give the dataset's training part: "
            "onceedit prepare mend --model NAME --training zsre_train.json"
        )
    if not any(edit.locality for edit in material.training) and not _half_sentences(material.unrelated):
        raise DataError(
            f"none of the {len(material.training)} training edits has a locality prompt and no unrelated prompts were "
            "given; give either, mend learns from them what to leave alone"
        )


class Training:
    """One training run; `step` says how many steps are done.

    Args: as `train`; checkpoint: the file that holds an interrupted training.
    """

    def __init__(
        self,
        transform: GradientTransform,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        material: Material,
        settings: TrainingSettings,
        checkpoint: Path,
    ) -> None:
        self.step = 0
        self._transform, self._model, self._tokenizer = transform, model, tokenizer
        self._material, self._settings, self._checkpoint = material, settings, checkpoint
        probes = [(probe.prompt, probe.answer) for edit in material.training for probe in edit.locality]
        self._elsewhere = probes or _half_sentences(material.unrelated)
        self._optimiser = torch.optim.Adam(
            [
                {"params": list(transform.networks.parameters()), "lr": settings.learning_rate},
                {"params": [transform.log_rates], "lr": settings.rate_learning_rate},
            ]
        )

    def resume(self, progress: Progress) -> None:
        """Load the checkpoint; without one, compute the gradients' statistics, which the first step needs."""
        stored = _read(self._checkpoint, self._transform.log_rates.device, progress)
        if stored is not None:
            self._restore(*stored)
            progress(f"mend: going on at step {self.step} of {self._settings.steps}")
            return
        rng = random.Random(f"{self._settings.seed} statistics")
        edits = rng.sample(self._material.training, min(self._settings.statistics_edits, len(self._material.training)))
        progress(f"mend: taking the gradients' statistics from {len(edits)} training edits")
        pairs = [self._made(edit, rng) for edit in edits]
        self._transform.normalise_by(pair_factors(self._transform, self._model, self._tokenizer, pairs))

    def run(self, progress: Progress) -> None:
        """Run the remaining steps, with a line and a checkpoint every `checkpoint_every` steps."""
        every, start, first = self._settings.checkpoint_every, time.monotonic(), self.step
        losses: list[tuple[float, float]] = []
        with frozen(self._model):
            while self.step < self._settings.steps:
                losses.append(self.take_step())
                if self.step % every and self.step < self._settings.steps:
                    continue
                self.save()
                seconds = (time.monotonic() - start) / (self.step - first)
                edit, locality = (sum(each) / len(losses) for each in zip(*losses, strict=True))
                note = f"edit loss {edit:.3f}, locality loss {locality:.4f}, {seconds:.2f} s a step"
                progress(Count("mend: training", self.step, self._settings.steps, note))
                losses.clear()

    def take_step(self) -> tuple[float, float]:
        """One step of Adam; returns L_edit and L_loc as they were before it."""
        edit_loss, locality_loss = self.losses(self.draw(self.step))
        loss = self._settings.edit_weight * edit_loss + self._settings.locality_weight * locality_loss
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._transform.parameters(), self._settings.gradient_clip)
        self._optimiser.step()
        self.step += 1
        return float(edit_loss.detach()), float(locality_loss.detach())

    def losses(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """L_edit, a mean over edits, and L_loc, a mean over positions, after `draw.made` were made."""
        factors = pair_factors(self._transform, self._model, self._tokenizer, draw.made)
        weights = edited_weights(self._transform, self._model, factors)

        def edited(**inputs: Tensor | bool) -> object:
            return functional_call(self._model, weights, (), inputs)

        asked = answer_batch(self._tokenizer, draw.asked, self._model.device)
        untouched = answer_batch(self._tokenizer, draw.untouched, self._model.device)
        for batch in (asked, untouched):
            check_tokens(self._model, batch.ids_BT)
        with torch.no_grad():
            before_BNV, labels_BN = answer_logits(self._model, untouched)
        after_BNV, _ = answer_logits(edited, untouched)
        counted_BN = labels_BN != OUTSIDE
        after_NV, before_NV = (logits[counted_BN].float().log_softmax(-1) for logits in (after_BNV, before_BNV))
        divergence = F.kl_div(after_NV, before_NV, reduction="batchmean", log_target=True)
        return pair_losses(*answer_logits(edited, asked)).mean(), divergence

    def draw(self, step: int) -> Draw:
        """The data of the step numbered `step`; always the same for the same step."""
        rng = random.Random(f"{self._settings.seed} step {step}")
        training = self._material.training
        edits = rng.sample(training, min(self._settings.edits_per_step, len(training)))
        made = [self._made(edit, rng) for edit in edits]
        probed = list(zip(edits, made, strict=True))[: self._settings.probes_per_step]
        asked = [(rng.choice((edit.prompt, *edit.rephrasings)), answer) for edit, (_, answer) in probed]
        return Draw(made, asked, [self._untouched(edit, rng) for edit, _ in probed])

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"transform/{name}": value for name, value in self._transform.state_dict().items()}
        for number, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"adam/{number}/{name}": value for name, value in state.items()}
        _write(self._checkpoint, tensors, {"step": str(self.step)})

    def _restore(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        step = int(metadata["step"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("adam/"):
                _, number, name = key.split("/")
                state.setdefault(int(number), {})[name] = value
        weights = {key.removeprefix("transform/"): value for key, value in tensors.items() if key[0] == "t"}
        self._transform.load_state_dict(weights)
        self._optimiser.load_state_dict({"state": state, "param_groups": self._optimiser.state_dict()["param_groups"]})
        self.step = step

    def _made(self, edit: Edit, rng: random.Random) -> PromptAnswer:
        if rng.random() >= self._settings.swapped_answers:
            return edit.prompt, edit.target_new
        others = rng.sample(self._material.training, min(_CANDIDATES, len(self._material.training)))
        alike = max((other for other in others if other is not edit), key=_likeness(edit), default=edit)
        return edit.prompt, alike.target_new

    def _untouched(self, edit: Edit, rng: random.Random) -> PromptAnswer:
        if not edit.locality:
            return rng.choice(self._elsewhere)
        probe = rng.choice(edit.locality)
        return probe.prompt, probe.answer


def pair_factors(
    transform: GradientTransform,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PromptAnswer],
) -> Iterator[list[GradientFactors]]:
    """The fine-tuning gradients of `pairs`, in batches of a few pairs: for each batch, the factors of every edited
    weight. The loss of a pair is the mean over its answer's tokens; the losses of several pairs are added, so that a
    pair's gradient does not depend on the other pairs of its batch.
    """
    for first in range(0, len(pairs), _TOGETHER):
        batch = answer_batch(tokenizer, pairs[first : first + _TOGETHER], model.device)

        def loss(batch: AnswerBatch = batch) -> Tensor:
            return pair_losses(*answer_logits(model, batch)).sum()

        yield gradient_factors(model, transform.maps, loss)


def edited_weights(
    transform: GradientTransform, model: PreTrainedModel, samples: Iterable[Sequence[GradientFactors]]
) -> dict[str, Tensor]:
    """W̃ of every edited weight by its name, in the model's dtype: all `samples` transformed and summed (§3.2)."""
    weights = {linear.weight_path: model.get_parameter(linear.weight_path).detach() for linear in transform.maps}
    changed = {name: weight.float() for name, weight in weights.items()}
    for sample in samples:
        for number, factors in enumerate(sample):
            name = transform.maps[number].weight_path
            changed[name] = changed[name] + transform.change(number, factors)
    return {name: weight.to(weights[name].dtype) for name, weight in changed.items()}


def pair_losses(logits_BNV: Tensor, labels_BN: Tensor) -> Tensor:
    """-log p of each row's answer, the mean over its tokens, [B] float32."""
    losses_BN = F.cross_entropy(logits_BNV.float().transpose(1, 2), labels_BN, ignore_index=OUTSIDE, reduction="none")
    return losses_BN.sum(1) / (labels_BN != OUTSIDE).sum(1)


def _likeness(edit: Edit) -> Callable[[Edit], int]:
    """A function that counts the first words that another edit's prompt shares with that of `edit`."""
    words = edit.prompt.split()

    def shared(other: Edit) -> int:
        pairs = zip(words, other.prompt.split(), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    return shared


def _half_sentences(texts: Sequence[str]) -> list[PromptAnswer]:
    """Each text split into the part before its last word, and that word."""
    split = (text.strip().rpartition(" ") for text in texts)
    return [(head, word) for head, _, word in split if head]


def _read(file: Path, device: torch.device, progress: Progress) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """Tensors and metadata of a file, or None if it is missing or damaged."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt", device=str(device)) as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        progress(f"mend: {file} is damaged ({error}); training without it")
        return None


def _write(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(file) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, temporary, metadata)
