"""Whether one model works, as a target, as a plug-in and under each baseline: tried, and compared with transformers.

The measure is a plain pass of the network without a cache, as transformers loads it, once for every token. A trial
ends in an `Outcome`: it works, it is refused in the one line that a user sees, or it is a fault: silently another
answer, or an error that is not one of ours. This module knows no families and no table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from onceedit_ray.baselines import BASELINES, Baseline, Material
from onceedit_ray.baselines.cached_prefix import CachedPrefix
from onceedit_ray.baselines.target_value import TargetSettings, locate
from onceedit_ray.baselines.teacher_forcing import AnswerBatch, answer_batch, answer_loss, prompt_ids
from onceedit_ray.comparison.edited_target import EditedTarget
from onceedit_ray.config import EditingConfig, ModelConfig
from onceedit_ray.editing.editors.onceedit import OnceEditEditor
from onceedit_ray.errors import OnceEditError
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.loading import input_embeddings, load_model, load_tokenizer, without_progress_bars
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.progress import silent
from tests.baseline_models import EDITS
from tests.baseline_models import SETTINGS as BASELINE_SETTINGS
from tests.families import SENTENCES

WORKS, REFUSED, WRONG, BROKEN = "works", "refused", "wrong", "broken"
CPU = ModelConfig(model="unused", threads=1)
TOLERANCE = 1e-3
"""Distance in total variation from which two distributions count as different."""
PROMPTS = (
    "The capital of France is",
    "What is the native language of Marie Curie? The native language of",
    "The Danube is the second longest river of Europe: it is 2,850 kilometres long. Mount Everest is the",
    "A list of",
)
TOKENS = 12
DRAFT = [5, 9, 33, 71, 12]
STEPS = 6
CHANGED = 1e-3
"""By how much an edit must change the loss of its answer, in nats for each token: a few steps need not lower it."""
QUICK = EditingConfig(
    learning_rate=3e-3, max_epochs=25, unrelated_per_epoch=8, paraphrases=1, precision="float32", weight_loss=1.0
)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended. reason: why it does not work, on one line; "" if it works."""

    verdict: str
    reason: str = ""


def tried(trial: Callable[[], str]) -> Outcome:
    """The outcome of a trial that returns what is wrong, "" if nothing is."""
    try:
        wrong = trial()
    except OnceEditError as error:
        return Outcome(REFUSED, str(error))
    except Exception as error:
        logging.getLogger(__name__).debug("broken", exc_info=error)
        return Outcome(BROKEN, f"{type(error).__name__}: {' '.join(str(error).split())}")
    return Outcome(WRONG, wrong) if wrong else Outcome(WORKS)


# --- as a target -----------------------------------------------------------------------------------------------------


def plain_network(folder: Path) -> Any:
    """The network as transformers loads it."""
    with without_progress_bars():
        return AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()


@torch.inference_mode()
def last_distribution(network: Any, ids: Sequence[int], without: int | None = None) -> Tensor:
    """The distribution after `ids` from one pass without a cache, and without the token `without`, [V]."""
    logits_V = network(torch.tensor([list(ids)]), use_cache=False).logits[0, -1].float()
    if without is not None:
        logits_V[without] = -torch.inf
    return logits_V.softmax(-1)


def written_plainly(
    network: Any, ids: Sequence[int], ends: frozenset[int], tokens: int = TOKENS, without: int | None = None
) -> tuple[list[int], list[Tensor]]:
    """The greedy continuation of `ids`, computed from the beginning for every token, and its distributions."""
    new: list[int] = []
    rows: list[Tensor] = []
    while len(new) < tokens and not ends & set(new):
        rows.append(last_distribution(network, [*ids, *new], without))
        new.append(int(rows[-1].argmax()))
    return new, rows


def try_target(folder: Path) -> str:
    """The first difference between a target in `folder` and the plain network: in sessions, scores or the embedding."""
    codec = open_codec(folder)
    model = open_model(folder, CPU, codec, 8, folder.name)
    network = plain_network(folder)
    if not torch.equal(input_embeddings(folder), network.get_input_embeddings().weight.detach().float()):
        return "the alignment reads another embedding than the network has"
    prompts = [codec.encode_prompt(text) for text in PROMPTS]
    if not _looks_back(network, prompts[0]):
        raise RuntimeError("this random network does not look back: nothing can be seen with it")
    plain = [written_plainly(network, ids, codec.end_ids) for ids in prompts]
    drafts = [[last_distribution(network, [*ids, *DRAFT[:end]]) for end in range(1, 1 + len(DRAFT))] for ids in prompts]
    return asyncio.run(_unlike(model, prompts, plain, drafts))


