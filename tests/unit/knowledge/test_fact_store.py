"""Edits as rows: the contents of a revision, and the effects of every call."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from onceedit_ray.errors import ConfigError, ConflictError, UnknownIdError
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.fact_store import FactStore
from onceedit_ray.knowledge.revision import StoredEdit


def edit(prompt: str, answer: str = "a", **more: object) -> Edit:
    return Edit.model_validate({"prompt": prompt, "target_new": answer, **more})


def answers(stored: list[StoredEdit]) -> dict[str, str]:
    return {one.edit.prompt: one.edit.target_new for one in stored}


@pytest.fixture
def store(tmp_path: Path) -> FactStore:
    return FactStore(tmp_path / "new" / "facts.db")


def test_a_new_store_is_empty_and_at_revision_zero(store: FactStore) -> None:
    assert (store.revision, len(store), store.live(), store.page(), store.revisions()) == (0, 0, [], [], [])
    assert store.changes_since(0).added == ()


def test_every_field_comes_back_after_reopening(store: FactStore) -> None:
    full = edit(
        "Größe\u2028von\x00X?",
        "groß\n",
        subject="X",
        ground_truth="klein",
        rephrasings=["wie?"],
        locality=[Probe(prompt="p", answer="")],
        portability=[Probe(prompt="q", answer="r")],
        aliases=["Ix"],
        sentences=["X ist groß."],
    )
    change = store.add([full], note="first", report={"gate": 0.5})
    store.close()
    again = FactStore(store.path)
    assert again.live() == list(change.added)
    assert again.get(change.added[0].id).stored.edit == full
    (revision,) = again.revisions()
    assert (revision.revision, revision.note, revision.report, revision.live) == (1, "first", {"gate": 0.5}, 1)


def test_a_live_edit_of_the_same_prompt_is_replaced_and_named(store: FactStore) -> None:
    (old,) = store.add([edit("Who  is it?", "Ann")]).added
    change = store.add([edit(" Who is\nit? ", "Bob"), edit("Where?", "there")])
    new = change.added[0]
    assert change.replaced == {new.id: old.id}
    assert [dropped.id for dropped in change.dropped] == [old.id]
    assert answers(store.live()) == {" Who is\nit? ": "Bob", "Where?": "there"}
    assert store.get(old.id).stored.dropped == 2 and store.get(new.id).stored.dropped is None
    assert store.get(new.id).replaces == (old.id,) and store.get(old.id).replaced_by == new.id


def test_prompts_that_differ_in_case_are_one(store: FactStore) -> None:
    store.add([edit("Who is It?", "1")])
    assert len(store.add([edit("who is it?", "2")]).replaced) == 1


def test_composed_and_decomposed_prompts_are_one(store: FactStore) -> None:
    store.add([edit("Caf\u00e9?", "1")])
    assert len(store.add([edit("Cafe\u0301?", "2")]).replaced) == 1


def test_an_equal_edit_keeps_its_id(store: FactStore) -> None:
    (old,) = store.add([edit("Q?", "a")]).added
    change = store.add([edit("Q?", "a"), edit("R?", "b")])
    assert [kept.id for kept in change.kept] == [old.id]
    assert [added.edit.prompt for added in change.added] == ["R?"]
    assert change.dropped == ()
    assert store.add([edit("Q?", "a", subject="Q")]).replaced.keys().isdisjoint({old.id})


def test_two_answers_in_one_call_change_nothing(store: FactStore) -> None:
    with pytest.raises(ConflictError, match='"Q\\?" has the answers "a" and "b"'):
        store.add([edit("R?"), edit("Q?", "a"), edit("Q?", "b")])
    assert (store.revision, len(store)) == (0, 0)
    assert answers(list(store.add([edit("Q?", "a"), edit("Q?", "b")], on_conflict="last").added)) == {"Q?": "b"}


def test_removing_is_all_or_nothing(store: FactStore) -> None:
    first, second = store.add([edit("1"), edit("2")]).added
    with pytest.raises(UnknownIdError, match="no edit 'edit_0'"):
        store.remove([first.id, "edit_0"])
    assert len(store) == 2
    assert [gone.id for gone in store.remove([first.id, first.id]).dropped] == [first.id]
    with pytest.raises(UnknownIdError, match="is not live: revision 2 dropped it"):
        store.remove([second.id, first.id])
    assert [one.id for one in store.live()] == [second.id]


def test_restoring_makes_the_old_set_a_new_revision(store: FactStore) -> None:
    store.add([edit("1", "old"), edit("2")])
    old = store.live()
    store.add([edit("1", "new"), edit("3")])
    store.remove([old[1].id])
    change = store.restore(1)
    assert (change.revision, store.revision) == (4, 4)
    assert [(one.id, one.edit) for one in store.live()] == [(one.id, one.edit) for one in old]
    assert {one.id for one in change.added} == {one.id for one in old}
    assert {one.edit.target_new for one in change.dropped} == {"new", "a"}
    assert store.revisions(1)[0].restored == 1
    assert store.restore(4).added == ()
    assert store.restore(0).dropped and len(store) == 0
    with pytest.raises(UnknownIdError, match="no revision 99; the newest is 6, the first is 0"):
        store.restore(99)
    assert store.revision == 6


def test_pages_run_from_the_newest_and_survive_a_removal(store: FactStore) -> None:
    ids = [store.add([edit(str(number))]).added[0].id for number in range(7)]
    first = store.page(limit=3)
    assert [one.stored.id for one in first] == ids[:3:-1]
    store.remove([first[-1].stored.id])
    assert [one.stored.id for one in store.page(after=first[-1].stored.id, limit=3)] == [ids[3], ids[2], ids[1]]
    assert store.page(after=ids[0]) == []
    assert [one.stored.id for one in store.page(limit=9, live=False)] == [first[-1].stored.id]
    assert [one.stored.id for one in store.page(limit=9, live=None)] == ids[::-1]
    with pytest.raises(UnknownIdError):
        store.page(after="edit_0")
    with pytest.raises(ConfigError, match="at least 1"):
        store.page(limit=0)


def test_each_revision_has_the_id_of_a_version(store: FactStore) -> None:
    store.put([edit("1"), edit("2")], "run-1a")
    (one, two) = store.live()
    store.add([edit("3")])
    store.remove([one.id])
    store.restore(1)
    store.add([edit("2", "b")])
    assert [(r.version, r.root, r.live) for r in reversed(store.revisions())] == [
        ("run-1a", "run-1a", 2),
        ("run-1a.r2", "run-1a", 3),
        ("run-1a.r3", "run-1a", 2),
        ("run-1a", "run-1a", 2),
        ("run-1a.r5", "run-1a", 2),
    ]
    assert [r.version for r in store.revisions(restored=False)] == ["run-1a.r5", "run-1a.r3", "run-1a.r2", "run-1a"]
    assert [r.version for r in store.revisions(1, before=5)] == ["run-1a"]
    found = store.find("run-1a.r3")
    assert found is not None and found.revision == 3 and store.find("run-1a.r4") is None
    second = store.page(live=False)[1]
    assert (second.stored.edit.prompt, second.version, second.dropped_by) == ("2", "run-1a", "run-1a.r5")
    assert not second.undone
    assert [(h.stored.edit.prompt, h.undone) for h in store.first_added(2)] == [("3", True)]
    other = store.put([edit("2", "b"), edit("4")], "run-2b")
    assert [added.edit.prompt for added in other.added] == ["4"], "an equal edit stays under its id"
    assert {gone.id for gone in other.dropped} == {one.id}
    assert store.put([edit("9")], "run-1a").revision == 7, "a version that was put before is restored as it was"
    assert {held.id for held in store.live()} == {one.id, two.id}
    assert store.revisions(1)[0].root == "run-1a"


def test_a_report_is_kept_with_its_revision(store: FactStore) -> None:
    store.add([edit("1")], report={"gate": {"own": [1.0, float("inf")]}})
    store.add([edit("2")], report={"a": 1})
    assert [revision.report for revision in store.revisions()] == [{"a": 1}, {"gate": {"own": [1.0, float("inf")]}}]


def test_ids_are_unique_and_in_order(store: FactStore) -> None:
    ids = [one.id for one in store.add([edit(str(number)) for number in range(2000)]).added]
    assert len(set(ids)) == 2000
    assert all(id.startswith("edit_") and id[5:].isalnum() for id in ids)


@pytest.mark.parametrize("seed", range(4))
def test_any_history_is_told_exactly(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    store = FactStore(tmp_path / "facts.db")
    states: list[dict[str, Edit]] = [{}]
    for _ in range(60):
        state = dict(states[-1])
        kind = draw.choice(("add", "add", "remove", "restore"))
        if kind == "add":
            for one in store.add([edit(f"Q{n}", str(draw.randrange(3))) for n in draw.sample(range(8), 3)]).added:
                state = {id: held for id, held in state.items() if held.prompt != one.edit.prompt} | {one.id: one.edit}
        elif kind == "remove":
            gone = draw.sample(sorted(state), min(2, len(state)))
            store.remove(gone)
            state = {id: held for id, held in state.items() if id not in gone}
        else:
            back = draw.randrange(len(states))
            store.restore(back)
            state = dict(states[back])
        states.append(state)
    for revision, state in enumerate(states):
        assert {one.id: one.edit for one in store.live(revision)} == state
        change = store.changes_since(revision)
        follower = {id: held for id, held in state.items() if id not in {one.id for one in change.dropped}}
        assert len(follower) == len(state) - len(change.dropped)
        assert not follower.keys() & {one.id for one in change.added}
        assert follower | {one.id: one.edit for one in change.added} == states[-1]
        assert all(change.dropped and old in state for old in change.replaced.values())
    newest = {revision.revision: revision.live for revision in store.revisions(100)}
    assert newest == {revision: len(state) for revision, state in enumerate(states) if revision}


def test_an_edit_costs_the_same_however_many_are_live(tmp_path: Path) -> None:
    def steps(live: int) -> list[int]:
        store = FactStore(tmp_path / f"{live}.db")
        store.add([edit(str(number)) for number in range(live)])
        counts = []
        calls: tuple[Callable[[], object], ...] = (
            lambda: store.add([edit("new")]),
            lambda: store.changes_since(1),
            lambda: store.revision,
            lambda: store.restore(1),
            lambda: store.remove([store.page(limit=1)[0].stored.id]),
            lambda: store.find("r2"),
        )
        for call in calls:
            taken = [0]

            def count(taken: list[int] = taken) -> int:
                taken[0] += 1
                return 0

            store._connection.set_progress_handler(count, 1)  # called at each step of SQLite's machine
            call()
            store._connection.set_progress_handler(None, 1)
            counts.append(taken[0])
        return counts

    few, many = steps(20), steps(4000)
    assert all(0 < b <= 1.5 * a for a, b in zip(few, many, strict=True)), (few, many)
