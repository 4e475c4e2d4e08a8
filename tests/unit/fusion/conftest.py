"""A decoder over taught models, and the codec of scripted ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from onceedit_ray.config import AlignmentConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.strategies import Pair
from onceedit_ray.fusion.system import pair_up
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.sources import ModelFolder, resolve
from tests.families import build_family
from tests.small_decoding import decoder_of, open_sessions
from tests.small_system import TaughtModels


@pytest.fixture
def decoder(models: TaughtModels) -> Iterator[FusedDecoder]:
    """A decoder whose gate is always open; whatever a test does, every session must be closed after it."""
    yield decoder_of(models, weight=0.6)
    assert open_sessions(models) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return resolve(str(build_family("gpt2", tmp_path_factory.mktemp("selective") / "gpt2")))


@pytest.fixture(scope="module")
def codec(folder: ModelFolder) -> Codec:
    return open_codec(folder.path)


@pytest.fixture(scope="module")
def pair(folder: ModelFolder, codec: Codec) -> Pair:
    return pair_up(folder, codec, folder, codec, AlignmentConfig())
