"""Time and memory of an alignment for growing vocabularies: `python -m benchmarks.alignment [--quick]`.

Builds the calibrated matrix of growing parts of the first target's embeddings, as a new target would have it built, and
loads it again from the cache. Next to each build it measures, on the same machine, the matrix product alone, which is
the lower bound, and the plain method, one float32 product and one `topk`, on a sample of the rows. Prints a table;
writes `alignment.parquet` and `alignment.png`. It does not measure decoding.

V  vocabulary   A  anchors   D  embedding   N  rows sampled   E  embeddings
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple
from unittest import mock

import matplotlib
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.options import parse, parser_for
from onceedit_ray.alignment import Side, build_alignment, find_anchors
from onceedit_ray.alignment.calibrated_matrix import KEEP
from onceedit_ray.alignment.devices import block_rows, fastest_device
from onceedit_ray.alignment.in_parallel import cores, in_parallel
from onceedit_ray.alignment.nearest import NearestAnchors, bfloat16_is_fast
from onceedit_ray.config import RunConfig, load_config
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.files import replacing
from onceedit_ray.models.loading import input_embeddings, load_tokenizer
from onceedit_ray.models.sources import resolve

# Shares of the target's vocabulary and of its anchors.
QUICK = ((1 / 32, 1 / 8), (1 / 16, 1 / 4), (1 / 8, 1 / 2), (1 / 4, 1.0))
FULL = ((1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1 / 2), (1 / 2, 1 / 2), (1 / 2, 1.0), (1.0, 1.0))
_ROUNDS = 3
_LOADS = 5
_GIB = 2.0**30


@dataclass(frozen=True)
class Embeddings:
    """A model's input embeddings and which of their rows are anchors, in ascending order."""

    name: str
    E_VD: Tensor
    anchor_ids_A: Tensor


class Time(NamedTuple):
    """Wall-clock seconds, and CPU seconds of all cores together."""

    seconds: float
    cpu_seconds: float

    def times(self, factor: float) -> Time:
        """The time of `factor` times the work."""
        return Time(self.seconds * factor, self.cpu_seconds * factor)


@dataclass(frozen=True)
class Measurement:
    """One build; a row of the table and of the file.

    build_seconds: from embeddings to a matrix in the cache, with its column winners. cpu_seconds: the same, CPU time of
    all cores. product_seconds: the matrix product alone, at the speed measured just before. build_over_product: ratio
    of CPU seconds, which exclude other processes; of wall-clock seconds on a GPU. plain_over_ours: the plain method's
    time over ours for the same rows. peak_gib: of the process, with the mapped weights.
    """

    machine: str
    device: str
    threads: int
    model: str
    vocabulary: int
    anchors: int
    dim: int
    entries: int
    build_seconds: float
    cpu_seconds: float
    product_seconds: float
    product_gflops: float
    build_over_product: float
    plain_over_ours: float
    peak_gib: float
    load_seconds: float


def real_embeddings(config: RunConfig) -> Embeddings:
    """The first target's embeddings with the plug-in's anchors under the paper's rule."""
    plugin, target = resolve(config.plugin.model), resolve(next(iter(config.targets.values())).model)
    anchors = find_anchors(load_tokenizer(plugin.path).get_vocab(), load_tokenizer(target.path).get_vocab(), "paper")
    return Embeddings(target.name, input_embeddings(target.path), anchors.target_ids_A)


def random_embeddings(vocabulary: int, anchors: int, dim: int) -> Embeddings:
    """Random directions; anchors evenly spread."""
    E_VD = torch.randn(vocabulary, dim, generator=torch.Generator().manual_seed(0))
    return Embeddings("random", E_VD, spread(vocabulary, anchors))


def spread(of: int, count: int) -> Tensor:
    """`count` different numbers below `of`, evenly spread."""
    return torch.arange(count) * of // count


def part(whole: Embeddings, vocabulary: int, anchors: int) -> Embeddings:
    """`vocabulary` of the rows, `anchors` of the anchors among them."""
    if (vocabulary, anchors) == (len(whole.E_VD), len(whole.anchor_ids_A)):
        return whole
    chosen_A = whole.anchor_ids_A[spread(len(whole.anchor_ids_A), anchors)]
    others = torch.ones(len(whole.E_VD), dtype=torch.bool)
    others[whole.anchor_ids_A] = False
    other_ids = others.nonzero().flatten()
    rest = other_ids[spread(len(other_ids), min(vocabulary - anchors, len(other_ids)))]
    ids_V = torch.cat([chosen_A, rest]).sort().values
    return Embeddings(whole.name, whole.E_VD[ids_V], torch.searchsorted(ids_V, chosen_A))


