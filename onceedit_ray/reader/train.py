"""Training a reader: low-rank adapters on a plug-in, and the row of its `[WEIGHT]` token (eq. 5-7 over pairs).

    L = L_edit + λ·L_weight
    L_edit   = -Σ log P(answer | facts, request, text so far)     over the answer's tokens only               (eq. 5)
    L_weight = BCE(σ(l_W), label)                                 at the request's end, and along a text       (eq. 6)

Along a text the label of a token is 1 if the fact's answer comes next and 0 otherwise. The lowest layers are frozen, so
that no gradients are computed for them.

Shapes: B sequences, T positions, D width, V vocabulary, N positions with a label, M answer tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.reader.examples import Example
from onceedit_ray.reader.view import REPLY

UNCLEAR = -1.0

Places = Sequence[tuple[int, int]]
"""Positions in a batch: (row, column)."""


@dataclass(frozen=True)
class Encoded:
    """An example in tokens. labels: per token the gate's label, `UNCLEAR` if it has none. wanted: per token the
    next answer token, -1 if there is none. direct: whether only the request's end has a label."""

    ids: tuple[int, ...]
    labels: tuple[float, ...]
    wanted: tuple[int, ...]
    direct: bool

    def __len__(self) -> int:
        return len(self.ids)


def encode(example: Example, tokenizer: PreTrainedTokenizerBase, longest: int = 320) -> Encoded | None:
    """An example in tokens, or None if it is longer than `longest`."""
    view = tokenizer(example.view).input_ids
    end = len(view) - 1
    if example.asks is not None:
        answer = tokenizer(example.text, add_special_tokens=False).input_ids if example.asks else []
        answer = [*answer, tokenizer.eos_token_id] if answer else []
        ids = view + answer
        labels = [UNCLEAR] * len(ids)
        labels[end] = float(example.asks)
        wanted = [-1] * end + answer + [-1]
        return Encoded(tuple(ids), tuple(labels), tuple(wanted), True) if len(ids) <= longest else None
    text = tokenizer(example.text, add_special_tokens=False, return_offsets_mapping=True)
    ids = view + text.input_ids
    labels, wanted = [UNCLEAR] * end, [-1] * end
    for index in range(len(text.input_ids) + 1):
        start = text.offset_mapping[index][0] if index < len(text.input_ids) else len(example.text)
        due = any(first <= start < last for first, last in example.spans)
        unclear = any(first <= start < last for first, last in example.unclear)
        last_token = index == len(text.input_ids) and example.text and not example.spans
        labels.append(1.0 if due else UNCLEAR if unclear or last_token else 0.0)
        wanted.append(text.input_ids[index] if due or (unclear and index < len(text.input_ids)) else -1)
    if example.view.endswith(REPLY):  # a reply may or may not begin with its answer: the position has no label
        labels[end] = UNCLEAR
    return Encoded(tuple(ids), tuple(labels), tuple(wanted), False) if len(ids) <= longest else None


def batches(
    stream: Iterator[Example], tokenizer: PreTrainedTokenizerBase, size: int, seed: int, window: int = 8
) -> Iterator[list[Encoded]]:
    """Batches of similar length: `window` batches are drawn, sorted by length and yielded in random order."""
    rng = random.Random(seed)
    while True:
        drawn: list[Encoded] = []
        while len(drawn) < size * window:
            encoded = encode(next(stream), tokenizer)
            if encoded is not None:
                drawn.append(encoded)
        drawn.sort(key=len)
        cut = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        rng.shuffle(cut)
        yield from cut


@dataclass(frozen=True)
class Losses:
    """Losses of a batch, and (prediction, label) of its gates, for questions and along texts."""

    edit: Tensor
    weight: Tensor
    asked: tuple[list[float], list[float]]
    along: tuple[list[float], list[float]]


