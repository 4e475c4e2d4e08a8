"""Keys: where they are read from, whom they admit, and which addresses need them."""

from __future__ import annotations

from pathlib import Path

import pytest

from onceedit_ray.errors import ConfigError
from onceedit_ray.serving.keys import KEYS_VARIABLE, Keys, check_binding, is_loopback, read_keys


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        ("Bearer a-long-key", True),
        ("bearer  a-long-key ", True),
        ("Bearer other-key", False),
        ("Basic a-long-key", False),
        ("a-long-key", False),
        ("Bearer", False),
        ("Bearer \udcff\xff", False),
        ("", False),
    ],
)
def test_a_key_is_needed_where_there_are_keys(header: str, admitted: bool) -> None:
    assert Keys(["another-key", "a-long-key"]).admits(header) is admitted
    assert Keys().admits(header)


def test_keys_come_from_the_environment_and_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    assert not read_keys()
    monkeypatch.setenv(KEYS_VARIABLE, "first-key, second-key,")
    (tmp_path / "keys").write_text("# of the team\n\nthird-key  # Ana\n")
    keys = read_keys(tmp_path / "keys")
    assert all(keys.admits(f"Bearer {name}-key") for name in ("first", "second", "third"))
    assert not keys.admits("Bearer # of the team")


@pytest.mark.parametrize(
    ("text", "said"), [("short\n", "8 ASCII"), ("# none\n", "holds no key"), ("two words\n", "no space")]
)
def test_a_file_without_usable_keys_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        read_keys(tmp_path / "keys")
    assert text.strip() not in str(caught.value), "a key is not repeated"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_without_keys_only_the_loopback_is_served() -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"):
        assert is_loopback(host)
        check_binding(host, Keys())
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "::ffff:10.0.0.1"):
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match=r"only 127\.0\.0\.1"):
            check_binding(host, Keys())
        check_binding(host, Keys(["a-long-key"]))


def test_a_comment_goes_to_the_end_of_its_line(tmp_path: Path) -> None:
    """Form feeds and U+2028 end none."""
    (tmp_path / "keys").write_text("third-key\r\n# not\u2028fourth-key\x0cfifth-key\n", encoding="utf-8")
    keys = read_keys(tmp_path / "keys")
    assert keys.admits("Bearer third-key")
    assert not keys.admits("Bearer fourth-key") and not keys.admits("Bearer fifth-key")
