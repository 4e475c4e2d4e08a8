"""Our baselines compared with published implementations, on the same small inputs.

`reference_numbers.json` holds what functions of the published code computed when they were called with the inputs of
`tests/reference_inputs.py`, and says from which repository, commit and files each number is; none of that code is here.
A test's docstring says where ours differs on purpose.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from onceedit_ray.baselines import Material
from onceedit_ray.baselines.edited_model import CurrentQuestion
from onceedit_ray.baselines.gradient_transform import (
    GradientFactors,
    GradientTransform,
    LinearMap,
    Spread,
    gradient_factors,
)
from onceedit_ray.baselines.methods import memit as memit_module
from onceedit_ray.baselines.methods import rome as rome_module
from onceedit_ray.baselines.methods import wise as wise_module
from onceedit_ray.baselines.methods.defer import Deferral
from onceedit_ray.baselines.methods.fine_tune_layer import FineTuneLayer, FineTuneLayerSettings
from onceedit_ray.baselines.methods.grace import Codebook, Grace, GraceSettings
from onceedit_ray.baselines.methods.memit import Memit, MemitSettings, edit_key
from onceedit_ray.baselines.methods.rome import Rome, RomeSettings
from onceedit_ray.baselines.methods.wise import SideMemory, Wise, WiseSettings, margin_loss, ties
from onceedit_ray.baselines.mlps import Mlp, find_mlps
from onceedit_ray.baselines.second_moment import second_moments
from onceedit_ray.baselines.target_value import Located, TargetSettings, bare_output, keys_of, locate, target_shift
from onceedit_ray.baselines.teacher_forcing import answer_batch, answer_loss
from onceedit_ray.knowledge.edit import Edit
from tests import reference_inputs as inputs

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference_numbers.json").read_text())
EDITS = [Edit(prompt=prompt, subject=subject, target_new=answer) for prompt, subject, answer in inputs.EDITS]
TOKENIZER = inputs.byte_tokenizer()
SHARED = {"steps": inputs.STEPS, "learning_rate": inputs.RATE, "decay": inputs.DECAY, "goal": 0.0}
families = pytest.mark.parametrize("family", inputs.FAMILIES)


def same(ours: Tensor | list[float], reference: Any, share: float = 2e-5) -> None:
    """Equal but for a share of the largest number: six digits are kept, and the arithmetic is float32."""
    reference = torch.tensor(reference, dtype=torch.float64)
    ours = torch.as_tensor(ours).detach().double()
    torch.testing.assert_close(ours, reference, rtol=0, atol=share * float(reference.abs().max()))


def opened(family: str) -> tuple[PreTrainedModel, Mlp]:
    """A fresh model, and the MLP that is edited."""
    model = inputs.tiny_model(family)
    return model, find_mlps(model)[inputs.EDITED]


def where_published(located: Located) -> Located:
    """The published code compares what "{subject} is a" predicts at the subject; the paper, and ours, at its end."""
    assert located.essence is not None
    ids_1T, index_1 = located.essence
    return Located(located.edit, located.answers, located.index_B, (ids_1T[:, : int(index_1) + 1], index_1))


@families
@pytest.mark.parametrize("which", ["one prefix", "prefixes", "clamped", "essence"])
def test_rome(family: str, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank-one update, and so u, v* and δ.

    With several prefixes the published code divides by uᵀk of the bare prompt, ours, as the paper's eq. 2, by uᵀk*, and
    so the updates differ by a factor. Adam steps once less there: `v_num_grad_steps` - 1.
    """
    prefixes = inputs.PREFIXES[:1] if which == "one prefix" else inputs.PREFIXES
    model, mlp = opened(family)
    C_FF = inputs.ordinary_moment(inputs.EDITED)
    monkeypatch.setattr(rome_module, "second_moments", lambda *_: {inputs.EDITED: C_FF})
    monkeypatch.setattr(rome_module, "context_prefixes", lambda *_: prefixes)
    monkeypatch.setattr(rome_module, "locate", lambda *arguments: where_published(locate(*arguments)))
    settings = RomeSettings(
        **SHARED,
        depth=inputs.EDITED / inputs.LAYERS,
        essence=inputs.ESSENCE if which == "essence" else 0.0,
        clamp=inputs.CLAMPS["clamped" if which == "clamped" else "free"],
    )
    rome = Rome(settings)
    rome.prepare(model, TOKENIZER, Material((), (), (), Path(), ""), [].append)
    for edit, reference in zip(EDITS, REFERENCE["rome"][family][which], strict=True):
        before_DF = mlp.matrix_DF.detach().clone()
        located = locate(model, TOKENIZER, edit, prefixes)
        keys_BF = keys_of(model, mlp, located)
        u_F = torch.linalg.solve(C_FF, keys_BF.mean(0))
        factor = (u_F @ keys_BF.mean(0)) / (u_F @ keys_BF[0])
        edited = rome.edit(model, TOKENIZER, [edit], [].append)
        update_DF = mlp.matrix_DF.detach() - before_DF
        edited.undo()
        if which == "one prefix":
            assert float(factor) == pytest.approx(1, abs=1e-6)
        same(inputs.digest(factor * update_DF), reference)


