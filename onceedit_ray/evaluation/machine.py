"""The machine on which a result was measured: cores, processor, memory, GPUs and versions, in one line.

Describes the machine of this process only, not the other nodes of a cluster.
"""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path

PACKAGES = ("onceedit-ray", "torch", "transformers", "ray", "pyarrow")


def describe_machine() -> str:
    """One line, such as "2 cores, AMD EPYC 7763, 24 GiB, no GPU, torch 2.13.0, ray 2.60.0, Python 3.11"."""
    cores = _cores()
    versions = package_versions()
    parts = [f"{cores} core{'' if cores == 1 else 's'}", _processor(), _memory(), _gpus()]
    parts += [f"{name} {versions[name]}" for name in ("torch", "ray") if name in versions]
    parts.append("Python " + ".".join(platform.python_version_tuple()[:2]))
    return ", ".join(part for part in parts if part)


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on; a package that is not installed is left out."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return ""
    return f"{size / 2**30:.0f} GiB"


def _gpus() -> str:
    # torch takes a second to import, and only this line needs it.
    import torch

    names = Counter(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    if not names:
        return "no GPU"
    return " + ".join(f"{count} x {name}" if count > 1 else name for name, count in names.items())
