"""Folders that an older conversion of a GGUF file has left, and the digests under which converted models are filed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from onceedit_ray.models.loading import load_tokenizer
from onceedit_ray.models.sources import gguf as gguf_source
from onceedit_ray.models.sources import resolve, wheel
from onceedit_ray.models.sources.checksum import file_sha256
from onceedit_ray.reader import adapter as adapters
from tests.families import build_family
from tests.tiny_gguf import write_gguf


def test_a_folder_of_an_older_conversion_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    gpt2 = build_family("gpt2", tmp_path / "gpt2")
    file = write_gguf(tmp_path / "m.gguf", gpt2, "deepseek-coder")
    old = gguf_source.converted_folder("m", file_sha256(file), 1)
    shutil.copytree(gpt2, old)  # with GPT-2's split, as the first conversion made it
    (old / gguf_source.RECORD).write_text('{"licence": "MIT"}')
    made = resolve(str(file))
    assert load_tokenizer(old).tokenize("1889") != ["1", "8", "8", "9"]
    assert load_tokenizer(made.path).tokenize("1889") == ["1", "8", "8", "9"]
    assert made.path != old and made.digest == gguf_source.conversion_digest(file_sha256(file), 2)


def test_the_catalogues_models_keep_their_digests() -> None:
    """Every conversion has made the same of these files, and the shipped reader is found by the digest."""
    entry = wheel.CATALOGUE["smollm2-135m"]
    (shipped,) = [json.loads(path.read_text()) for path in Path(adapters.__file__).parent.rglob("reader.json")]
    assert gguf_source.conversion_digest(entry.sha256, entry.conversion) == shipped["base_digest"]
    assert {entry.conversion for entry in wheel.CATALOGUE.values()} == {1}