def measure(given: Embeddings, machine: str) -> Measurement:
    """Measure the build, the load, the product alone and the plain method."""
    vocabulary, dim = given.E_VD.shape
    anchors = len(given.anchor_ids_A)
    device = fastest_device(given.E_VD, anchors)
    product, ratio = beside(given, device)
    product = product.times(vocabulary)
    with cache_of_its_own():
        plugin, target = sides(given)
        alignment = build_alignment(plugin, target, "paper")
        forget_peak()
        build = time_of(lambda: (alignment.target_rows, alignment.target_winners_A))
        peak = peak_gib()
        load_seconds = statistics.median(time_of(lambda: load(plugin, target)).seconds for _ in range(_LOADS))
    on_cpu = device.type == "cpu"
    return Measurement(
        machine=machine,
        device=device.type,
        threads=torch.get_num_threads(),
        model=given.name,
        vocabulary=vocabulary,
        anchors=anchors,
        dim=dim,
        entries=vocabulary * anchors,
        build_seconds=build.seconds,
        cpu_seconds=build.cpu_seconds,
        product_seconds=product.seconds,
        product_gflops=2 * vocabulary * anchors * dim / product.seconds / 1e9,
        build_over_product=build.cpu_seconds / product.cpu_seconds if on_cpu else build.seconds / product.seconds,
        plain_over_ours=ratio,
        peak_gib=peak,
        load_seconds=load_seconds,
    )


def beside(given: Embeddings, device: torch.device) -> tuple[Time, float]:
    """The product's time for one row, and the plain method's time over ours, on a block for each core; medians."""
    ids_A, workers = given.anchor_ids_A, cores(device)
    keep = min(KEEP, len(ids_A))
    block = min(block_rows(device, len(ids_A), workers), len(given.E_VD))
    mean_D = given.E_VD[ids_A].float().mean(dim=0)
    anchors_AD = normalize(given.E_VD[ids_A].float() - mean_D, dim=1).to(device)
    rows_ND = given.E_VD[spread(len(given.E_VD), min(len(given.E_VD), workers * block))].float() - mean_D
    blocks = normalize(rows_ND, dim=1).to(device).split(block)
    factor_DA = (anchors_AD.bfloat16() if bfloat16_is_fast(device) else anchors_AD).T
    buffers: SimpleQueue[Tensor] = SimpleQueue()
    for _ in range(workers):
        buffers.put(factor_DA.new_empty(block, len(ids_A)))
    nearest = NearestAnchors(anchors_AD, keep, block)
    no_own_B = torch.full((block,), -1, device=device)

    def product(rows_BD: Tensor) -> None:
        buffer_BA = buffers.get()
        torch.mm(rows_BD.to(factor_DA.dtype), factor_DA, out=buffer_BA[: len(rows_BD)])
        buffers.put(buffer_BA)

    def ours(rows_BD: Tensor) -> None:
        nearest(rows_BD, no_own_B[: len(rows_BD)])

    def plain() -> None:
        for rows_BD in blocks:
            (rows_BD @ anchors_AD.T).topk(keep, dim=1)

    products, ratios = [], []
    for _ in range(_ROUNDS):
        products.append(time_of(lambda: list(in_parallel(product, blocks, workers)), device))
        ours_time = time_of(lambda: list(in_parallel(ours, blocks, workers)), device)
        ratios.append(time_of(plain, device).seconds / ours_time.seconds)
    typical = Time(*(statistics.median(column) for column in zip(*products, strict=True)))
    return typical.times(1 / len(rows_ND)), statistics.median(ratios)


def sides(given: Embeddings) -> tuple[Side, Side]:
    """A plug-in whose tokens are the anchors, and the target that is measured."""
    tokens = {str(token): token for token in range(len(given.E_VD))}
    shared = {str(token): token for token in given.anchor_ids_A.tolist()}
    digest = f"{given.name} {len(tokens)}"
    return Side("plug-in", shared, None, lambda: given.E_VD, digest), Side(
        given.name, tokens, None, lambda: given.E_VD, digest
    )


def load(plugin: Side, target: Side) -> None:
    """Load the matrix from the cache, and read its first and last row."""
    rows = build_alignment(plugin, target, "paper").target_rows
    rows.rows(torch.tensor([0, len(rows) - 1]))


