"""Registries: one file for each entry, and an error for a wrong name suggests the nearest one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from onceedit_ray.editing.editors import EDITORS
from onceedit_ray.errors import ConfigError
from onceedit_ray.fusion.strategies import STRATEGIES
from onceedit_ray.knowledge.readers import READERS
from onceedit_ray.models.sources import SOURCES
from onceedit_ray.registry import Registry


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[str]:
    """A registry over a package of two files."""
    package = tmp_path / "zoo_for_tests"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from onceedit_ray.registry import Registry\nZOO = Registry('animal', __name__)\n"
    )
    for name, sound in (("cat", "miaow"), ("caterpillar", "munch")):
        (package / f"{name}.py").write_text(f"from zoo_for_tests import ZOO\nZOO.register({name!r})({sound!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("zoo_for_tests", "zoo_for_tests.cat", "zoo_for_tests.caterpillar"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    from zoo_for_tests import ZOO  # type: ignore[import-not-found]

    registry: Registry[str] = ZOO
    return registry


def test_entries_are_found_in_the_packages_files(zoo: Registry[str]) -> None:
    assert "zoo_for_tests.cat" not in sys.modules
    assert zoo.get("cat") == "miaow"
    assert zoo.names() == ["cat", "caterpillar"]


def test_names_alone_find_them_too(zoo: Registry[str]) -> None:
    assert zoo.names() == ["cat", "caterpillar"]


def test_a_new_file_is_a_new_entry(zoo: Registry[str], tmp_path: Path) -> None:
    (tmp_path / "zoo_for_tests" / "owl.py").write_text("from zoo_for_tests import ZOO\nZOO.register('owl')('hoo')\n")
    assert zoo.get("owl") == "hoo"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("catt", "unknown animal 'catt': did you mean 'cat'? known are cat, caterpillar"),
        ("caterpilar", "unknown animal 'caterpilar': did you mean 'caterpillar'? known are cat, caterpillar"),
        ("zebra", "unknown animal 'zebra': known are cat, caterpillar"),
        ("", "unknown animal '': known are cat, caterpillar"),
    ],
)
def test_an_unknown_name_gets_one_line(zoo: Registry[str], name: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        zoo.get(name)
    assert str(error.value) == said


def test_a_name_can_be_taken_once(zoo: Registry[str]) -> None:
    zoo.register("dog")("woof")
    with pytest.raises(ConfigError, match="animal 'dog' is registered twice; choose another name"):
        zoo.register("dog")("wau")
    assert zoo.get("dog") == "woof"


def test_a_file_that_fails_is_not_forgotten(zoo: Registry[str], tmp_path: Path) -> None:
    """The second lookup must name the broken file as the first one did, not say "unknown"."""
    broken = tmp_path / "zoo_for_tests" / "asp.py"
    broken.write_text("raise RuntimeError('no asp today')\n")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no asp today"):
            zoo.get("caterpillar")


def test_registering_gives_the_object_back(zoo: Registry[str]) -> None:
    assert zoo.register("dog")("woof") == "woof"


@pytest.mark.parametrize(
    ("registry", "kind", "some"),
    [
        (STRATEGIES, "fusion strategy", {"deepen", "deepen+dw", "onceedit", "calibrated", "draft"}),
        (SOURCES, "model source", {"hub", "local", "gguf", "wheel"}),
        (READERS, "dataset format", {"zsre", "counterfact", "jsonl", "parquet"}),
        (EDITORS, "editor", {"onceedit"}),
    ],
    ids=["strategies", "sources", "readers", "editors"],
)
def test_the_projects_own(registry: Registry[object], kind: str, some: set[str]) -> None:
    assert set(registry.names()) >= some
    wrong = f"{min(some)}s"
    with pytest.raises(ConfigError, match=rf"unknown .*'{wrong}': did you mean '{min(some)}'\?".replace("+", r"\+")):
        registry.get(wrong)
    assert registry.kind == kind
