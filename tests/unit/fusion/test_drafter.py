"""What the plug-in says at each byte, on a plug-in whose distributions are written down here.

Plug-in tokens: 0 " Mich", 1 "el", 2 " P", 3 " Paris", 4 "ela", 5 end, 6 a second end, 7 " ", 8 a start token (no text).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from onceedit_ray.errors import ModelError, SessionLostError
from onceedit_ray.fusion.drafter import Drafter
from onceedit_ray.fusion.retokenise import DraftPosition, Proposal
from onceedit_ray.models.protocol import Reading, Step, Top
from onceedit_ray.models.sampling import GREEDY, Sampling

SPELLINGS = [b" Mich", b"el", b" P", b" Paris", b"ela", b"", b"", b" ", b""]
END, OTHER_END, SPACE, START = 5, 6, 7, 8
PROMPT = [100, 101]
# After each answer: the likeliest tokens. All other answers end.
Table = Mapping[tuple[int, ...], Mapping[int, float]]
TABLE: Table = {
    (): {0: 0.5, 3: 0.25, 2: 0.15, 7: 0.1},
    (0,): {1: 0.8, 4: 0.2},
    (0, 1): {2: 0.9, 5: 0.1},
    (0, 1, 2): {1: 0.6, 4: 0.4},
}
ENDS = {END: 0.7, OTHER_END: 0.2, 2: 0.1}


class Spelling:
    """The part of a codec that drafting needs: the longest token that fits comes first."""

    def __init__(self, spellings: Sequence[bytes], ends: Iterable[int] = ()) -> None:
        self._spellings = list(spellings)
        self.end_ids = frozenset(ends)
        self.end_id = min(self.end_ids, default=-1)

    def surface(self, token: int) -> bytes:
        return self._spellings[token]

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._spellings[token] for token in ids)

    def encode_bytes(self, data: bytes) -> tuple[int, ...]:
        if not data:
            return ()
        fits = [t for t, spelling in enumerate(self._spellings) if spelling and data.startswith(spelling)]
        first = max(fits, key=lambda token: len(self._spellings[token]))
        return (first, *self.encode_bytes(data[len(self._spellings[first]) :]))

    def first_token(self, data: bytes) -> int | None:
        return self.encode_bytes(data)[0] if data else None


class Scripted:
    """A plug-in that answers from a table, and remembers what it was fed."""

    def __init__(self, table: Table = TABLE, weight: float | None = 0.9) -> None:
        self.table, self.weight = table, weight
        self.fed: list[tuple[int, tuple[int, ...]]] = []
        self.held: list[int] | None = None

    async def open(
        self, ids: Sequence[int], rows: int = 1, decode: int = 0, threshold: float = 0.0, sampling: Sampling = GREEDY
    ) -> Step:
        assert list(ids) == PROMPT
        self.held = []
        return self._answer(1, decode if self.weight is None or self.weight >= threshold else 0, self.weight)

    async def extend(
        self,
        session: int,
        keep: int,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        if self.held is None or session != 1:
            raise SessionLostError("closed")
        keep -= len(PROMPT)
        assert 0 <= keep <= len(self.held)
        self.fed.append((keep, tuple(ids)))
        self.held = [*self.held[:keep], *ids]
        return self._answer(rows, decode, None)

    async def score(self, ids: Sequence[int]) -> Reading:
        raise AssertionError("drafts are not scored")

    async def fork(self, session: int) -> int:
        raise AssertionError("one reader alone never forks")

    async def close(self, session: int) -> None:
        self.held = None

    def _answer(self, rows: int, decode: int, weight: float | None) -> Step:
        assert self.held is not None
        made = [self._row(self.held[: len(self.held) - after]) for after in reversed(range(rows))]
        new: list[int] = []
        while len(new) < decode:
            new.append(int(made[-1][0][0]))
            if new[-1] in (END, OTHER_END) or len(new) == decode:
                break
            self.held.append(new[-1])
            made.append(self._row(self.held))
        top = Top(np.stack([ids for ids, _ in made]), np.stack([p for _, p in made]))
        return Step(top, tuple(new), 1, weight)

    def _row(self, answer: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        said = self.table.get(tuple(answer), ENDS)
        p_V = np.array([said.get(token, 0.0) for token in range(len(SPELLINGS))], np.float32)
        ids_V = np.argsort(-p_V, kind="stable").astype(np.int32)
        return ids_V, p_V[ids_V]


def drafter(model: Scripted, draft_tokens: int = 8) -> Drafter:
    codec: Any = Spelling(SPELLINGS, ends=(END, OTHER_END))
    return Drafter(model, codec, [PROMPT], draft_tokens)


def read(
    answer: bytes, target: Sequence[bytes], draft_tokens: int = 8, lead: bytes = b"", table: Table = TABLE
) -> DraftPosition:
    """What is read after `answer` for a target with these tokens (its end-of-text is put behind them)."""
    codec: Any = Spelling([*target, b""], ends=[len(target)])

    async def follow() -> DraftPosition:
        made = drafter(Scripted(table), draft_tokens)
        await made.open(threshold=0.0)
        reader = made.reader(lead)
        reader.ahead = max(draft_tokens, 1)
        await reader.follow(answer)
        return await reader.read(len(answer), codec)

    return asyncio.run(follow())


def proposed(reading: DraftPosition) -> Proposal:
    assert reading.proposal is not None
    return reading.proposal


def said(reading: DraftPosition) -> dict[int, float]:
    return {int(t): pytest.approx(float(p), abs=1e-6) for t, p in zip(reading.ids_K, reading.p_K, strict=True) if p > 0}


every_length = pytest.mark.parametrize("draft_tokens", [0, 1, 2, 3, 8])


@every_length
class TestReading:
    """What is read does not depend on the number of tokens drafted at once."""

    def test_a_token_over_two_of_the_plugins(self, draft_tokens: int) -> None:
        """ " Michel" is " Mich" (0.5), then "el" or what begins with it: exactly the drafted token, 0.8."""
        reading = read(b"", [b" Michel", b" P", b"el", b" ", b"M"], draft_tokens)
        assert proposed(reading) == Proposal(0, pytest.approx(0.5 * 0.8), {0: pytest.approx(0.4)})
        assert reading.suffixes is None
        assert said(reading) == {0: 0.5, 3: 0.25, 2: 0.15, 7: 0.1}

    def test_a_token_that_ends_inside_the_second(self, draft_tokens: int) -> None:
        """ " Miche" is " Mich" (0.5), then every token that begins with "e": 0.8 + 0.2."""
        proposal = proposed(read(b"", [b" Miche", b"l", b" P", b"el"], draft_tokens))
        assert proposal == Proposal(0, pytest.approx(0.5), {0: pytest.approx(0.5)})

    def test_a_token_shorter_than_the_plugins(self, draft_tokens: int) -> None:
        """ " " begins every token that the plug-in may write here, so all of its mass is covered."""
        proposal = proposed(read(b"", [b" ", b"Michel", b"P", b"el"], draft_tokens))
        assert (proposal.token, proposal.probability) == (0, pytest.approx(1.0))
        assert proposal.covered == {
            0: pytest.approx(0.5), 3: pytest.approx(0.25), 2: pytest.approx(0.15), 7: pytest.approx(0.1)
        }  # fmt: skip

    def test_inside_a_token_given_what_is_written_of_it(self, draft_tokens: int) -> None:
        """After " " the draft still reads " Mich": the rest of it, "aris" and "P", renormalised without 0.1 for " "."""
        reading = read(b" ", [b" ", b"Michel", b"P", b"el"], draft_tokens)
        assert reading.suffixes == (b"Mich", b"Paris", b"P")
        assert said(reading) == {0: 0.5 / 0.9, 3: 0.25 / 0.9, 2: 0.15 / 0.9}
        assert proposed(reading) == Proposal(1, pytest.approx(0.5 / 0.9 * 0.8), {0: pytest.approx(0.4 / 0.9)})

    def test_inside_a_token_up_to_its_end(self, draft_tokens: int) -> None:
        proposal = proposed(read(b" Mi", [b" Mi", b"ch", b"el", b" P"], draft_tokens))
        assert proposal == Proposal(1, pytest.approx(1.0), {0: pytest.approx(1.0)})

    def test_the_end_is_every_end_of_the_plugin(self, draft_tokens: int) -> None:
        table = {(): {0: 0.5}, (0,): {1: 0.8}}
        proposal = proposed(read(b" Michel", [b" Michel"], draft_tokens, table=table))
        assert proposal == Proposal(1, pytest.approx(0.9), {END: pytest.approx(0.7), OTHER_END: pytest.approx(0.2)})

    def test_no_further_than_four_tokens_are_looked_at(self, draft_tokens: int) -> None:
        """ "el P" + "el": four tokens from the start spell " Michel Pel", five would spell the longer token."""
        table = {(): {0: 1.0}, (0,): {1: 1.0}, (0, 1): {2: 1.0}, (0, 1, 2): {1: 1.0}, (0, 1, 2, 1): {1: 1.0}}
        target = [b" Michel Pelel", b" Michel Pel", b" Michel", b"el", b" P"]
        assert proposed(read(b"", target, draft_tokens, table=table)).token == 1
        assert proposed(read(b" Michel", target, draft_tokens, table=table)).token == 4

    def test_an_answer_that_leaves_the_draft_is_read_anew(self, draft_tokens: int) -> None:
        """ " Paris" was not drafted: the plug-in goes on from it, and there it ends."""
        reading = read(b" Paris", [b" Paris", b"el", b" P"], draft_tokens)
        assert said(reading) == {END: 0.7, OTHER_END: 0.2, 2: 0.1}
        assert proposed(reading).token == 3

    def test_an_answer_that_goes_on_where_the_draft_ends(self, draft_tokens: int) -> None:
        table = {(): {0: 0.5}, (0, 1): {1: 0.6, 5: 0.4}}
        reading = read(b" Michel", [b" Mich", b"el"], draft_tokens, table=table)  # the draft ends after " Mich"
        assert said(reading) == {1: 0.6, 5: 0.4}

    def test_a_lead_is_the_plugins_alone(self, draft_tokens: int) -> None:
        """The target's prompt ends in a space, so its answer begins inside the plug-in's " Mich"."""
        reading = read(b"", [b"Michel", b"P", b"el", b" P"], draft_tokens, lead=b" ")
        assert proposed(reading).token == 0
        assert said(reading) == {0: 0.5 / 0.9, 3: 0.25 / 0.9, 2: 0.15 / 0.9}
        assert proposed(read(b"Michel", [b"Michel", b" P", b"el"], draft_tokens, lead=b" ")).token == 1

    def test_a_draft_without_the_lead_is_begun_after_it(self, draft_tokens: int) -> None:
        table = {(): {1: 1.0}, (SPACE,): {1: 0.6, 4: 0.4}}
        assert said(read(b"", [b"el", b"a"], draft_tokens, lead=b" ", table=table)) == {1: 0.6, 4: 0.4}

    def test_a_token_without_text_changes_nothing(self, draft_tokens: int) -> None:
        """The draft begins with a start token: it has not left the lead, it has written nothing yet."""
        table = {(): {START: 1.0}, (START,): {0: 0.75, 3: 0.25}, (START, 0): {1: 1.0}}
        assert said(read(b"", [b"Mich", b"el"], draft_tokens, lead=b" ", table=table)) == {0: 0.75, 3: 0.25}


class TestCost:
    async def test_what_is_shared_with_the_answer_before_stays_in_the_cache(self) -> None:
        model = Scripted()

        made = drafter(model, draft_tokens=3)
        await made.open(0.0)  # drafts 0 1 2, the last of them not fed
        reader = made.reader()
        assert model.fed == []
        await reader.follow(b" Michela")  # leaves it: 0 4
        assert model.fed == [(1, (4,))]
        await reader.follow(b" Michel P")
        assert model.fed[1:] == [(1, (1, 2))]

    async def test_an_answer_along_the_draft_costs_nothing(self) -> None:
        model = Scripted()

        made = drafter(model, draft_tokens=6)
        await made.open(0.0)
        passes = made.passes
        reader = made.reader()
        codec: Any = Spelling([b" Michel", b" P", b"el", b""], ends=[3])
        for answer in (b"", b" Michel", b" Michel P", b" Michel Pel"):
            await reader.follow(answer)
            assert reader.ready(len(answer))
            await reader.read(len(answer), codec)
        assert (made.passes, model.fed) == (passes, [])

    async def test_below_the_threshold_nothing_is_drafted(self) -> None:
        model = Scripted(weight=0.3)

        made = drafter(model)
        assert await made.open(threshold=0.5) == 0.3
        assert (made.passes, model.fed, model.held) == (1, [], [])
        await made.aclose()
        assert model.held is None

    async def test_boundaries_encode_the_answer_alone(self) -> None:
        """What `boundary` reads is the start of a token after the answer as the plug-in itself would spell it."""
        model = Scripted({**TABLE, (3,): {1: 0.6, 5: 0.4}})

        made = drafter(model, draft_tokens=0)
        await made.open(0.0)
        reader = made.reader()
        assert said(await reader.boundary(b"")) == {0: 0.5, 3: 0.25, 2: 0.15, 7: 0.1}
        assert said(await reader.boundary(b" Mich")) == {1: 0.8, 4: 0.2}
        assert said(await reader.boundary(b" Michel")) == {2: 0.9, 5: 0.1}
        assert said(await reader.boundary(b" Paris")) == {1: 0.6, 5: 0.4}
        assert model.fed == [(0, (0,)), (1, (1,)), (0, (3,))]


async def test_a_plugin_without_a_gate_is_refused_and_closed() -> None:
    model = Scripted(weight=None)

    made = drafter(model)
    with pytest.raises(ModelError, match=r"no \[WEIGHT\] token"):
        await made.open(0.5)
    await made.aclose()
    assert model.held is None
