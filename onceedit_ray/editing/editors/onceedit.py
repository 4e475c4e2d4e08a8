"""Editing the plug-in: full fine-tuning with a gate (§3.1, eq. 5-7).

    L = L_edit + λ·L_weight
    L_edit   = -Σ log P(y | x; θ_plug)      over the answer's tokens only           (eq. 5)
    L_weight = BCE(σ(l_W(x)), label)        label 1 = about an edit, 0 = unrelated   (eq. 6)

`l_W(x)` is the logit of the `[WEIGHT]` token at the last position of the plug-in's view of x. The token is left out of
every softmax, so it never competes with real tokens. Losses are computed only at the positions that have a label.

Shapes: B instances, T positions, D width, V vocabulary without `[WEIGHT]`, N answer positions.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.config import EditingConfig
from onceedit_ray.editing.editors import EDITORS, Epoch, Outcome
from onceedit_ray.editing.paraphrase import variant
from onceedit_ray.editing.unrelated import UnrelatedSampler
from onceedit_ray.errors import ModelError, UnwritableError
from onceedit_ray.knowledge.edit import Edit, quoted
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.head_positions import logits_of
from onceedit_ray.models.loading import context_length, has_bfloat16
from onceedit_ray.models.weight_token import add_weight_token

WARM_UP_STEPS = 10
LONGEST_VIEW = 512
"""Tokens to which prompts that are no edit's own are cut."""


