"""A port is tried before anything is loaded."""

from __future__ import annotations

import socket

import pytest

from onceedit_ray.errors import ConfigError
from onceedit_ray.serving.listening import free_port


def test_a_taken_port_is_one_line_that_names_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port} .*in use.*--metrics-port") as raised:
            free_port("127.0.0.1", port, "--metrics-port")
    assert "\n" not in str(raised.value)
    assert free_port("127.0.0.1", port) == port, "and it is left free"


def test_any_port_and_none() -> None:
    assert free_port("127.0.0.1", 0) > 0
    for wrong in (-1, 70000):
        with pytest.raises(ConfigError, match="choose another with --port"):
            free_port("127.0.0.1", wrong)