def losses(model: ReaderModel, batch: Sequence[Encoded], pad: int) -> Losses:
    """eq. 5 and eq. 6 on one batch; `pad` is the token that fills its rows.

    A question has the same weight as the slots of one text, and as the rest of one text.
    """
    width = max(len(e) for e in batch)
    ids_BT = torch.full((len(batch), width), pad, dtype=torch.long)
    for row, e in enumerate(batch):
        ids_BT[row, : len(e)] = torch.tensor(e.ids)
    device = model.gate_D.device
    # Padding stands to the right, where causal attention never looks: no mask is needed.
    gates, labels, weights = [], [], []
    for row, e in enumerate(batch):
        ones = sum(label == 1.0 for label in e.labels)
        zeros = sum(label == 0.0 for label in e.labels)
        for col, label in enumerate(e.labels):
            if label != UNCLEAR:
                gates.append((row, col))
                labels.append(label)
                weights.append(1.0 if e.direct else 1.0 / ones if label == 1.0 else 1.5 / zeros)
    labels_N = torch.tensor(labels, device=device)
    weights_N = torch.tensor(weights, device=device)
    answers = [(row, col) for row, e in enumerate(batch) for col, w in enumerate(e.wanted) if w >= 0]
    gate_N, logits_MV = model.logits(ids_BT.to(device), gates, answers)
    # Half of the weight is uniform, half is proportional to the loss, so that rare hard positions along a text count
    # enough.
    raw_N = F.binary_cross_entropy_with_logits(gate_N, labels_N, reduction="none")
    loss_weight = (weights_N * raw_N).sum() / len(batch)
    direct_N = torch.tensor([batch[row].direct for row, _ in gates])
    p_N = torch.sigmoid(gate_N.detach()).cpu()
    labels_cpu = labels_N.cpu()
    gold = [w for e in batch for w in e.wanted if w >= 0]
    loss_edit = loss_weight * 0.0
    if gold:
        loss_edit = F.cross_entropy(logits_MV.float(), torch.tensor(gold, device=device))
    return Losses(
        loss_edit,
        loss_weight,
        (p_N[direct_N].tolist(), labels_cpu[direct_N].tolist()),
        (p_N[~direct_N].tolist(), labels_cpu[~direct_N].tolist()),
    )


def _linear_names(model: PreTrainedModel) -> list[str]:
    """The last parts of the names of a network's linear layers, without its output embedding."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
    )


class ReaderModel(nn.Module):
    """A plug-in with adapters, and the row of `[WEIGHT]`, which the network itself does not have yet."""

    def __init__(self, model: PreTrainedModel, frozen_layers: int, rank: int) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        layers = list(range(frozen_layers, model.config.num_hidden_layers))
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            target_modules=_linear_names(model),
            layers_to_transform=layers,
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(model, config)
        self.lm: Any = self.model.base_model.model
        width = model.config.hidden_size
        self.gate_D = nn.Parameter(torch.zeros(width).normal_(0.0, 0.02))
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def logits(self, ids_BT: Tensor, gates: Places, answers: Places) -> tuple[Tensor, Tensor]:
        """The gate's logits at some positions, float32 [N], and all logits at others, [M, V], as decoding has them.

        A network may scale or cap the logits that its head gives. It does so for each logit by itself. So the gate's
        logits are put beside those of the head before that step, in as many columns as they fill.
        """
        h_BTD = torch.empty(0)
        rows, width = max(len(answers), 1), 0
        gates_at, answers_at = (
            tuple(torch.tensor(each, device=ids_BT.device).reshape(-1, 2).T) for each in (gates, answers or [(0, 0)])
        )

        def chosen(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            nonlocal h_BTD
            h_BTD = args[0]
            return (h_BTD[answers_at].unsqueeze(0), *args[1:])

        def with_gates(head: Any, args: Any, logits_1MV: Tensor) -> Tensor:
            nonlocal width
            width = logits_1MV.shape[-1]
            gate_N = h_BTD[gates_at].float() @ self.gate_D
            filled = F.pad(gate_N, (0, -len(gate_N) % rows)).reshape(1, rows, -1)
            return torch.cat([logits_1MV, filled], -1)

        head = self.lm.get_output_embeddings()
        hooks = [head.register_forward_pre_hook(chosen), head.register_forward_hook(with_gates)]
        try:
            (logits_MV,) = self.lm(input_ids=ids_BT, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        return logits_MV[:, width:].flatten()[: len(gates)].float(), logits_MV[: len(answers), :width]