@families
@pytest.mark.parametrize(("which", "essence"), [("z", 0.0), ("z clamped", 0.0), ("z essence", inputs.ESSENCE)])
def test_the_value_that_memit_aims_at(family: str, which: str, essence: float) -> None:
    """z of each edit; with γ where the published code takes the divergence, at the subject (see `where_published`)."""
    model, mlp = opened(family)
    layer = model.get_submodule(mlp.layer_path)
    clamp = inputs.CLAMPS["clamped" if "clamped" in which else "free"]
    settings = TargetSettings(**SHARED, essence=essence, clamp=clamp)
    for edit, reference in zip(EDITS, REFERENCE["memit"][family][which], strict=True):
        located = where_published(locate(model, TOKENIZER, edit, inputs.PREFIXES))
        same(bare_output(model, layer, located) + target_shift(model, layer, located, settings), reference)


@families
def test_the_keys_of_rome_and_memit(family: str) -> None:
    """ROME's is the mean over all prefixes; MEMIT's published code gives the empty one half of the weight."""
    model, mlp = opened(family)
    reference = REFERENCE["memit"][family]
    every = [locate(model, TOKENIZER, edit, inputs.PREFIXES) for edit in EDITS]
    same(inputs.digest(torch.stack([keys_of(model, mlp, each).mean(0) for each in every])), reference["keys"])
    same(inputs.digest(torch.stack([edit_key(model, mlp, each) for each in every])), reference["keys in groups"])


