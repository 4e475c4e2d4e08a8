"""The keys of a tab survive a reload, and are deleted when the user removes them."""

from __future__ import annotations

import itertools

from onceedit_ray.playground.tab_keys import TabKeys


class Timed(dict[str, str]):
    """A store that counts its writes."""

    writes = itertools.count()
    last = -1

    def __setitem__(self, name: str, key: str) -> None:
        super().__setitem__(name, key)
        self.last = next(self.writes)


def test_they_outlast_a_reload() -> None:
    store, before = Timed(), TabKeys()
    before.open(store)
    before.keep(" asking ", "")
    after = TabKeys()
    after.open(store)
    assert (after.asking, after.editing, dict(store)) == ("asking", "", {"asking": "asking"})


def test_a_store_that_was_lost_gets_them_again() -> None:
    keys = TabKeys()
    keys.open(Timed())
    keys.keep("asking", "editing")
    new = Timed()
    keys.open(new)
    assert dict(new) == {"asking": "asking", "editing": "editing"}


def test_a_page_that_is_being_left_does_not_put_forgotten_keys_back() -> None:
    """After a reload the older page stays open for some seconds and still writes to the store."""
    store, older, newer = Timed(), TabKeys(), TabKeys()
    older.open(store)
    older.keep("asking", "editing")
    newer.open(store)
    newer.keep("", "editing")
    written = store.last
    older.touch()
    assert dict(store) == {"editing": "editing"}
    assert store.last > written, "what is left is kept for longer"
