"""Measures wall and processor time of the stages of a cell."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from onceedit_ray.files import replacing


class Stopwatch:
    """Seconds by stage; if a stage is entered again, its times are added."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextlib.contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Time the block as `stage`."""
        wall, cpu = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            self.wall[stage] = self.wall.get(stage, 0.0) + time.monotonic() - wall
            self.cpu[stage] = self.cpu.get(stage, 0.0) + time.process_time() - cpu

    def save(self, path: Path) -> None:
        """Write the times, completely or not at all."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"wall": self.wall, "cpu": self.cpu}), encoding="utf-8")

    def restore(self, path: Path) -> None:
        """Read times that `save` wrote; none if there is no such file."""
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            self.wall, self.cpu = saved["wall"], saved["cpu"]