@families
def test_memit_over_two_layers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Δ of both layers: each closed form, what is left for the second, and the share that each is given."""
    model, _ = opened(family)
    monkeypatch.setattr(memit_module, "second_moments", lambda *_: {n: inputs.ordinary_moment(n) for n in range(2)})
    monkeypatch.setattr(memit_module, "context_prefixes", lambda *_: inputs.PREFIXES)
    settings = MemitSettings(
        **SHARED,
        depths=(0.0, inputs.EDITED / inputs.LAYERS),
        essence=0.0,
        clamp=inputs.CLAMPS["free"],
        ordinary=inputs.ORDINARY / inputs.INNER,
    )
    memit = Memit(settings)
    memit.prepare(model, TOKENIZER, Material((), (), (), Path(), ""), [].append)
    before = [mlp.matrix_DF.detach().clone() for mlp in find_mlps(model)]
    memit.edit(model, TOKENIZER, EDITS, [].append)
    for mlp, before_DF, reference in zip(find_mlps(model), before, REFERENCE["memit"][family]["updates"], strict=False):
        same(inputs.digest(mlp.matrix_DF - before_DF), reference)


@families
def test_second_moment(family: str, tmp_path: Path) -> None:
    """C over a corpus, token by token."""
    model, mlp = opened(family)
    corpus = Material(inputs.CORPUS, (), (), tmp_path, "")
    same(
        inputs.digest(second_moments(model, TOKENIZER, [mlp], corpus, 10, [].append)[inputs.EDITED]),
        REFERENCE["second moment"][family],
    )


def test_grace_codebook() -> None:
    """Radii as keys arrive, and what the codebook gives. A split leaves the older radius 1e-5 smaller there."""
    layer = inputs.linear(2, 3, seed=5000)
    book = Codebook(layer, CurrentQuestion(), torch.empty(0, 2), torch.empty(0, 3), torch.empty(0))
    answers: list[str] = []
    for (key, answer), reference in zip(inputs.ARRIVALS, REFERENCE["grace"]["radii"], strict=True):
        key_F = torch.tensor(key)
        book.make_room(key_F, str(answer), answers, 1.0, layer(key_F))
        torch.testing.assert_close(book.radii_K, torch.tensor(reference), rtol=0, atol=1.1e-5)
    keys_KF = torch.tensor([key for key, _ in inputs.ARRIVALS])
    same(book(keys_KF[:, None].expand(-1, 2, -1) + 0.05)[:, 1], REFERENCE["grace"]["outputs"])


def test_grace_edits_of_a_model() -> None:
    """Keys, radii and learnt values of two edits; ours may stop early, and is kept from it here."""
    settings = GraceSettings(
        depth=inputs.EDITED / inputs.LAYERS,
        radius=inputs.CODEBOOK["radius"],
        learning_rate=inputs.CODEBOOK["rate"],
        steps=int(inputs.CODEBOOK["steps"]),
        relative=False,
        enough=1e-9,
    )
    model, mlp = opened("llama")
    Grace(settings).edit(model, TOKENIZER, EDITS, [].append)
    book, reference = model.get_submodule(mlp.projection_path), REFERENCE["grace"]
    assert isinstance(book, Codebook)
    same(inputs.digest(book.keys_KF), reference["keys"])
    same(book.radii_K, reference["edit radii"])
    same(book.values_KD, reference["values"])


def test_wise_merges_by_ties() -> None:
    """TIES. An entry whose signs cancel out to the bit is left out by ours and goes to the positive ones there."""
    deltas = [inputs.numbers(5, 8, seed=6001 + shard) for shard in range(2)]
    same(ties(deltas, inputs.SIDE_MEMORY["density"]), REFERENCE["wise"]["ties"])


def test_wise_measures_how_far_the_side_memory_moves_a_prompt() -> None:
    """Δ_act of two prompts. EasyEdit applies the model's activation function to both outputs first; the paper does not,
    nor does ours: the numbers are those of EasyEdit for a model whose function is the identity."""
    moved_NTD = inputs.numbers(2, 4, 8, seed=6011) - inputs.numbers(2, 4, 8, seed=6010)
    memory = SideMemory(torch.nn.Identity(), CurrentQuestion(), torch.eye(8), torch.zeros(1))
    same(memory.activations(list(moved_NTD)), REFERENCE["wise"]["moved"]["linear"])
    side_NTD, own_NTD = (F.silu(inputs.numbers(2, 4, 8, seed=seed)) for seed in (6011, 6010))
    same(memory.activations(list(side_NTD - own_NTD)), REFERENCE["wise"]["moved"]["silu"])


def test_wise_margins() -> None:
    """L_a where each of its three terms counts, some, and others."""
    own_NTD, side_NTD = inputs.numbers(2, 4, 8, seed=6010), inputs.numbers(2, 4, 8, seed=6011)
    for scale, reference in zip((0.0, 1.0, 2.0), REFERENCE["wise"]["margins"], strict=True):
        edit, unrelated = (scale * side_NTD - own_NTD).norm(dim=-1).mean(-1)
        assert float(margin_loss(edit, unrelated[None], *inputs.MARGINS)) == pytest.approx(reference, rel=1e-5)


def test_wise_merged_shards_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """W' - W of two edits, a shard each, without L_a and with the masks that the reference had; then what is routed.

    EasyEdit counts one position too many in the mean of an answer's losses, so its rate is a little smaller, and lets
    the weights decay by 1e-5 a step. It draws each entry of a mask by itself; ours picks exactly a share of them.
    """
    settled = inputs.SIDE_MEMORY
    tokens = len(" Rome")
    settings = WiseSettings(
        depth=inputs.EDITED / inputs.LAYERS,
        optimiser="sgd",
        learning_rate=settled["rate"] * tokens / (tokens + 1),
        steps=int(settled["steps"]),
        density=settled["density"],
        shards=2,
        enough=0.0,
    )
    monkeypatch.setattr(wise_module, "random_mask", lambda shape, rho, seed: inputs.shard_mask(seed))
    monkeypatch.setattr(wise_module, "margin_loss", lambda *_: torch.zeros(()))
    model, mlp = opened("llama")
    wise = Wise(settings)
    wise.prepare(model, TOKENIZER, Material((), (), (inputs.UNRELATED,), Path(), ""), [].append)
    wise.edit(model, TOKENIZER, EDITS, [].append)
    memory = model.get_submodule(mlp.projection_path)
    assert isinstance(memory, SideMemory)
    same(inputs.digest(memory.delta_DF), REFERENCE["wise"]["merged"], share=1e-4)
    memory.epsilon = torch.tensor([inputs.SHARE * inputs.SMALLEST])
    routed = [bool((memory(a_1TF) != memory.inner(a_1TF)).any()) for a_1TF in inputs.arriving_activations()]
    assert routed == REFERENCE["wise"]["routed"] and set(routed) == {False, True}


def test_fine_tuning_under_a_bound() -> None:
    """δ after some steps, part of it at the bound: EasyEdit's objective "target_new", see the editor's docstring."""
    settings = FineTuneLayerSettings(
        depth=inputs.EDITED / inputs.LAYERS,
        steps=int(inputs.FINE_TUNING["steps"]),
        learning_rate=inputs.FINE_TUNING["rate"],
        bound=inputs.FINE_TUNING["bound"],
        goal=0.0,
    )
    model, mlp = opened("llama")
    before_DF = mlp.matrix_DF.detach().clone()
    FineTuneLayer(settings).edit(model, TOKENIZER, EDITS, [].append)
    delta_DF = mlp.matrix_DF.detach() - before_DF
    assert 0.1 < (delta_DF.abs() > 0.999 * settings.bound).float().mean() < 0.9
    same(inputs.digest(delta_DF), REFERENCE["ft-l"])


def test_mend_transforms_factors() -> None:
    """g of eq. 3. Ours adds what g adds to the unnormalised vectors: at first it is the gradient, not its normalised
    image. Published: g's normalised output as it is, added with a factor that may be negative; ours is subtracted."""
    given, layer = inputs.editor_network(), inputs.linear(4, 3, seed=0)
    transform = GradientTransform([LinearMap("first", layer), LinearMap("second", layer)], rank=2, rate=1.0, seed=0)
    network = transform.networks["4x3"]
    with torch.no_grad():
        first = transform(1, GradientFactors(*given["tokens_NZ"].split([4, 3], dim=1)))
        same(torch.cat([first.u_NI, first.delta_NO], dim=1), REFERENCE["mend"]["untrained"])
        for name, parameter in network.named_parameters():
            parameter.copy_(given[name])
        z_NZ = given["tokens_NZ"] - given["mean_Z"]
        z_NZ = z_NZ / given["deviation_Z"]
        same(z_NZ + network(z_NZ, 1), REFERENCE["mend"]["transformed"])


