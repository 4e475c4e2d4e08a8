"""The extras of the installation."""

from __future__ import annotations

import tomllib

import pytest

from onceedit_ray import extras
from onceedit_ray.errors import ConfigError
from tests.paths import ROOT


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "plots", ("json", "no_such_package"))
    assert not extras.has_extra("plots")
    with pytest.raises(ConfigError, match=r"a figure needs no_such_package; .*'onceedit-ray\[plots\]'"):
        extras.check_extra("plots", "a figure")


def test_what_is_installed_is_there() -> None:
    assert all(map(extras.has_extra, extras.EXTRAS))
    extras.check_extra("serve", "serving")


def test_they_are_those_of_the_package() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = declared["optional-dependencies"]
    needed = " ".join(declared["dependencies"])
    for extra, names in extras.EXTRAS.items():
        assert all(name in needed + " ".join(known[extra]) for name in names)
