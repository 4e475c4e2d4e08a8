"""The lines of replicas reach the command: requests on standard output, others as progress, and no writer waits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from onceedit_ray.cluster.command_output import output_stream, shared_output


def test_requests_and_progress_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[object] = []
    with shared_output(told.append) as path:
        stream = output_stream(path)
        stream.write(json.dumps({"route": "/v1/models"}) + "\n")
        stream.write("gemma is up\n")
        stream.flush()
    assert capsys.readouterr().out == '{"route": "/v1/models"}\n'
    assert told == ["gemma is up"]
    assert not path.exists(), "the pipe goes with the command"


def test_another_process_writes_there_too(capsys: pytest.CaptureFixture[str]) -> None:
    write = "import sys; from onceedit_ray.cluster.command_output import output_stream; from pathlib import Path; "
    write += "output_stream(Path(sys.argv[1])).write('{\"n\": 1}\\n')"
    with shared_output(lambda update: None) as path:
        subprocess.run([sys.executable, "-c", write, str(path)], check=True)
    assert capsys.readouterr().out == '{"n": 1}\n'


def test_a_writer_does_not_wait_for_a_command_that_is_gone(tmp_path: Path) -> None:
    with shared_output(lambda update: None) as path:
        stream = output_stream(path)
    for _ in range(10_000):
        stream.write("x" * 100 + "\n")  # far more than a pipe holds


def test_without_a_pipe_it_is_standard_output() -> None:
    assert output_stream(None) is sys.stdout
