"""A named pipe that brings the lines of the replicas to the output of `onceedit serve`, without Ray's own messages.

A line that is a JSON object, one for each request, goes to standard output; any other line is progress. A replica never
waits for the command: if the pipe is full, because nobody reads the command's output, its lines are lost.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from onceedit_ray.progress import Progress
from onceedit_ray.serving.request_log import Stream

END = "end\n"


@contextlib.contextmanager
def shared_output(progress: Progress) -> Iterator[Path]:
    """A pipe for this machine's processes of this user; what they have written is shown before the block ends."""
    with tempfile.TemporaryDirectory(prefix="onceedit-") as folder:
        path = Path(folder) / "output"
        os.mkfifo(path, 0o600)
        pipe = os.fdopen(
            os.open(path, os.O_RDWR), "rb", buffering=0
        )  # also open for writing, so that the pipe does not end when a writer does
        telling = threading.Thread(target=_tell, args=(pipe, sys.stdout, progress), daemon=True)
        telling.start()
        try:
            yield path
        finally:
            output_stream(path).write(END)
            telling.join(timeout=5)


def output_stream(path: Path | None) -> Stream:
    """The stream for a process that writes to the pipe at `path`; None gives this process's standard output."""
    return sys.stdout if path is None else _Pipe(path)


class _Pipe:
    """Writes each line at once and without waiting; a line is lost if the pipe is full or has no reader."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # for the life of the process

    def write(self, text: str) -> int:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._descriptor, text.encode("utf-8", "replace"))
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def _tell(pipe: io.RawIOBase, requests: Stream, progress: Progress) -> None:
    with io.TextIOWrapper(io.BufferedReader(pipe), encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line == END:
                return
            if line.startswith("{"):
                requests.write(line)
                requests.flush()
            else:
                progress(line.rstrip("\n"))
