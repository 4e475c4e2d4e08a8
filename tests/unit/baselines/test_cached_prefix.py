"""Rows with a cached prefix give the same loss and gradient as complete rows."""

from __future__ import annotations

import pytest
import torch

from onceedit_ray.baselines.activations import shifted
from onceedit_ray.baselines.cached_prefix import CachedPrefix
from onceedit_ray.baselines.mlps import find_mlps
from onceedit_ray.baselines.subject import anchor, anchor_index
from onceedit_ray.baselines.teacher_forcing import answer_batch, answer_loss
from onceedit_ray.knowledge.edit import Edit
from tests.baseline_models import Small, small
from tests.families import FAMILIES

# Longer than the window of the family that has one.
FAR = "The city of Hamburg is in Germany, and so is Berlin, but the river Nile is not. "


@pytest.fixture(scope="module", params=FAMILIES)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    return small(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("prefixes", [[""], ["", FAR, "You know. "]])
@pytest.mark.parametrize(
    ("prompt", "subject"), [("Who is the mother of Marie Curie?", "Marie Curie"), ("Danielle is", "D")]
)
def test_loss_and_gradient_are_those_of_whole_rows(
    given: Small, prompt: str, subject: str, prefixes: list[str]
) -> None:
    places = [anchor(Edit(prompt=prompt, subject=subject, target_new="x")).after(prefix) for prefix in prefixes]
    batch = answer_batch(given.tokenizer, [(place.text, "Italian, then") for place in places], "cpu")
    index_B = torch.tensor([anchor_index(given.tokenizer, place) for place in places])
    module = find_mlps(given.model)[0].projection
    generator = torch.Generator().manual_seed(0)
    shift_D = torch.randn(given.model.get_input_embeddings().weight.shape[1], generator=generator, requires_grad=True)

    with shifted(module, index_B, shift_D.expand(len(places), -1)):
        whole = answer_loss(given.model, batch)
    (whole_gradient,) = torch.autograd.grad(whole, shift_D)

    cached = CachedPrefix(given.model, batch, index_B.tolist())
    for _ in range(2):  # the second run must find the heads as the first one did
        with shifted(module, torch.zeros_like(index_B), shift_D.expand(len(places), -1)):
            loss = cached.loss()
        (gradient,) = torch.autograd.grad(loss, shift_D)
        torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradient, whole_gradient, rtol=1e-4, atol=1e-5)
    assert whole_gradient.abs().max() > 1e-4
