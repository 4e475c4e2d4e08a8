"""Which secrets an added target may use, and where they may be sent."""

from __future__ import annotations

import pytest

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ConfigError
from onceedit_ray.serving.engine_keys import EngineKeys, origin_of


def target(url: str, key_env: str = "LLM_KEY") -> ModelConfig:
    return ModelConfig(engine="openai", url=url, key_env=key_env, model="auto")


@pytest.mark.parametrize(
    "url",
    ["https://llm.example.com/v1", "https://LLM.example.com:443/other/v1", "https://llm.example.com./v1"],
)
def test_a_key_goes_to_the_server_that_the_operator_named(url: str) -> None:
    EngineKeys(["LLM_KEY=https://llm.example.com"]).check(target(url))
    EngineKeys(served={"own": target("https://llm.example.com/v1")}).check(target(url))


@pytest.mark.parametrize(
    ("url", "key_env"),
    [
        ("https://evil.example.com/v1", "LLM_KEY"),
        ("http://llm.example.com/v1", "LLM_KEY"),
        ("https://llm.example.com:8443/v1", "LLM_KEY"),
        ("https://llm.example.com.evil.com/v1", "LLM_KEY"),
        ("https://llm.example.com/v1", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_to_no_other_server_and_no_other_secret(url: str, key_env: str) -> None:
    with pytest.raises(ConfigError, match="--engine-key"):
        EngineKeys(["LLM_KEY=https://llm.example.com"]).check(target(url, key_env))


def test_a_target_without_a_key_needs_no_permission() -> None:
    EngineKeys().check(target("http://127.0.0.1:8001/v1", key_env=""))


@pytest.mark.parametrize("pair", ["LLM_KEY", "=https://a", "LLM_KEY=", "LLM_KEY=ftp://a", "LLM_KEY=https://u:p@a"])
def test_a_wrong_pair_is_one_line(pair: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineKeys([pair])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://llm.example.com@evil.com/v1",
        "https://user:password@llm.example.com/v1",
        "https://llm.example.com/v1?x=1",
        "https://llm.example.com/v1#x",
        "https:///v1",
        "file:///etc/passwd",
        "llm.example.com/v1",
        "https://[::1/v1",
        "https://a\nb/v1",
        "http://a:99999999/v1",
    ],
)
def test_only_plain_addresses_are_read(url: str) -> None:
    with pytest.raises(ConfigError):
        origin_of(url)


def test_a_backslash_does_not_hide_the_server() -> None:
    try:
        origin = origin_of("https://llm.example.com\\@evil.com/v1")
    except ConfigError:
        return
    assert origin[1] != "llm.example.com"