def time_of(work: Callable[[], object], device: torch.device | None = None) -> Time:
    """The time of `work`; waits until a GPU has finished."""
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return Time(time.perf_counter() - start, time.process_time() - cpu_start)


@contextlib.contextmanager
def cache_of_its_own() -> Iterator[None]:
    """`ONCEEDIT_HOME` in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="onceedit-bench-") as home, mock.patch.dict(os.environ, ONCEEDIT_HOME=home):
        yield


def forget_peak() -> None:
    """Reset the peak memory, if the system can (Linux); elsewhere the peak is that of the whole run."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    """The peak memory of this process in GiB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / _GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / _GIB


def write(measured: Sequence[Measurement], folder: Path) -> None:
    """`alignment.parquet` and `alignment.png`."""
    with replacing(folder / "alignment.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in measured]), temporary)
    with replacing(folder / "alignment.png") as temporary:
        draw(measured, temporary)


def draw(measured: Sequence[Measurement], path: Path) -> None:
    """Seconds against V x A: the build by the clock and in CPU time, the product alone, and the cached load."""
    lines = {
        "build_seconds": "build",
        "cpu_seconds": "build, CPU time of all cores",
        "product_seconds": "matrix product alone",
        "load_seconds": "cached load",
    }
    # Colours of Okabe and Ito, which remain distinguishable with common colour blindness.
    colours = ("#0072B2", "#56B4E9", "#E69F00", "#009E73")
    ordered = sorted(measured, key=lambda row: row.entries)
    entries = [row.entries for row in ordered]
    with matplotlib.rc_context({"font.size": 9.0, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        panel = figure.subplots()
        for (name, label), colour in zip(lines.items(), colours, strict=True):
            panel.plot(entries, [getattr(row, name) for row in ordered], "o-", color=colour, label=label)
        panel.set(xscale="log", yscale="log", xlabel="tokens × anchors", ylabel="seconds")
        panel.grid(color="#E4E4E4", linewidth=0.8)
        panel.legend(frameon=False)
        panel.set_title(f"Aligning parts of {ordered[0].model}", loc="left", fontsize=10)
        figure.text(0.01, -0.02, ordered[0].machine, fontsize=7, color="#555555", va="top")
        figure.savefig(path, dpi=130, format="png", bbox_inches="tight")


_HEADER = (
    f"{'tokens':>8} {'anchors':>8} {'build s':>8} {'CPU s':>7} {'/product':>9} {'GFLOP/s':>8} {'plain/ours':>11} "
    f"{'peak GiB':>9} {'load s':>7}"
)


def line_of(row: Measurement) -> str:
    """A row of the table."""
    return (
        f"{row.vocabulary:>8,} {row.anchors:>8,} {row.build_seconds:>8.2f} {row.cpu_seconds:>7.1f} "
        f"{row.build_over_product:>8.2f}x {row.product_gflops:>8.0f} {row.plain_over_ours:>10.2f}x "
        f"{row.peak_gib:>9.2f} {row.load_seconds:>7.3f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure from small to large, write."""
    parser = parser_for("alignment", __doc__, "up to a quarter of the target's vocabulary")
    parser.add_argument(
        "--random", type=int, nargs=3, metavar=("TOKENS", "ANCHORS", "DIM"), help="random embeddings of this size"
    )
    options = parse(parser, arguments)
    whole = random_embeddings(*options.random) if options.random else real_embeddings(load_config(options.config))
    machine = describe_machine()
    print(f"alignment of parts of {whole.name}, {whole.E_VD.shape[1]} dimensions, {torch.get_num_threads()} threads")
    print(f"on {machine}\n\n{_HEADER}")
    measured = []
    for tokens, anchors in QUICK if options.quick else FULL:
        wanted = max(1, round(anchors * len(whole.anchor_ids_A)))
        given = part(whole, max(wanted, round(tokens * len(whole.E_VD))), wanted)
        measured.append(measure(given, machine))
        print(line_of(measured[-1]), flush=True)
        write(measured, options.results)
    print(
        "\n/product: CPU seconds over those of the matrix product alone; GFLOP/s: its speed just before the build."
        "\nplain/ours: one float32 product and one topk, over ours, same rows by turns."
        f"\nwritten: {options.results / 'alignment.parquet'}, {options.results / 'alignment.png'}"
    )


if __name__ == "__main__":
    main()
