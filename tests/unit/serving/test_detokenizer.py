"""Text from bytes: complete characters and no part of a stop string, wherever tokens cut them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_ray.serving.detokenizer import Detokenizer


def spoken(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    stream = Detokenizer(stop)
    said = [stream.feed(piece) for piece in pieces]
    return [*said, stream.feed(b"", final=True)], stream.stopped


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        ([b"Ly", b"on"], (), ["Ly", "on", ""]),
        ([b"caf\xc3", b"\xa9"], (), ["caf", "é", ""]),
        ([b"caf\xc3"], (), ["caf", "\ufffd"]),
        ([b"a\xff", b"b"], (), ["a\ufffd", "b", ""]),
        ([b"Lyon.", b" No"], (".",), ["Lyon", "", ""]),
        ([b"Lyon\n", b"\nNo"], ("\n\n",), ["Lyon", "", ""]),
        ([b"Lyon\n", b"No"], ("\n\n",), ["Lyon", "\nNo", ""]),
        ([b"Lyon\n"], ("\n\n",), ["Lyon", "\n"]),
        ([b"one two"], ("two", "one"), ["", ""]),
        ([b"ab", b"ab", b"c"], ("abc",), ["", "ab", "", ""]),
        ([b"a\xe2\x82", b"\xac!"], ("€",), ["a", "", ""]),
    ],
)
def test_by_hand(pieces: list[bytes], stop: tuple[str, ...], expected: list[str]) -> None:
    assert spoken(pieces, stop)[0] == expected


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    text=st.text(alphabet="abé€\n", max_size=20),
    stop=st.lists(st.text(alphabet="abé€\n", min_size=1, max_size=3), max_size=3),
    cuts=st.lists(st.integers(0, 60), max_size=8),
)
def test_however_it_is_cut_the_text_is_the_same(text: str, stop: list[str], cuts: list[int]) -> None:
    data = text.encode()
    at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    said, stopped = spoken([data[a:b] for a, b in itertools.pairwise(at)], tuple(stop))
    found = [text.find(string) for string in stop if string in text]
    assert "".join(said) == (text[: min(found)] if found else text)
    assert stopped == bool(found)
