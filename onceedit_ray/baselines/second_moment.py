"""The second moment C = E[k kᵀ], the uncentred covariance of the keys k at an MLP's output projection.

ROME and MEMIT weigh a change by C, so that keys of ordinary text keep their values (Meng et al. 2022, eq. 2,
https://arxiv.org/abs/2202.05262). The mean runs over every token of a corpus. A good corpus is ordinary prose of the
kind the model was trained on. The papers take 100,000 articles of Wikipedia. The number of tokens must be much larger
than F, so a few thousand sentences are enough for a model of some hundred million parameters. Texts are streamed, all
layers in one pass, and the result is kept on disk, one file per model and layer:

    <cache>/<digest>/second_moment/<the projection's name>.safetensors

Shapes: B texts, T positions, M tokens, F inner width of the MLP.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import Material
from onceedit_ray.baselines.activations import module_inputs
from onceedit_ray.baselines.mlps import Mlp
from onceedit_ray.baselines.teacher_forcing import padded
from onceedit_ray.errors import DataError
from onceedit_ray.files import replacing
from onceedit_ray.models.loading import context_length
from onceedit_ray.progress import Count, Progress

TEXTS_AT_ONCE = 16
LONGEST = 512
"""Maximum number of tokens that are read of a text."""
_DAMAGE = (OSError, ValueError, KeyError, TypeError, SafetensorError)

logger = logging.getLogger(__name__)


def second_moments(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mlps: Sequence[Mlp],
    material: Material,
    texts: int,
    progress: Progress,
) -> dict[int, Tensor]:
    """C of each MLP by its layer, [F, F] float32 on the CPU: read from the cache, or made of the corpus.

    If a corpus is given, a statistic of another corpus or another number of texts is made again; if none is given, it
    is used.

    Args:
        texts: maximum number of texts of the corpus that are read.

    Raises:
        DataError: there is neither a corpus nor a statistic, or the corpus has too few tokens.
    """
    corpus = list(itertools.islice((text for text in material.corpus if text.strip()), texts))
    mark = _mark(corpus)
    folder = material.cache / material.digest / "second_moment"
    found: dict[int, Tensor] = {}
    for mlp in mlps:
        C_FF = _read(_file(folder, mlp), mark if corpus else None)
        if C_FF is not None:
            found[mlp.layer] = C_FF
    missing = [mlp for mlp in mlps if mlp.layer not in found]
    if not missing:
        return found
    if not corpus:
        raise DataError(
            f"no statistic for layer {missing[0].layer} in {folder} and no corpus to make it of; "
            "give a file of ordinary texts (some thousand sentences, or 100,000 articles of Wikipedia): "
            "onceedit prepare rome --model NAME --corpus FILE"
        )
    for layer, C_FF in _measured(model, tokenizer, missing, corpus, progress).items():
        found[layer] = C_FF
    for mlp in missing:
        _write(_file(folder, mlp), found[mlp.layer], mark)
    return found


@torch.no_grad()
def _measured(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    mlps: Sequence[Mlp],
    corpus: Sequence[str],
    progress: Progress,
) -> dict[int, Tensor]:
    sums: dict[int, Tensor] = {}
    tokens = read = 0
    for ids in _batches(model, tokenizer, corpus):
        ids_BT, attention_mask_BT = padded(ids, tokenizer, model.device)
        real_BT = attention_mask_BT.bool()
        keys = module_inputs(model, [mlp.projection for mlp in mlps], ids_BT, attention_mask_BT)
        for mlp, k_BTF in zip(mlps, keys, strict=True):
            k_MF = k_BTF.flatten(0, -2)[real_BT.flatten()].float()
            product_FF = k_MF.T @ k_MF
            sums[mlp.layer] = sums[mlp.layer] + product_FF if mlp.layer in sums else product_FF
        tokens += int(real_BT.sum())
        read += len(ids)
        progress(Count("reading the corpus", read, len(corpus), f"{tokens} tokens"))
    width = max(mlp.matrix_DF.shape[1] for mlp in mlps)
    if tokens < 2 * width:
        raise DataError(
            f"the corpus has {tokens} tokens, and the statistic of a layer of width {width} needs at least {2 * width};"
            " give more texts"
        )
    return {layer: (sum_FF / tokens).cpu() for layer, sum_FF in sums.items()}


def _batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Sequence[str]
) -> Iterator[list[list[int]]]:
    longest = min(LONGEST, context_length(model.config))
    for start in range(0, len(corpus), TEXTS_AT_ONCE):
        yield tokenizer(list(corpus[start : start + TEXTS_AT_ONCE]), truncation=True, max_length=longest).input_ids


def _mark(corpus: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in corpus:
        data = text.encode()
        digest.update(f"{len(data)} ".encode() + data)
    return digest.hexdigest()


def _file(folder: Path, mlp: Mlp) -> Path:
    return folder / f"{mlp.projection_path}.safetensors"


def _read(file: Path, mark: str | None) -> Tensor | None:
    """The stored statistic, if it is undamaged and, with a `mark`, of the corpus with this mark."""
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="pt") as stored:
            if mark is not None and stored.metadata()["corpus"] != mark:
                return None
            return stored.get_tensor("C_FF")
    except _DAMAGE as error:
        logger.warning("statistic %s is damaged (%s); making it again", file, " ".join(str(error).split()))
        return None


def _write(file: Path, C_FF: Tensor, mark: str) -> None:
    with replacing(file) as temporary:
        save_file({"C_FF": C_FF.contiguous()}, temporary, metadata={"corpus": mark})
