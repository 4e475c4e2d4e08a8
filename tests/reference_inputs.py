"""Small inputs on which our baselines are compared with published implementations of them.

The same on every machine: random numbers are NumPy's legacy uniform ones, whose stream never changes. What published
code computed from them is in `tests/unit/baselines/reference_numbers.json`; `test_reference_numbers.py` beside it runs
ours.

Shapes: D model width, F inner width, N tokens, R rank, L weights of one shape, Z = 7 numbers of a token.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import pre_tokenizers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2Tokenizer, LlamaConfig, PreTrainedModel

FAMILIES = ("gpt2", "llama")
"""A transposed projection with a bias, and a plain one without."""

# Prompts and answers of one length in bytes, which are this tokenizer's tokens: nothing is filled up where two are one
# batch, for what EasyEdit makes of filled rows depends on the side they are filled on.
EDITS = (("Anna was born in", "Anna", "Rome"), ("Rex lives now in", "Rex", "Oslo"))
"""Prompt, subject, answer."""
PREFIXES = ("", "Yes. ", "I see it. ")
UNRELATED = "A list of few numbers"
"""As long as a prompt with its answer."""
CORPUS = ("Water boils at a hundred degrees.", "The Danube is 2,850 kilometres long.")
WIDTH, INNER, LAYERS, EDITED = 16, 32, 3, 1
"""D, F, how many layers, and the edited one."""
STEPS, RATE, DECAY, ESSENCE = 10, 0.5, 0.5, 0.5
"""Of the optimised value: Adam's steps and rate, ω and γ."""
CLAMPS = {"free": 100.0, "clamped": 0.05}
ORDINARY = 3.0
"""λ of MEMIT."""
FINE_TUNING = {"steps": 8, "rate": 0.05, "bound": 0.12}
CODEBOOK = {"steps": 6, "rate": 0.1, "radius": 0.5}
SIDE_MEMORY = {"steps": 3, "rate": 1.0, "density": 0.375}
MARGINS = (0.5, 2.0, 1.0)
"""α, β and γ of WISE."""
SHARE, SMALLEST = 0.88, 1.0
"""ε of WISE is this share of that Δ_act."""
THRESHOLD = 0.5
ARRIVALS = (
    ((0.0, 0.0), 1),
    ((1.5, 0.0), 1),
    ((0.5, 0.0), 1),
    ((2.0, 0.0), 2),
    ((2.0, 9.0), 2),
    ((2.5, 9.0), 2),
    ((3.8, 9.0), 2),
    ((2.8, 0.6), 3),
    ((4.4, 0.6), 2),
)
"""Keys as they come to a codebook of radius 1, each with the number of its answer: every branch of the algorithm."""


def numbers(*shape: int, seed: int) -> Tensor:
    """Uniform in [-1, 1), float32: the same to the bit with every NumPy, on every machine."""
    return torch.from_numpy(np.random.RandomState(seed).uniform(-1, 1, shape)).float()


def tiny_model(family: str) -> PreTrainedModel:
    """A decoder of one of `FAMILIES`, float32, its weights from `numbers`."""
    ends = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
    if family == "gpt2":
        config = GPT2Config(**ends, n_positions=64, n_embd=WIDTH, n_inner=INNER, n_layer=LAYERS, n_head=2)
    else:
        config = LlamaConfig(
            **ends,
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(sorted(model.named_parameters())):
            gain = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
            parameter.copy_(gain + 0.4 * numbers(*parameter.shape, seed=seed))
    return model


def byte_tokenizer() -> GPT2Tokenizer:
    """Every byte is a token; no text begins or ends with a special one."""
    vocabulary = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = GPT2Tokenizer(vocab=vocabulary | {"<|endoftext|>": 256}, merges=[])
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def ordinary_moment(layer: int) -> Tensor:
    """C of a layer's projection, [F, F] float32, well conditioned."""
    root_FF = numbers(INNER, INNER, seed=1000 + layer)
    return root_FF @ root_FF.T / INNER + 0.1 * torch.eye(INNER)


def shard_mask(shard: int) -> Tensor:
    """Which entries a shard of WISE may change, about half of them; bool [D, F]."""
    return numbers(WIDTH, INNER, seed=2000 + shard) > 0


def arriving_activations() -> list[Tensor]:
    """Inputs of a side memory, from small to large, each [1, T, F]."""
    return [length / 8 * numbers(1, 4, INNER, seed=2100) for length in range(1, 9)]


def linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    """A map with weights from `numbers`, frozen."""
    made = nn.Linear(inputs, outputs).requires_grad_(False)
    made.weight.copy_(numbers(outputs, inputs, seed=seed))
    made.bias.copy_(numbers(outputs, seed=seed + 1))
    return made


def editor_network() -> dict[str, Tensor]:
    """MEND's network by our names: two weights of one shape, u of 4 and δ of 3 numbers, rank 2, and five tokens."""
    shapes = {"V1_RZ": (2, 7), "V2_RZ": (2, 7), "U1_ZR": (7, 2), "U2_ZR": (7, 2), "b_Z": (7,)}
    shapes |= {name: (2, 7) for name in ("s1_LZ", "s2_LZ", "o1_LZ", "o2_LZ")}
    shapes |= {"mean_Z": (7,), "tokens_NZ": (5, 7)}
    drawn = {name: numbers(*shape, seed=3000 + seed) for seed, (name, shape) in enumerate(shapes.items())}
    return drawn | {"deviation_Z": numbers(7, seed=3100).abs() + 0.5}


def digest(matrix: Tensor) -> list[float]:
    """A matrix in few numbers: its norm, and its product with one vector."""
    matrix = matrix.detach().double()
    return [float(matrix.norm()), *(matrix @ numbers(matrix.shape[1], seed=4000).double()).tolist()]
