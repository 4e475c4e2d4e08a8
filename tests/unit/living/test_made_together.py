"""What goes into one version: simultaneous deletions, a prompt in several spellings, the work of a dead process."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.errors import ConflictError
from onceedit_ray.knowledge.edit import Edit
from tests.small_queue import FIRST, SECOND, THIRD, System, added, batch_in, edit_in, system

OTHER = Edit(prompt="Who painted the Mona Lisa?", target_new="Ada Lovelace")


@pytest.mark.parametrize("busy", [False, True])
async def test_deletions_that_wait_are_made_together(tmp_path: Path, busy: bool) -> None:
    """Each deletion is a separate call, with and without a version being made meanwhile."""

    here = system(tmp_path, [FIRST, SECOND, THIRD])
    ids = [edit.id for edit in (await here.living.edits()).data if edit.target_new != "Lyon"]
    running = asyncio.ensure_future(here.living.run())
    if busy:
        here.maker.held = asyncio.Event()
        await here.living.submit([OTHER])
        while not here.maker.made:
            await asyncio.sleep(0.001)
    for id in ids:
        await here.living.remove(id)
        await asyncio.sleep(0.02)
    if here.maker.held:
        here.maker.held.set()
    while not here.living.is_idle:
        await asyncio.sleep(0.005)
    running.cancel()
    last = ["Lyon", OTHER.target_new] if busy else ["Lyon"]
    assert [made[0] for made in here.maker.made[busy:]] == [last], "one version for all of them"
    assert here.targets() == sorted(last)


@pytest.mark.parametrize("deletion", [False, True])
@pytest.mark.parametrize("deaths", [1, 3])
async def test_what_a_process_was_making_that_died_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletion: bool, deaths: int
) -> None:
    """If the process dies each time, the edits are refused: they may be the cause."""
    monkeypatch.setattr(asyncio, "sleep", functools.partial(quick, asyncio.sleep))

    here = system(tmp_path, [FIRST, SECOND])
    here.maker.deaths = deaths
    id = await asked_for(here, deletion)
    await here.settled()
    found = edit_in(await here.living.found(id))
    assert len(here.maker.made) == min(deaths + 1, 3)
    if deaths == 3:
        assert found.status == ("live" if deletion else "refused") and "died" in (found.reason or "")
    else:
        assert found.status == ("deleted" if deletion else "live")


@pytest.mark.parametrize("deletion", [False, True])
async def test_other_processes_that_die_while_it_goes_live_refuse_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletion: bool
) -> None:
    monkeypatch.setattr(asyncio, "sleep", functools.partial(quick, asyncio.sleep))
    here = system(tmp_path, [FIRST, SECOND])
    here.loader.deaths = 5
    id = await asked_for(here, deletion)
    await here.settled()
    found = edit_in(await here.living.found(id))
    assert found.status == ("deleted" if deletion else "live") and here.loader.deaths == 0


async def asked_for(here: System, deletion: bool) -> str:
    """Delete the first edit, or add the third; its id."""
    if not deletion:
        return (await here.living.submit([THIRD])).data[0].id
    (id,) = [edit.id for edit in (await here.living.edits()).data if edit.target_new == "Lyon"]
    await here.living.remove(id)
    return id


async def quick(sleep: Any, seconds: float) -> None:
    await sleep(min(seconds, 0.01))


@pytest.mark.parametrize("again", [" what is the\n capital of  FRANCE? ", "What is the capital of France?"])
async def test_a_question_has_one_answer_however_it_is_typed(tmp_path: Path, again: str) -> None:
    here = system(tmp_path, [FIRST])
    other = Edit(prompt=again, target_new="Nice")
    with pytest.raises(ConflictError, match='"Lyon" and "Nice"'):
        await here.living.submit([FIRST, other])
    batch = await added(here, other)
    assert here.targets() == ["Nice"]
    assert len(batch.data[0].replaces) == 1
    one, two = await here.living.submit([FIRST]), await here.living.submit([other])
    await here.settled()
    states = [batch_in(await here.living.found(each.id)).status for each in (one, two)]
    assert here.targets() == ["Nice"] and states == ["deleted", "live"], "not made together"
