"""A decoder over taught models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from onceedit_ray.fusion.decoder import FusedDecoder
from tests.small_decoding import decoder_of, open_sessions
from tests.small_system import TaughtModels


@pytest.fixture
def decoder(models: TaughtModels) -> Iterator[FusedDecoder]:
    """A decoder whose gate is always open; whatever a test does, every session must be closed after it."""
    yield decoder_of(models, weight=0.6)
    assert open_sessions(models) == 0
