"""One training run of a reader: seeded, resumable, with figures on facts that were not used in training.

A run writes `checkpoint.safetensors` to its folder every `SAVE_EVERY` steps, atomically, and the adapter at the end. An
interrupted run resumes from its checkpoint with the same examples as without the interruption.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onceedit_ray.errors import ModelError
from onceedit_ray.files import replacing
from onceedit_ray.models.assembly import use_threads
from onceedit_ray.models.loading import device_for, has_bfloat16, load_model, load_tokenizer
from onceedit_ray.models.sources.folder import ModelFolder
from onceedit_ray.reader.adapter import Adapter, ReaderManifest, load_weights, write_adapter
from onceedit_ray.reader.train import ReaderModel, batches, losses
from onceedit_ray.reader.training_data import TrainingData
from onceedit_ray.reader.validate import validate

SAVE_EVERY = 100
REPORT_EVERY = 25
WARM_UP_STEPS = 20
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class ReaderSettings:
    """How a reader is trained.

    steps, batch_size, learning_rate, seed: of AdamW with a cosine schedule down to a twentieth. rank: of the adapters.
        frozen_layers: number of lowest layers without adapters; None takes a third of the layers. weight_loss: λ of eq.
        7.
    """

    steps: int = 1500
    batch_size: int = 16
    learning_rate: float = 5e-4
    rank: int = 16
    frozen_layers: int | None = None
    weight_loss: float = 0.6
    seed: int = 0


@dataclass(frozen=True)
class StepReport:
    """Means over the last `REPORT_EVERY` steps: losses, and shares of open gates. asked_open, along_open: among gates
    that should open, at a request's end and along a text. asked_false, along_false: among gates that should stay
    closed.
    """

    step: int
    steps: int
    edit_loss: float
    weight_loss: float
    asked_open: float
    asked_false: float
    along_open: float
    along_false: float
    seconds: float


def train_reader(
    base: ModelFolder,
    material: TrainingData,
    settings: ReaderSettings,
    out: Path,
    report: Callable[[StepReport], None] = lambda report: None,
    command: str = "",
    threads: int = 0,
    start_from: Adapter | None = None,
) -> Adapter:
    """Train a reader for `base` and write its adapter to `out`; resumes from a checkpoint in `out`.

    Args:
        start_from: an adapter whose weights are trained further; its rank and layers must be those of `settings`.

    Raises:
        ModelError: the plug-in cannot be loaded, or the checkpoint in `out` has other settings.
        StoreError: a checkpoint cannot be written.
    """
    use_threads(threads)
    device = torch.device(device_for(num_gpus=1))
    precision = torch.bfloat16 if has_bfloat16(device) else torch.float32
    model = load_model(base.path, dtype="bfloat16" if precision == torch.bfloat16 else "float32", device=device.type)
    tokenizer = load_tokenizer(base.path)
    torch.manual_seed(settings.seed)
    frozen = model.config.num_hidden_layers // 3 if settings.frozen_layers is None else settings.frozen_layers
    reader = ReaderModel(model, frozen, settings.rank).to(device)
    if start_from is not None:
        load_weights(reader, start_from)
    trained = {name: parameter for name, parameter in reader.named_parameters() if parameter.requires_grad}
    adapters = [parameter for name, parameter in trained.items() if name != "gate_D"]
    groups: list[dict[str, Any]] = [{"params": adapters}, {"params": [reader.gate_D], "lr": 2 * settings.learning_rate}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=0.0)
    # Before the schedule is made, a group's own rate is its first one.
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    out.mkdir(parents=True, exist_ok=True)
    described = {**asdict(settings), **_start(start_from)}
    start = _resume(out, trained, optimizer, described)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings.steps), start - 1)
    stream = batches(material.source.stream(settings.seed), tokenizer, settings.batch_size, settings.seed)
    began = time.monotonic()
    seen = _Seen(settings.steps)
    for step, batch in zip(range(1, settings.steps + 1), stream, strict=False):
        if step <= start:
            continue
        with torch.autocast(device.type, dtype=precision) if precision == torch.bfloat16 else nullcontext():
            loss = losses(reader, batch, tokenizer.eos_token_id)
        optimizer.zero_grad()
        (loss.edit + settings.weight_loss * loss.weight).backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
        seen.add(loss)
        if step % REPORT_EVERY == 0:
            report(seen.take(step, time.monotonic() - began))
        if step % SAVE_EVERY == 0:
            _save(out, step, trained, optimizer, described)
    figures = validate(reader, tokenizer, material)
    manifest = ReaderManifest(
        base_model=base.name,
        base_digest=base.digest,
        settings={**described, "material": material.figures},
        figures=figures,
        command=command,
        files={},
    )
    adapter = write_adapter(out, reader.model, reader.gate_D, manifest)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return adapter


def _start(adapter: Adapter | None) -> dict[str, Any]:
    """What a manifest says about the adapter that was trained further: its digest, command and settings."""
    if adapter is None:
        return {}
    manifest = adapter.manifest
    return {"start": {"digest": adapter.digest, "command": manifest.command, "settings": manifest.settings}}


def _rate(step: int, steps: int) -> float:
    """A short warm-up, then a cosine schedule down to a twentieth."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * (0.525 + 0.475 * math.cos(math.pi * min(1.0, step / steps)))


class _Seen:
    """Sums of losses and gates over the steps since the last report."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._clear()

    def _clear(self) -> None:
        self._count, self._edit, self._weight = 0, 0.0, 0.0
        self._asked: tuple[list[float], list[float]] = ([], [])
        self._along: tuple[list[float], list[float]] = ([], [])

    def add(self, loss: Any) -> None:
        self._count += 1
        self._edit += loss.edit.item()
        self._weight += loss.weight.item()
        for kept, new in ((self._asked, loss.asked), (self._along, loss.along)):
            kept[0].extend(new[0])
            kept[1].extend(new[1])

    def take(self, step: int, seconds: float) -> StepReport:
        asked = [share_open(*self._asked, wanted) for wanted in (1.0, 0.0)]
        along = [share_open(*self._along, wanted) for wanted in (1.0, 0.0)]
        count = max(self._count, 1)
        means = (self._edit / count, self._weight / count)
        said = StepReport(step, self._steps, *means, asked[0], asked[1], along[0], along[1], seconds)
        self._clear()
        return said


def share_open(weights: Iterable[float], labels: Iterable[float], wanted: float) -> float:
    """Share of the gates with label `wanted` that are open; 0 if there is none."""
    of = [weight > 0.5 for weight, label in zip(weights, labels, strict=True) if label == wanted]
    return sum(of) / len(of) if of else 0.0


def _save(
    out: Path, step: int, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> None:
    tensors = {f"weight.{name}": tensor.detach().cpu().contiguous() for name, tensor in trained.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"state.{number}.{key}": torch.as_tensor(value).cpu() for key, value in state.items()}
    described = {"step": str(step), "settings": json.dumps(settings, sort_keys=True)}
    with replacing(out / CHECKPOINT) as partial:
        save_file(tensors, partial, described)


def _resume(
    out: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> int:
    """Resume from the checkpoint in `out`; returns the number of finished steps, 0 without a checkpoint."""
    path = out / CHECKPOINT
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as kept:
            described = kept.metadata()
            tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read ({error}); delete it to begin anew") from None
    if described.get("settings") != json.dumps(settings, sort_keys=True):
        raise ModelError(f"{path} is of a run with other settings; give those, or another folder")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"weight.{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "state":
            number, _, key = rest.partition(".")
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(described["step"])