@dataclass(frozen=True)
class Instance:
    """One training sequence: the view's tokens, then the answer's (none for an unrelated instance)."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    edit: int | None  # index of the edit, if this is an edit's own prompt

    @property
    def label(self) -> float:
        return 1.0 if self.answer_ids else 0.0

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@EDITORS.register("onceedit")
class OnceEditEditor:
    """One editing run over a plug-in model, which is changed in place.

    Args:
        model: any causal LM with an output embedding; trained whole, weights stay float32.
        tokenizer: its tokenizer; `[WEIGHT]` is added to both.
        edits: what to learn, all at once (batch editing).
        unrelated: prompts for which the gate must stay closed, by origin.
        config: settings of §3.1.
        view: the plug-in's prompt view.
        known: edits that `model` has already learnt and must keep. rehearsed: maximum number of them that an epoch
            repeats; edits that were found forgotten are added to these.
        context: the number of tokens to which the run file limits the window; None leaves it as the model states it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        edits: Sequence[Edit],
        unrelated: Sequence[Sequence[str]],
        config: EditingConfig,
        view: str = "short",
        known: Sequence[Edit] = (),
        rehearsed: int = 0,
        context: int | None = None,
    ) -> None:
        self._model = model.float()
        self._tokenizer = tokenizer
        # Requests are asked without a prompt shape, so edits are learnt without one.
        self._edits = [edit.model_copy(update={"prompt": edit.question}) for edit in (*edits, *known)]
        self._new = len(edits)
        self._rehearsed = min(rehearsed, len(known))
        self._forgotten: set[int] = set()
        self._config = config
        self._view = view
        self._context = [prompt for pool in unrelated for prompt in pool]
        self._sampler = UnrelatedSampler(self._edits, unrelated, hard=config.hard_negatives)
        at_once = self._new + self._rehearsed
        self._per_epoch = config.unrelated_per_epoch or max(64, min(4 * at_once, 2 * at_once + 256))
        torch.manual_seed(config.seed)
        self._weight_id = add_weight_token(model, tokenizer)
        repeated = 1 + min(config.paraphrases, 1)
        instances = len(edits) * (1 + config.paraphrases) + self._rehearsed * repeated + self._per_epoch
        self._steps_per_epoch = math.ceil(instances / config.batch_size)
        self._eos = tokenizer.eos_token_id
        if self._eos is None:
            raise ModelError("the plug-in's tokenizer has no end-of-text token; set eos_token in its tokenizer_config")
        self._codec = Codec(tokenizer)
        self._window = context_length(model.config, context, tokenizer.model_max_length)
        self._check_lengths()
        self._rng = random.Random(config.seed)
        self._device = model.get_input_embeddings().weight.device
        self._autocast = _autocast(self._device, config.precision)

    def run(self, report: Callable[[Epoch], None] = lambda epoch: None) -> Outcome:
        """Train until every edit is learnt and the gate separates, or `max_epochs`; calls `report` after each epoch."""
        started = time.monotonic()
        optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=self._config.learning_rate, weight_decay=0.0, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        outcome = Outcome()
        self._model.train()
        for number in range(1, self._config.max_epochs + 1):
            epoch = self._epoch(number, optimizer, schedule)
            outcome.epochs.append(epoch)
            report(epoch)
            if number >= self._config.min_epochs and self._settled(epoch) and self._verified():
                outcome.complete = True
                break
        self._model.eval()
        outcome.seconds = time.monotonic() - started
        return outcome

    def _check_lengths(self) -> None:
        """Raise `ModelError` for an edit that does not fit the plug-in's window, or that it cannot spell."""
        for edit in self._edits:
            try:
                tokens = len(self._view_ids(edit.prompt)) + len(self._answer_ids(edit))
            except UnwritableError as error:
                raise ModelError(
                    f"the plug-in cannot learn the edit {quoted(edit.prompt)}: {error}; use another plug-in"
                ) from None
            if tokens > self._window:
                raise ModelError(
                    f"the plug-in's window holds {self._window} tokens, but the edit {quoted(edit.prompt)} takes "
                    f"{tokens} with its answer; shorten it, or use a plug-in with a longer window"
                )

    def _rate(self, step: int) -> float:
        """A short warm-up, then a cosine schedule down to a tenth at `max_epochs`."""
        epochs = step / self._steps_per_epoch
        warm = min(1.0, (step + 1) / WARM_UP_STEPS)
        return warm * (0.55 + 0.45 * math.cos(math.pi * min(1.0, epochs / self._config.max_epochs)))

    def _epoch(self, number: int, optimizer: torch.optim.Optimizer, schedule: LambdaLR) -> Epoch:
        started = time.monotonic()
        edit_loss = weight_loss = 0.0
        learnt, gates, alarms = [], [], []
        batches = list(self._batches(self._instances()))
        for batch in batches:
            loss_edit, loss_weight, correct_B, w_B = self._losses(batch)
            optimizer.zero_grad(set_to_none=False)  # clearing the buffers is faster than freeing and allocating them
            (loss_edit + self._config.weight_loss * loss_weight).backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            edit_loss += loss_edit.item()
            weight_loss += loss_weight.item()
            for instance, correct, w in zip(batch, correct_B, w_B, strict=True):
                if instance.edit is not None:
                    learnt.append(correct)
                    gates.append(w > 0.5)
                elif not instance.answer_ids:
                    alarms.append(w > 0.5)
        return Epoch(
            number=number,
            edit_loss=edit_loss / len(batches),
            weight_loss=weight_loss / len(batches),
            learnt=_share(learnt),
            recall=_share(gates),
            false_alarms=_share(alarms),
            seconds=time.monotonic() - started,
        )

    def _settled(self, epoch: Epoch) -> bool:
        gate_is_trained = self._config.weight_loss > 0
        learnt = not self._edits or (epoch.learnt == 1.0 and (not gate_is_trained or epoch.recall == 1.0))
        return learnt and (not gate_is_trained or epoch.false_alarms <= 0.02)

    @torch.inference_mode()
    def _verified(self) -> bool:
        """Whether the present weights answer every edit and open the gate for it."""
        self._model.eval()
        instances = [self._edit_instance(i, edit.prompt, own=True) for i, edit in enumerate(self._edits)]
        missed = set()
        for batch in self._batches(instances):
            _, _, correct_B, w_B = self._losses(batch)
            for instance, correct, w in zip(batch, correct_B, w_B, strict=True):
                if not correct or (self._config.weight_loss > 0 and w <= 0.9):
                    missed.add(instance.edit)
        self._forgotten = {index for index in missed if index is not None and index >= self._new}
        self._model.train()
        return not missed

    def _instances(self) -> list[Instance]:
        instances = []
        for index, times in self._repetitions():
            edit = self._edits[index]
            instances.append(self._edit_instance(index, edit.prompt, own=True))
            for _ in range(times):
                text = variant(edit, self._rng, self._context)
                instances.append(self._edit_instance(index, text, own=False))
        for prompt in self._sampler.draw(self._rng, self._per_epoch):
            instances.append(Instance(self._encode(prompt, 0), (), None))
        return instances

    def _repetitions(self) -> list[tuple[int, int]]:
        """The edits of one epoch and the number of paraphrases of each: all new edits, and some of the known ones."""
        drawn = self._rng.sample(range(self._new, len(self._edits)), self._rehearsed) if self._rehearsed else []
        known = sorted({*drawn, *self._forgotten})
        few = min(self._config.paraphrases, 1)
        return [(index, self._config.paraphrases) for index in range(self._new)] + [(index, few) for index in known]

    def _edit_instance(self, index: int, prompt: str, own: bool) -> Instance:
        answer_ids = self._answer_ids(self._edits[index])
        prompt_ids = self._view_ids(prompt) if own else self._encode(prompt, len(answer_ids))
        return Instance(prompt_ids, answer_ids, index if own else None)

    def _answer_ids(self, edit: Edit) -> tuple[int, ...]:
        """The answer's tokens and the end of text; control text in an answer is text."""
        return (*self._codec.encode_bytes(b" " + edit.target_new.strip().encode()), self._eos)

    def _view_ids(self, prompt: str) -> tuple[int, ...]:
        """The plug-in's view of a prompt as decoding encodes it; control text in it is text."""
        return self._codec.text_prompt(plugin_view(prompt, self._view)).ids

    def _encode(self, prompt: str, answer: int) -> tuple[int, ...]:
        """The view of a prompt that may be cut, before an answer of so many tokens: its begin token and its end."""
        ids = self._view_ids(prompt)
        kept = min(LONGEST_VIEW, self._window - answer)
        if len(ids) <= kept:
            return ids
        begin = ids[:1] if ids[0] == self._tokenizer.bos_token_id else ()
        return begin + ids[len(ids) - max(kept - len(begin), 1) :]

    def _batches(self, instances: list[Instance]) -> Iterator[list[Instance]]:
        """Batches of similar length, in an order given by the seed."""
        self._rng.shuffle(instances)
        window = 8 * self._config.batch_size
        batches = []
        for start in range(0, len(instances), window):
            chunk = sorted(instances[start : start + window], key=len)
            batches += [chunk[i : i + self._config.batch_size] for i in range(0, len(chunk), self._config.batch_size)]
        self._rng.shuffle(batches)
        yield from batches

    def _losses(self, batch: list[Instance]) -> tuple[Tensor, Tensor, list[bool], list[float]]:
        """eq. 5 and eq. 6 on one batch, and per instance: whether the answer is the most likely one, and w."""
        width = max(len(instance) for instance in batch)
        ids_BT = torch.full((len(batch), width), self._eos, dtype=torch.long)
        rows: list[int] = []
        columns: list[int] = []
        gold: list[int] = []
        for row, instance in enumerate(batch):
            ids_BT[row, : len(instance)] = torch.tensor(instance.prompt_ids + instance.answer_ids)
            start = len(instance.prompt_ids) - 1
            rows += [row] * len(instance.answer_ids)
            columns += range(start, start + len(instance.answer_ids))
            gold += instance.answer_ids
        ends_B = torch.tensor([len(instance.prompt_ids) - 1 for instance in batch])
        labels_B = torch.tensor([instance.label for instance in batch], device=self._device)
        with self._autocast:
            # Padding stands to the right, where causal attention never looks: no mask is needed.
            read_rows = torch.tensor([*range(len(batch)), *rows])
            read_columns = torch.cat([ends_B, torch.tensor(columns, dtype=torch.long)])
            # The model's own logits: what it does to them after the head (scaling, soft caps) is there in decoding too.
            with logits_of(self._model, read_rows, read_columns):
                logits_MV = self._model(input_ids=ids_BT.to(self._device), use_cache=False).logits[0]
        gate_B = logits_MV[: len(batch), self._weight_id].float()
        weight = torch.tensor([self._weight_id], device=logits_MV.device)
        answer_NV = logits_MV[len(batch) :].float().index_fill(1, weight, float("-inf"))
        loss_weight = F.binary_cross_entropy_with_logits(gate_B, labels_B)
        w_B = torch.sigmoid(gate_B).tolist()
        if not gold:
            return loss_weight * 0.0, loss_weight, [True] * len(batch), w_B
        gold_N = torch.tensor(gold, device=self._device)
        loss_edit = F.cross_entropy(answer_NV, gold_N)
        wrong = {row for row, hit in zip(rows, (answer_NV.argmax(-1) == gold_N).tolist(), strict=True) if not hit}
        return loss_edit, loss_weight, [row not in wrong for row in range(len(batch))], w_B


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 0.0


def _autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """bfloat16 autocast if `precision` says so, or if it is "auto" and the hardware supports bfloat16."""
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(device) else "float32"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
