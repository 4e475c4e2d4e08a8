"""A model that another node found is found here by its reference, and must be the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from onceedit_ray.cluster.on_this_node import model_here, weights_here
from onceedit_ray.errors import ModelError
from onceedit_ray.models.sources import resolve
from tests.families import build_family
from tests.tiny_gguf import write_gguf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("gpt2", tmp_path_factory.mktemp("models") / "gpt2")


def test_a_folder_is_taken_where_it_is(folder: Path) -> None:
    found = resolve(str(folder))
    assert model_here(found) == found and weights_here(found) == weights_here(folder) == folder


def test_a_folder_that_is_not_here_is_named(folder: Path) -> None:
    found = replace(resolve(str(folder)), source="local:/nowhere/gpt2", path=Path("/nowhere/gpt2"))
    with pytest.raises(ModelError, match=r"^there is no folder /nowhere/gpt2; "):
        model_here(found)


def test_another_model_at_the_same_path_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=f"^{folder} holds other weights, .* copy the model again$"):
        model_here(replace(resolve(str(folder)), digest="0" * 64))


def test_a_model_that_another_home_has_is_made_here_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = write_gguf(tmp_path / "tiny.gguf", folder)
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "there"))
    there = resolve(str(gguf))
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "here"))
    here = model_here(there)
    assert here.path == tmp_path / "here" / there.path.relative_to(tmp_path / "there") and here.digest == there.digest
    gguf.unlink()
    assert model_here(here) == here, "its folder in the home is enough"
