"""MEND's hyper-network: from the gradient of one linear layer to the edit of that layer.

The gradient of y = W u for a batch is a sum of outer products, one a token, so a network may look at the two vectors
instead of the matrix (Mitchell et al. 2022, sections 2-3, https://arxiv.org/abs/2110.11309):

    ∇W = Σ_n δ_n u_nᵀ,   u the layer's input, δ the gradient of the loss by the layer's output
    z  = [(u - mean_u) / std_u ; (δ - mean_δ) / std_δ]
    h  = z + σ(s¹ ⊙ (U₁ V₁ z + b) + o¹),   g(z) = h + σ(s² ⊙ U₂ V₂ h + o²)      (their eq. 3)
    ũ  = u + std_u ⊙ (g(z) - z)_u,   δ̃ = δ + std_δ ⊙ (g(z) - z)_δ
    W̃  = W - α Σ_n δ̃_n ũ_nᵀ

U, V, b are shared by all weights of one shape; s, o (at first 1 and 0) and the step size α belong to one weight. U is
zero at first, so g is the identity and the edit is the plain fine-tuning step. One departure from the published code:
there g's output is used as it is, normalised; here what g adds is scaled back, so that the step before any training is
the gradient itself and not its normalised image. α = rate / (rms_u rms_δ): `rate` is then how far one token moves one
entry of W, in the published unit, on every model. The logarithm of the rate is learnt, not α itself, since a layer
would stop learning if α reached zero or less.

This module does not know edits, losses or how the network is trained.

Shape legend: N tokens, I and O a layer's input and output width, Z = I + O, R rank, L weights of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# Without it, an entry with nearly no variance in the statistics would turn a small deviation into a huge input.
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class LinearMap:
    """A linear layer whose weight is edited: its dotted name, and the module (`nn.Linear` or GPT-2's `Conv1D`)."""

    path: str
    module: nn.Linear | Conv1D

    @property
    def weight_path(self) -> str:
        """The weight's name among the model's parameters."""
        return f"{self.path}.weight"

    @property
    def widths(self) -> tuple[int, int]:
        """(I, O)."""
        rows, columns = self.module.weight.shape
        return (rows, columns) if isinstance(self.module, Conv1D) else (columns, rows)

    def as_stored(self, W_OI: Tensor) -> Tensor:
        """A matrix of the map in the weight's own layout: Conv1D stores the transpose."""
        return W_OI.T if isinstance(self.module, Conv1D) else W_OI


@dataclass(frozen=True)
class GradientFactors:
    """A weight's gradient as factors: u_NI and delta_NO, float32; tokens whose delta is zero are left out."""

    u_NI: Tensor
    delta_NO: Tensor

    def gradient_OI(self) -> Tensor:
        """Σ_n δ_n u_nᵀ, the gradient itself."""
        return self.delta_NO.T @ self.u_NI


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """While the block runs, no parameter of `model` requires a gradient and dropout is off."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trained = [module for module in model.modules() if module.training]
    model.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
        for module in trained:
            module.training = True


def gradient_factors(model: nn.Module, maps: Sequence[LinearMap], loss: Callable[[], Tensor]) -> list[GradientFactors]:
    """The gradient of `loss()`, a scalar computed by running `model`, by every weight of `maps`, as factors.

    Only the part of the model that comes after the first of `maps` is differentiated.
    """
    inputs: list[list[Tensor]] = [[] for _ in maps]
    outputs: list[list[Tensor]] = [[] for _ in maps]
    with ExitStack() as stack:
        stack.enter_context(frozen(model))
        stack.enter_context(torch.enable_grad())
        for number, linear in enumerate(maps):
            handle = linear.module.register_forward_hook(_recorder(inputs[number], outputs[number]))
            stack.callback(handle.remove)
        flat = torch.autograd.grad(loss(), [output for calls in outputs for output in calls])
    deltas = iter(flat)
    return [
        _without_still_tokens([(u, next(deltas)) for u in calls])  # one pair a call of the module
        for calls in inputs
    ]


def _recorder(inputs: list[Tensor], outputs: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def record(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # With every parameter frozen there is no graph yet: adding a zero that requires a gradient starts one.
        traced = output + output.new_zeros((), requires_grad=True)
        inputs.append(arguments[0].detach())
        outputs.append(traced)
        return traced

    return record


def _without_still_tokens(calls: Sequence[tuple[Tensor, Tensor]]) -> GradientFactors:
    """Removes padding and tokens without a gradient, since g could turn their zero gradient into an update."""
    u_NI = torch.cat([u.flatten(0, -2) for u, _ in calls]).float()
    delta_NO = torch.cat([delta.flatten(0, -2) for _, delta in calls]).float()
    moved_N = (delta_NO != 0).any(-1)
    return GradientFactors(u_NI[moved_N], delta_NO[moved_N])


class EditorNetwork(nn.Module):
    """g of eq. 3 for `weights` weights of one shape; Z is the width of [u; δ], `rank` is cut to Z.

    V's entries are standard normal, drawn from `generator`; all other parameters are zero, so that the output is zero.
    """

    def __init__(self, width: int, rank: int, weights: int, generator: torch.Generator) -> None:
        super().__init__()
        rank = min(rank, width)
        self.V1_RZ = nn.Parameter(torch.randn(rank, width, generator=generator))
        self.V2_RZ = nn.Parameter(torch.randn(rank, width, generator=generator))
        self.U1_ZR = nn.Parameter(torch.zeros(width, rank))
        self.U2_ZR = nn.Parameter(torch.zeros(width, rank))
        self.b_Z = nn.Parameter(torch.zeros(width))
        self.s1_LZ = nn.Parameter(torch.ones(weights, width))
        self.s2_LZ = nn.Parameter(torch.ones(weights, width))
        self.o1_LZ = nn.Parameter(torch.zeros(weights, width))
        self.o2_LZ = nn.Parameter(torch.zeros(weights, width))

    def forward(self, z_NZ: Tensor, weight: int) -> Tensor:
        """g(z) - z for the weight numbered `weight` among those of its shape, [N, Z]."""
        # σ is a clamp: its slope at 0 is 1, while that of `relu` is 0, so that U would stay zero.
        low_NZ = z_NZ @ self.V1_RZ.T @ self.U1_ZR.T + self.b_Z
        first_NZ = (self.s1_LZ[weight] * low_NZ + self.o1_LZ[weight]).clamp(min=0)
        low_NZ = (z_NZ + first_NZ) @ self.V2_RZ.T @ self.U2_ZR.T
        second_NZ = (self.s2_LZ[weight] * low_NZ + self.o2_LZ[weight]).clamp(min=0)
        return first_NZ + second_NZ


class Spread:
    """Mean, standard deviation and root mean square of vectors, taken batch by batch in float64."""

    def __init__(self, width: int) -> None:
        self._count = 0
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._squares = torch.zeros(width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Add `rows`, [N, width]."""
        rows = rows.detach().double().cpu()
        self._count += len(rows)
        self._sum += rows.sum(0)
        self._squares += rows.square().sum(0)

    def mean(self) -> Tensor:
        """[width] float32."""
        return (self._sum / self._count).float()

    def deviation(self) -> Tensor:
        """[width] float32, with a lower bound relative to the vectors' size."""
        variance = self._squares / self._count - (self._sum / self._count).square()
        return variance.clamp(min=(_LEAST_SPREAD * self.size()) ** 2).sqrt().float()

    def size(self) -> float:
        """The root mean square of all entries."""
        return float((self._squares / self._count).mean().sqrt())


class GradientTransform(nn.Module):
    """The hyper-network for a set of weights: `maps`, and the learnt parameters by map number.

    Args:
        maps: the layers that are edited; a shape's network is shared by all maps of that shape.
        rank: R. rate: the initial rate of every weight. seed: of the initial random numbers.
    """

    def __init__(self, maps: Sequence[LinearMap], rank: int, rate: float, seed: int) -> None:
        super().__init__()
        self.maps = list(maps)
        shapes = list(dict.fromkeys(linear.widths for linear in maps))
        of_shape = {shape: [linear for linear in maps if linear.widths == shape] for shape in shapes}
        self._place = [(_name(linear.widths), of_shape[linear.widths].index(linear)) for linear in maps]
        generator = torch.Generator().manual_seed(seed)
        self.networks = nn.ModuleDict(
            {_name(shape): EditorNetwork(sum(shape), rank, len(of_shape[shape]), generator) for shape in shapes}
        )
        self.log_rates = nn.Parameter(torch.full((len(maps),), rate).log())
        self.register_buffer("sizes", torch.ones(len(maps)))
        for number, linear in enumerate(maps):
            self.register_buffer(f"mean_{number}", torch.zeros(sum(linear.widths)))
            self.register_buffer(f"deviation_{number}", torch.ones(sum(linear.widths)))

    def normalise_by(self, samples: Iterable[Sequence[GradientFactors]]) -> None:
        """Take mean, spread and size of every weight's u and δ from `samples`, each a list over `maps`."""
        spreads = [(Spread(linear.widths[0]), Spread(linear.widths[1])) for linear in self.maps]
        for sample in samples:
            for (u, delta), factors in zip(spreads, sample, strict=True):
                u.add(factors.u_NI)
                delta.add(factors.delta_NO)
        for number, (u, delta) in enumerate(spreads):
            self.get_buffer(f"mean_{number}").copy_(torch.cat([u.mean(), delta.mean()]))
            self.get_buffer(f"deviation_{number}").copy_(torch.cat([u.deviation(), delta.deviation()]))
            self.get_buffer("sizes")[number] = u.size() * delta.size()

    def step_size(self, number: int) -> Tensor:
        """α of the weight `number`, a scalar."""
        return self.log_rates[number].exp() / self.get_buffer("sizes")[number]

    def forward(self, number: int, factors: GradientFactors) -> GradientFactors:
        """The pseudo-gradient of the weight `number`: ũ_NI and δ̃_NO."""
        shape, weight = self._place[number]
        raw_NZ = torch.cat([factors.u_NI, factors.delta_NO], dim=1)
        mean_Z, deviation_Z = self.get_buffer(f"mean_{number}"), self.get_buffer(f"deviation_{number}")
        added_NZ = self.networks[shape]((raw_NZ - mean_Z) / deviation_Z, weight)
        u_NI, delta_NO = (raw_NZ + deviation_Z * added_NZ).split(self.maps[number].widths, dim=1)
        return GradientFactors(u_NI, delta_NO)

    def change(self, number: int, factors: GradientFactors) -> Tensor:
        """-α Σ_n δ̃_n ũ_nᵀ, the change of the weight `number`, float32 in the weight's own layout."""
        pseudo_OI = self(number, factors).gradient_OI()
        return self.maps[number].as_stored(-self.step_size(number) * pseudo_OI)


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
