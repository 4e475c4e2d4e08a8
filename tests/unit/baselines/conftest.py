"""Small random models for the baselines to edit. A test that changes one restores it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import small_edits
from tests.baseline_models import Small, small
from tests.families import FAMILIES
from tests.small_edits import LoadedModel, open_family


@pytest.fixture(scope="module", params=FAMILIES)
def given(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A model of each family in turn."""
    return small(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """One model, for what does not differ between families."""
    return small("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module", params=small_edits.FAMILIES)
def open_fresh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], LoadedModel]:
    """Opens a model of each of three families in turn, afresh at each call."""
    return open_family(request.param, tmp_path_factory.mktemp("one-layer"))
