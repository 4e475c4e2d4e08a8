"""A server's model, asked at the command line and from Python."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from onceedit_ray.api import OnceEdit
from onceedit_ray.editing.served_run import run_of, servers_of
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from onceedit_ray.serving.ask import ask
from tests.families import build_family
from tests.small_reader import EDITS, QUESTION
from tests.small_server_target import TARGET, decoder_at
from tests.stand_in_server import StandIn, running

OWN, EDITED = "The capital of Australia is Canberra.", "The capital of Australia is Perth."


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return open_codec(build_family("gpt2", tmp_path_factory.mktemp("ask") / "gpt2"))


@pytest.fixture
def url() -> Iterator[str]:
    def goes_on(so_far: str) -> str:
        reply = so_far.rpartition("<assistant>")[2]
        whole = EDITED if "Perth" in so_far else OWN
        return whole[len(reply) :] if whole.startswith(reply) else ""

    with running(StandIn(goes_on)) as url:
        yield url


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"shape": "chat", "unedited": False, "max_new_tokens": None, **given})


def test_at_the_command_line(codec: Codec, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(ask(decoder_at(url, codec), TARGET, QUESTION, options(unedited=True)))
    before, after = capsys.readouterr().out.splitlines()
    assert before == f"{TARGET} (unedited): {OWN}"
    assert after == f"{TARGET} (edited once, w = 0.950): {EDITED}"
    asyncio.run(ask(decoder_at(url, codec), TARGET, QUESTION, options(shape="raw")))
    assert capsys.readouterr().out == f"{TARGET} (edited once, w = 0.950): Perth\n"


def test_from_python(codec: Codec, url: str) -> None:
    models = OnceEdit(run_of(None, servers_of([f"{TARGET}={url}"])), EDITS)
    models._decoder = decoder_at(url, codec)
    messages = [{"role": "user", "content": QUESTION}]
    answer = models.ask(messages)
    assert (answer.text, answer.alone, answer.edits, answer.ended) == (EDITED, False, (EDITS[0].prompt,), True)
    unedited = models.ask_unedited(messages, max_new_tokens=3)
    assert (unedited.text, unedited.weight, unedited.ended) == ("The capital of", None, False)
    assert models.ask(QUESTION).text == " Perth"
