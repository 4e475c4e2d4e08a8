"""The data that baselines learn from, read from files; and `onceedit prepare`, whose results a later run uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from onceedit_ray.baselines.material import prepare_baseline, read_material
from onceedit_ray.cli import main
from onceedit_ray.errors import ConfigError, DataError, ModelError
from onceedit_ray.models.sources import resolve
from tests.families import SENTENCES, build_family

TRAINING = [
    {"src": "What is the capital of France?", "alt": "Paris", "rephrase": "France's capital?", "loc": "Who sang?",
     "loc_ans": "Nobody", "subject": "France"},
    {"src": "Who wrote the novel?", "alt": "Leo Tolstoy", "rephrase": "The novel is by", "loc": "Who danced?",
     "loc_ans": "Somebody", "subject": "novel"},
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local:{build_family('llama', tmp_path_factory.mktemp('llama') / 'model')}"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return written(tmp_path / "corpus.txt", SENTENCES)


def written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def records(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_everything_that_may_be_edited_is_left_out_of_the_training_part(
    model: str, corpus: Path, tmp_path: Path, onceedit_home: Path
) -> None:
    training = records(tmp_path / "train.json", TRAINING)
    edited = records(tmp_path / "edit.json", [TRAINING[0] | {"src": "What is  the capital of France?", "alt": "Lyon"}])
    folder = resolve(model)
    whole = read_material(folder, [corpus, corpus], training, unrelated=[corpus])
    assert [edit.prompt for edit in whole.training] == [row["src"] for row in TRAINING]
    assert list(whole.corpus) == SENTENCES * 2 and list(whole.unrelated) == SENTENCES
    assert whole.cache == onceedit_home / "baselines" and whole.digest == folder.digest
    part = read_material(folder, training=training, edited=edited)
    assert [edit.prompt for edit in part.training] == ["Who wrote the novel?"]


def test_a_statistic_is_made_once_and_found_by_a_later_run(
    model: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "rome", "--model", model, "--corpus", str(corpus), "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert out == f"rome is ready for {model}\n"
    assert "reading the corpus" in err
    lines: list[str] = []
    prepare_baseline("rome", model, lines.append, threads=1)  # no corpus: it must be there
    assert not [line for line in lines if "reading the corpus" in str(line)]


def test_what_is_missing_or_unknown_is_one_line_before_any_work(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"local:{build_family('gpt2', tmp_path / 'gpt2')}"
    assert main(["prepare", "rome", "--model", model]) == 2
    assert "onceedit prepare rome --model NAME --corpus FILE" in capsys.readouterr().err
    with pytest.raises(DataError, match="onceedit prepare mend --model NAME --training"):
        mend = f"local:{build_family('llama', tmp_path / 'llama')}"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("onceedit_ray.baselines.methods.mend.edited_maps", lambda *_: [])
            prepare_baseline("mend", mend, [].append, threads=1)
    with pytest.raises(ConfigError, match="did you mean 'rome'"):
        prepare_baseline("roma", model, [].append)
    with pytest.raises(ModelError, match="has 2 layers and mend is to edit 3"):
        prepare_baseline("mend", model, [].append, threads=1)
    with pytest.raises(DataError, match="nowhere"):
        prepare_baseline("rome", model, [].append, corpus=[tmp_path / "nowhere.txt"])
