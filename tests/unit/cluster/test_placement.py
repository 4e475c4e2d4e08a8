"""How long a reservation waits, as the environment says it."""

import pytest

from onceedit_ray.cluster.placement import WAIT_VARIABLE, reserve_all
from onceedit_ray.errors import ConfigError


def test_what_is_no_number_of_seconds_is_one_line(monkeypatch):
    monkeypatch.setenv(WAIT_VARIABLE, "20 minutes")
    with pytest.raises(ConfigError, match=r"^ONCEEDIT_WAIT_SECONDS=20 minutes is no number of seconds; give one"):
        reserve_all({})
    monkeypatch.setenv(WAIT_VARIABLE, "1200")
    assert reserve_all({}) == {}