def test_mend_normalises_by_mean_and_spread() -> None:
    """Over the same tokens; theirs is the sample's deviation, ours the tokens' own."""
    tokens_NZ = inputs.editor_network()["tokens_NZ"]
    spread = Spread(7)
    for row_1Z in tokens_NZ.split(1):
        spread.add(row_1Z)
    same(spread.mean(), REFERENCE["mend"]["spread"]["mean"])
    same(spread.deviation() * (5 / 4) ** 0.5, REFERENCE["mend"]["spread"]["deviation"])


def test_mend_takes_a_gradient_apart() -> None:
    """Σ δ uᵀ of an edit's loss."""
    model, mlp = opened("llama")
    batch = answer_batch(TOKENIZER, [(EDITS[0].prompt, EDITS[0].target_new)], "cpu")
    maps = [LinearMap(mlp.projection_path, mlp.projection)]
    (factors,) = gradient_factors(model, maps, lambda: answer_loss(model, batch))
    same(inputs.digest(factors.gradient_OI()), REFERENCE["mend"]["gradient"])


def test_defer_mixes_and_decides() -> None:
    """At the prompt's end. EasyEdit changes every position of a row alike, and asks the gate at the answer's end."""
    gate, side = inputs.linear(2, 1, 7000), inputs.linear(2, 3, 7010)
    layer = inputs.linear(2, 3, seed=5000)
    module = Deferral(layer, CurrentQuestion(), inputs.THRESHOLD, gate.weight[0], gate.bias, side.weight, side.bias)
    h_BTF = torch.tensor([[key, key] for key, _ in inputs.ARRIVALS])
    answering = module(h_BTF)[:, 1]
    same(answering, REFERENCE["defer"]["answering"])
    deferred_B = (answering != F.linear(h_BTF[:, 1], layer.weight, layer.bias)).any(-1)
    assert 0 < deferred_B.sum() < len(deferred_B)
    module.learning = True
    same(module(h_BTF)[:, 1], REFERENCE["defer"]["learning"])
