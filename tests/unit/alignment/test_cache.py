"""Alignments on disk, and the pair that reads them part by part."""

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from onceedit_ray.alignment import Side, build_alignment, cache, cache_key, embedding_digest
from onceedit_ray.alignment.cache import Entry, load_or_build
from onceedit_ray.errors import AlignmentError
from onceedit_ray.progress import Count

KEY = "0123abcd"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path))
    return tmp_path


class Build:
    """A build that counts its runs."""

    def __init__(self):
        self.runs = 0

    def __call__(self):
        self.runs += 1
        return Entry({"columns": torch.arange(6, dtype=torch.int32).view(2, 3)}, {"multiplier": 14.5})


def test_built_once_then_loaded(home):
    build = Build()
    load_or_build(KEY, build, {"what": "a test"})
    entry = load_or_build(KEY, build, {"what": "a test"})
    assert build.runs == 1
    assert entry.values == {"multiplier": 14.5}
    assert entry.tensors["columns"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert entry.tensors["columns"].dtype == torch.int32
    assert [path.name for path in (home / "alignments").iterdir()] == [KEY]


def truncate(folder):
    data = (folder / "tensors.safetensors").read_bytes()
    (folder / "tensors.safetensors").write_bytes(data[:-5])


def flip_a_bit(folder):
    data = bytearray((folder / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "tensors.safetensors").write_bytes(data)


def lose_the_tensors(folder):
    (folder / "tensors.safetensors").unlink()


def lose_the_description(folder):
    (folder / "entry.json").unlink()


def garble_the_description(folder):
    (folder / "entry.json").write_text("{")


def empty_the_description(folder):
    (folder / "entry.json").write_text("{}")


@pytest.mark.parametrize(
    "damage",
    [truncate, flip_a_bit, lose_the_tensors, lose_the_description, garble_the_description, empty_the_description],
)
def test_a_damaged_entry_is_built_again_with_a_warning(home, caplog, damage):
    build = Build()
    load_or_build(KEY, build, {})
    damage(home / "alignments" / KEY)
    with caplog.at_level(logging.WARNING):
        entry = load_or_build(KEY, build, {})
    assert build.runs == 2
    assert entry.tensors["columns"].shape == (2, 3)
    [record] = caplog.records
    assert "damaged" in record.message and "\n" not in record.message
    load_or_build(KEY, build, {})
    assert build.runs == 2
    assert [path.name for path in (home / "alignments").iterdir()] == [KEY]


def test_an_interrupted_build_leaves_nothing(home):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_build(KEY, interrupted, {})
    assert not (home / "alignments").exists()


def test_what_a_killed_build_left_goes_with_the_next_build(home):
    """A process is killed while it writes, so that no clean-up code of Python runs."""
    killed = """
import os, signal, torch
from onceedit_ray.alignment import cache
cache._checksum = lambda path: os.kill(os.getpid(), signal.SIGKILL)
cache.load_or_build("other", lambda: cache.Entry({"x": torch.ones(3)}), {})
"""
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -signal.SIGKILL
    [left] = (home / "alignments").iterdir()
    assert (left / "tensors.safetensors").exists()
    load_or_build(KEY, Build(), {})
    assert [path.name for path in (home / "alignments").iterdir()] == [KEY]


def test_what_others_are_still_writing_stays(home):
    alive = f".staging-other-{os.getppid()}@{socket.gethostname()}"
    elsewhere = ".staging-other-1@some-other-host"
    forgotten = ".staging-forgotten-1@some-other-host"
    for name in (alive, elsewhere, forgotten):
        (home / "alignments" / name).mkdir(parents=True)
    os.utime(home / "alignments" / forgotten, (0, 0))
    load_or_build(KEY, Build(), {})
    assert sorted(path.name for path in (home / "alignments").iterdir()) == sorted([KEY, alive, elsewhere])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list its memory maps")
def test_what_is_loaded_is_mapped_not_read(home):
    load_or_build(KEY, Build(), {})
    entry = load_or_build(KEY, Build(), {})
    address = entry.tensors["columns"].data_ptr()
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines() if KEY in line]
    assert any(int(start, 16) <= address < int(end, 16) for start, end in (m[0].split("-") for m in maps))


def test_an_interrupted_write_leaves_nothing(home, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache, "_checksum", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_or_build(KEY, Build(), {})
    assert list((home / "alignments").iterdir()) == []


def test_a_full_disk_costs_the_cache_not_the_work(home, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    entry = load_or_build(KEY, Build(), {})
    assert entry.values["multiplier"] == 14.5
    assert "No space left" in caplog.text
    assert list((home / "alignments").iterdir()) == []


def test_a_quicker_process_keeps_its_entry(home):
    def build():
        load_or_build(KEY, lambda: Entry({"columns": torch.tensor([1])}), {})
        return Entry({"columns": torch.tensor([2])})

    load_or_build(KEY, build, {})
    assert load_or_build(KEY, Build(), {}).tensors["columns"].tolist() == [1]


def test_the_key_depends_on_everything_that_enters(monkeypatch):
    ids = {"anchors": torch.tensor([1, 2])}
    key = cache_key("calibrated", "digest", ids, {"keep": 32})
    assert key == cache_key("calibrated", "digest", {"anchors": torch.tensor([1, 2])}, {"keep": 32})
    others = {
        cache_key("literal", "digest", ids, {"keep": 32}),
        cache_key("calibrated", "other", ids, {"keep": 32}),
        cache_key("calibrated", "digest", {"anchors": torch.tensor([2, 1])}, {"keep": 32}),
        cache_key("calibrated", "digest", {"rows": torch.tensor([1, 2])}, {"keep": 32}),
        cache_key("calibrated", "digest", ids, {"keep": 31}),
    }
    monkeypatch.setattr(cache, "FORMAT", 0)
    others.add(cache_key("calibrated", "digest", ids, {"keep": 32}))
    assert len(others | {key}) == 7


def test_the_digest_depends_on_values_shape_and_dtype():
    E_VD = torch.arange(6.0).view(2, 3)
    digests = {embedding_digest(x) for x in (E_VD, E_VD + 1, E_VD.view(3, 2), E_VD.bfloat16())}
    assert len(digests) == 4
    assert embedding_digest(E_VD.T.contiguous().T) == embedding_digest(E_VD)


class Model:
    """A vocabulary and random embeddings that count how often they are asked for; the last rows are padding."""

    def __init__(self, name, tokens, dim, seed, padding=0):
        self.asked = 0
        self.name = name
        self.vocab = {token: i for i, token in enumerate(tokens)}
        self.E_VD = torch.randn(len(tokens) + padding, dim, generator=torch.Generator().manual_seed(seed))

    def embeddings(self):
        self.asked += 1
        return self.E_VD

    def side(self, eos_id=None):
        return Side(self.name, self.vocab, eos_id, self.embeddings, embedding_digest(self.E_VD))


@pytest.fixture
def plugin():
    return Model("small", [f"Ġw{i}" for i in range(50)] + ["<|endoftext|>"], 12, seed=0)


@pytest.fixture
def target():
    return Model("large", ["<eos>", "<bos>"] + [f"▁w{i}" for i in range(20, 90)], 16, seed=1, padding=30)


def test_a_strategy_pays_only_for_what_it_reads(plugin, target):
    alignment = build_alignment(plugin.side(50), target.side(0))
    assert len(alignment.anchors) == 31  # 30 words and end-of-text
    assert (plugin.asked, target.asked) == (0, 0)
    assert len(alignment.plugin_rows) == 51
    assert (plugin.asked, target.asked) == (1, 0)
    assert alignment.plugin_rows is alignment.plugin_rows


@pytest.mark.parametrize("eos_id", [None, -1])
def test_a_model_without_end_of_text_has_no_anchor_for_it(plugin, target, eos_id):
    assert len(build_alignment(plugin.side(50), target.side(eos_id)).anchors) == 30


def test_everything_is_loaded_the_second_time(plugin, target):
    first = build_alignment(plugin.side(), target.side(), keep=8)
    first.prepare()
    asked = plugin.asked, target.asked
    second = build_alignment(plugin.side(), target.side(), keep=8)
    for part in ("plugin_rows", "target_rows"):
        built, loaded = getattr(first, part), getattr(second, part)
        assert torch.equal(built.columns_VK, loaded.columns_VK)
        assert torch.equal(built.mass_VK, loaded.mass_VK)
        assert (built.anchors, built.multiplier) == (loaded.anchors, loaded.multiplier)
    assert torch.equal(first.target_winners_A, second.target_winners_A)
    assert torch.equal(first.literal_winners_A, second.literal_winners_A)
    assert (plugin.asked, target.asked) == asked


def test_new_embeddings_are_aligned_anew(plugin, target):
    before = build_alignment(plugin.side(), target.side()).plugin_rows
    plugin.E_VD = plugin.E_VD + torch.randn(plugin.E_VD.shape, generator=torch.Generator().manual_seed(5))
    after = build_alignment(plugin.side(), target.side()).plugin_rows
    assert not torch.equal(before.mass_VK, after.mass_VK)


def test_rows_that_pad_the_embeddings_cannot_win(plugin, target):
    # Padding that points exactly where an anchor does, with no other anchor near.
    target.E_VD[72:102] = 3.0 * target.E_VD[2:32]
    alignment = build_alignment(plugin.side(), target.side())
    assert int(alignment.target_winners_A.max()) < 72
    assert int(alignment.literal_winners_A.max()) < 72


def test_winners_are_those_of_the_matrices(plugin, target):
    alignment = build_alignment(plugin.side(), target.side())
    tokens_N = torch.arange(72)
    assert torch.equal(alignment.target_winners_A, alignment.target_rows.column_winners(tokens_N)[0])
    assert torch.equal(alignment.literal_winners_A, alignment.target_literal.rows(tokens_N).argmax(dim=0))


def test_a_part_left_out_says_so(plugin, target):
    alignment = build_alignment(plugin.side(), target.side(), parts={"calibrated"})
    with pytest.raises(AlignmentError, match="without its literal part; add 'literal'"):
        _ = alignment.literal_winners_A
    with pytest.raises(AlignmentError, match="unknown part 'dense'"):
        build_alignment(plugin.side(), target.side(), parts={"dense"})


def test_models_without_common_tokens_are_named(plugin):
    other = Model("other", ["▁x", "▁y"], 4, seed=2)
    with pytest.raises(AlignmentError, match=r"small and other: .*none in common"):
        build_alignment(plugin.side(), other.side())


def test_long_builds_say_how_far_they_are(plugin, target):
    counts = []
    build_alignment(plugin.side(), target.side(), progress=counts.append).prepare()
    assert Count("aligning large: calibrated rows", 102, 102) in counts
    assert Count("aligning large: literal column winners", 72, 72) in counts