def _looks_back(network: Any, ids: Sequence[int]) -> bool:
    """Whether the token after `ids` depends on the first of them: if it does not, every cache is right."""
    one_V, other_V = last_distribution(network, ids), last_distribution(network, [ids[0] + 1, *ids[1:]])
    return float((one_V - other_V).abs().sum()) / 2 > 10 * TOLERANCE


async def _unlike(
    model: LocalModel,
    prompts: Sequence[Sequence[int]],
    plain: Sequence[tuple[list[int], list[Tensor]]],
    drafts: Sequence[Sequence[Tensor]],
) -> str:
    steps = await asyncio.gather(*(model.open(ids, decode=TOKENS) for ids in prompts))
    for step, ids, (new, _) in zip(steps, prompts, plain, strict=True):
        room = model.context - len(ids)
        if list(step.new_ids) != new[: len(step.new_ids)] or len(step.new_ids) < min(len(new), room):
            at = sum(one == other for one, other in zip(step.new_ids, new, strict=False))
            return f"the greedy text is another one from token {at + 1} on"
    for ids, step, (_, rows) in zip(prompts, steps, plain, strict=True):
        reading = await model.score([*ids, *step.new_ids][: model.context])
        p_N = reading.p_N[len(ids) - 1 :]
        plain_N = np.array([float(row[token]) for token, row in zip(step.new_ids, rows, strict=False)])[: len(p_N)]
        if np.abs(p_N - plain_N).max() > TOLERANCE:
            return "the scores of a text differ from the probabilities with which it is written"
    for step, ids, drafted in zip(steps, prompts, drafts, strict=True):
        # As after a draft: cut back, fed several tokens of which some are refused, fed again, forked.
        top = (await model.extend(step.session, len(ids), [*DRAFT[:2], 7, 11], rows=4)).top
        kept = await model.extend(step.session, len(ids) + 2, DRAFT[2:3])
        fork = await model.extend(await model.fork(step.session), len(ids) + 3, DRAFT[3:])
        found = (top.row(0), top.row(1), kept.top.row(0), fork.top.row(0))
        if any(_apart(row, drafted[at]) > TOLERANCE for row, at in zip(found, (0, 1, 2, 4), strict=True)):
            return "a session that was cut back or forked continues differently"
    return ""


def _apart(top: Any, p_V: Tensor) -> float:
    ids_K, p_K = top
    return float((torch.from_numpy(p_K) - p_V[torch.from_numpy(ids_K).long()]).abs().max())


# --- as a plug-in ----------------------------------------------------------------------------------------------------


def try_plugin(folder: Path, work: Path) -> str:
    """The first difference between a plug-in as it was trained, and the same after it was written to `work` and opened
    again.
    """
    network, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    editor = OnceEditEditor(network, tokenizer, EDITS[:2], [SENTENCES[5:15]], QUICK)
    outcome = editor.run()
    losses = [epoch.edit_loss + epoch.weight_loss for epoch in outcome.epochs]
    if not np.isfinite(losses).all() or losses[-1] > 0.8 * losses[0]:
        return f"its loss went from {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} epochs"
    with without_progress_bars():
        network.save_pretrained(work)
    tokenizer.save_pretrained(work)
    codec = open_codec(work)
    model = open_model(work, CPU, codec, 8, "the plug-in")
    return asyncio.run(_unlike_trained(model, codec, network, outcome.complete))


async def _unlike_trained(model: LocalModel, codec: Codec, trained: Any, learnt: bool) -> str:
    assert codec.weight_id is not None, "an edited plug-in has the token"
    for edit in EDITS:
        ids = codec.text_prompt(plugin_view(edit.prompt, "short")).ids
        step = await model.open(ids, decode=TOKENS)
        new, _ = written_plainly(trained, ids, codec.end_ids, without=codec.weight_id)
        if step.weight is None or abs(step.weight - gate(trained, ids, codec.weight_id)) > TOLERANCE:
            return "the gate differs from the trained one"
        if list(step.new_ids) != new:
            return "what is decoded is not what was trained"
        if learnt and edit in EDITS[:2] and codec.text_of(step.new_ids).strip() != edit.target_new:
            return "what is decoded is not what was learnt"
    return ""


