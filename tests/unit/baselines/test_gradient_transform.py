"""Gradients as factors: exactly the fine-tuning gradient before any training, for Linear and Conv1D alike."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from onceedit_ray.baselines.gradient_transform import (
    EditorNetwork,
    GradientFactors,
    GradientTransform,
    LinearMap,
    Spread,
    gradient_factors,
)
from onceedit_ray.baselines.methods.mend import edited_maps
from tests.families import build_family

IDS = torch.tensor([[5, 17, 40, 33, 21, 60], [9, 12, 77, 50, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


@pytest.fixture(scope="module", params=["llama", "gpt2", "gptj", "gemma3"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = build_family(request.param, tmp_path_factory.mktemp(request.param) / "model")
    return AutoModelForCausalLM.from_pretrained(folder).double().eval()


def loss_of(model: PreTrainedModel) -> Tensor:
    """-log P of the last two real tokens of each row."""
    logits = model(input_ids=IDS, attention_mask=MASK).logits
    return F.cross_entropy(logits[0, 3:5], IDS[0, 4:6]) + F.cross_entropy(logits[1, 1:3], IDS[1, 2:4])


def test_factors_before_training_are_the_fine_tuning_step(model: PreTrainedModel) -> None:
    maps = edited_maps(model, 2)
    samples = gradient_factors(model, maps, lambda: loss_of(model))
    transform = GradientTransform(maps, rank=8, rate=0.01, seed=1)
    transform.normalise_by([samples])
    weights = [model.get_parameter(linear.weight_path) for linear in maps]
    gradients = torch.autograd.grad(loss_of(model), weights)
    for number, (linear, factors) in enumerate(zip(maps, samples, strict=True)):
        exact = linear.as_stored(factors.gradient_OI())
        torch.testing.assert_close(exact.double(), gradients[number], rtol=1e-4, atol=1e-6)
        change = transform.change(number, factors)
        assert change.shape == weights[number].shape
        assert torch.equal(change, linear.as_stored(-transform.step_size(number) * factors.gradient_OI()))


def test_nothing_of_the_model_is_left_changed(model: PreTrainedModel) -> None:
    maps = edited_maps(model, 2)
    model.requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    model.train()
    before = loss_of(model.eval())
    asked = [parameter.requires_grad for parameter in model.parameters()]
    model.train()
    gradient_factors(model, maps, lambda: loss_of(model))
    assert model.training
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(loss_of(model.eval()), before)
    model.requires_grad_(True)


def test_only_tokens_the_loss_depends_on_are_kept(model: PreTrainedModel) -> None:
    maps = edited_maps(model, 2)
    factors = gradient_factors(model, maps, lambda: loss_of(model))
    # the last layer's MLP is followed by no attention: its tokens are the four whose logits enter the loss
    assert len(factors[-1].u_NI) == 4
    # the layer before it is read by attention at every token up to those: 5 of the first row, 3 of the second
    assert len(factors[0].u_NI) == 8


def test_a_layer_called_twice_gives_both_calls_tokens() -> None:
    layer = nn.Linear(3, 3, bias=False)
    x = torch.randn(1, 2, 3)
    (factors,) = gradient_factors(layer, [LinearMap("", layer)], lambda: layer(layer(x)).square().sum())
    assert len(factors.u_NI) == 4
    (gradient,) = torch.autograd.grad(layer(layer(x)).square().sum(), [layer.weight])
    torch.testing.assert_close(factors.gradient_OI(), gradient)


def network(width: int = 2) -> EditorNetwork:
    return EditorNetwork(width, rank=8, weights=2, generator=torch.Generator().manual_seed(0))


def test_the_network_is_the_identity_at_first_and_can_leave_it() -> None:
    editor = network(width=5)
    z = torch.randn(3, 5)
    added = editor(z, 1)
    assert torch.equal(added, torch.zeros(3, 5))
    added.sum().backward()
    assert editor.U1_ZR.grad is not None and bool(editor.U1_ZR.grad.any())
    assert editor.U2_ZR.grad is not None and bool(editor.U2_ZR.grad.any())


def test_the_network_computes_equation_3() -> None:
    editor = network()
    with torch.no_grad():
        for name, value in {"V1_RZ": torch.eye(2), "U1_ZR": torch.eye(2), "V2_RZ": torch.eye(2)}.items():
            getattr(editor, name).copy_(value)
        editor.U2_ZR.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        editor.b_Z.copy_(torch.tensor([1.0, 1.0]))
        editor.s1_LZ[1] = torch.tensor([2.0, 3.0])
        editor.o1_LZ[1] = torch.tensor([0.0, 1.0])
        editor.s2_LZ[1] = torch.tensor([0.5, 1.0])
    z = torch.tensor([[1.0, -2.0]])
    # first: 2 (1 + 1) + 0 = 4 and 3 (-2 + 1) + 1 = -2, clamped to 0; h = (5, -2)
    # second: U2 V2 h = (-2, 5); 0.5 * -2 clamped to 0, and 5
    assert editor(z, 1).tolist() == [[4.0, 5.0]]


def test_rank_is_cut_to_the_width() -> None:
    assert network(width=2).V1_RZ.shape == (2, 2)


def test_weights_of_one_shape_share_a_network_but_not_scale_offset_and_rate() -> None:
    maps = [LinearMap("a", nn.Linear(3, 4)), LinearMap("b", Conv1D(4, 3)), LinearMap("c", nn.Linear(4, 3))]
    transform = GradientTransform(maps, rank=2, rate=0.1, seed=0)
    assert set(transform.networks) == {"3x4", "4x3"}
    factors = GradientFactors(torch.ones(1, 3), torch.ones(1, 4))
    with torch.no_grad():
        transform.networks["3x4"].o2_LZ[1] = 1.0
        transform.log_rates[1] += math.log(2)
    # deviations are 1 and sizes are 1 before `normalise_by`: only b's u and delta grow from 1 to 2
    torch.testing.assert_close(transform.change(0, factors), torch.full((4, 3), -0.1))
    torch.testing.assert_close(transform.change(1, factors), torch.full((3, 4), -0.8))


def test_what_the_network_adds_is_scaled_to_the_inputs_spread() -> None:
    maps = [LinearMap("a", nn.Linear(1, 1))]
    transform = GradientTransform(maps, rank=1, rate=1.0, seed=0)
    samples = [[GradientFactors(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.1], [-0.1]]))]]
    transform.normalise_by(samples)
    with torch.no_grad():
        transform.networks["1x1"].o2_LZ[0] = torch.tensor([2.0, 3.0])
    pseudo = transform(0, GradientFactors(torch.tensor([[5.0]]), torch.tensor([[0.2]])))
    torch.testing.assert_close(pseudo.u_NI, torch.tensor([[5.0 + 2.0 * 1.0]]))  # deviation of 1, 3
    torch.testing.assert_close(pseudo.delta_NO, torch.tensor([[0.2 + 3.0 * 0.1]]))  # deviation of 0.1, -0.1
    # root mean squares: sqrt(5) and 0.1
    torch.testing.assert_close(transform.step_size(0), torch.tensor(1.0 / (5**0.5 * 0.1)))


def test_spread_by_batches() -> None:
    spread = Spread(2)
    spread.add(torch.tensor([[1.0, 7.0]]))
    spread.add(torch.tensor([[2.0, 7.0], [3.0, 7.0]]))
    assert spread.mean().tolist() == [2.0, 7.0]
    size = ((1 + 4 + 9 + 3 * 49) / 6) ** 0.5
    assert spread.size() == pytest.approx(size)
    deviation = spread.deviation()
    assert float(deviation[0]) == pytest.approx((2 / 3) ** 0.5)
    assert float(deviation[1]) == pytest.approx(1e-3 * size)  # never varied: kept off zero


def test_the_start_hangs_on_the_seed() -> None:
    maps = [LinearMap("a", nn.Linear(3, 4))]
    one, same, other = (GradientTransform(maps, 2, 0.1, seed).networks["3x4"].V1_RZ for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
