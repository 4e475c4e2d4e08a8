"""Small models of every family: their tokenizers, and their networks with sessions."""

from __future__ import annotations

import pytest

from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from tests.families import FAMILIES, build_family
from tests.watched_model import Watched, watch


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Codec]:
    """The tokenizer of each family."""
    folder = tmp_path_factory.mktemp("codecs")
    return {family: open_codec(build_family(family, folder / family)) for family in FAMILIES}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Watched]:
    """A model of each family, beside its network."""
    folder = tmp_path_factory.mktemp("watched")
    return {family: watch(build_family(family, folder / family, seed=3)) for family in FAMILIES}