@torch.inference_mode()
def gate(network: Any, ids: Sequence[int], weight_id: int) -> float:
    """The gate's weight after `ids` from one pass without a cache."""
    return float(torch.sigmoid(network(torch.tensor([list(ids)]), use_cache=False).logits[0, -1, weight_id].float()))


# --- under a baseline ------------------------------------------------------------------------------------------------


def try_baseline(name: str, folder: Path, cache: Path) -> str:
    """The first fault of a baseline's edit of the model in `folder`: it is made twice, undone and asked."""
    network, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    codec = open_codec(folder)
    quick = BASELINE_SETTINGS[name]
    few = {"steps": min(STEPS, getattr(quick, "steps")), "prefixes": ()}  # noqa: B009  # all of them have it
    quick = quick.model_copy(update={key: value for key, value in few.items() if hasattr(quick, key)})
    method: Baseline[Any] = BASELINES.get(name)(quick)  # type: ignore[assignment]
    method.check(network)
    try:
        return asyncio.run(_wrong_edit(method, network, tokenizer, codec, cache))
    except OnceEditError as error:
        return f"refused after its check: {error}"


async def _wrong_edit(method: Baseline[Any], network: Any, tokenizer: Any, codec: Codec, cache: Path) -> str:
    if isinstance(method.settings, TargetSettings) and (wrong := _other_loss(network, tokenizer)):
        return wrong
    target = EditedTarget("the target", network, codec)
    method.prepare(network, tokenizer, Material(SENTENCES, EDITS, SENTENCES, cache, "tried"), silent)
    own = network.state_dict()
    before = {key: value.clone() for key, value in own.items()}
    answers = answer_batch(tokenizer, [(EDITS[0].prompt, EDITS[0].target_new)], "cpu")
    asked = len(prompt_ids(tokenizer, EDITS[0].prompt))
    losses = [float(_loss(network, answers))]
    for _ in range(2):
        edited = method.edit(network, tokenizer, EDITS[:1], silent)
        with edited.asked(asked):
            losses.append(float(_loss(network, answers)))
        target.edited = edited
        written = (await target.generate("the target", EDITS[0].prompt, max_new_tokens=6)).token_ids
        target.edited = None
        with edited.asked(asked):
            plain, _ = written_plainly(network, prompt_ids(tokenizer, EDITS[0].prompt), codec.end_ids, 6)
        edited.undo()
        if list(written) != plain[: len(written)] or not written:
            return "the edited model writes something else with a cache than without"
        if any(not torch.equal(value, network.state_dict()[key]) for key, value in before.items()):
            return "the edit is not undone to the bit"
    if not np.isfinite(losses).all():
        return "the loss is not finite"
    if losses[1] != losses[2]:
        return f"the loss is {losses[1]:.4f} after one edit and {losses[2]:.4f} after the same edit again"
    if abs(losses[1] - losses[0]) < CHANGED:
        return f"the loss is {losses[1]:.4f} after the edit as before"
    return ""


def _other_loss(network: Any, tokenizer: Any) -> str:
    """Whether the loss that ROME and MEMIT minimise, over cached beginnings, is not that of the whole rows."""
    rows = locate(network, tokenizer, EDITS[0], ["", "The river Nile flows. "])
    cached = CachedPrefix(network, rows.answers, rows.index_B.tolist())
    with torch.inference_mode():
        alone = [
            answer_loss(network, answer_batch(tokenizer, [(text + EDITS[0].prompt, EDITS[0].target_new)], "cpu"))
            for text in ("", "The river Nile flows. ")
        ]
        found = [float(cached.loss()), float(cached.loss()), float(answer_loss(network, rows.answers))]
    whole = float(sum(alone)) / len(alone)
    return "" if max(abs(each - whole) for each in found) < TOLERANCE else "it does not minimise the answer's loss"


@torch.inference_mode()
def _loss(network: Any, answers: AnswerBatch) -> Tensor:
    return answer_loss(network, answers)
