"""Holds the two keys of a visitor, only in the page's process and only for one browser tab."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Literal

Purpose = Literal["asking", "editing"]


class TabKeys:
    """The keys of one tab.

    store: keeps them when the page is reloaded. Its entries expire some time after they were last written, so `touch`
    writes them again while the page is open.
    """

    def __init__(self) -> None:
        self.asking = ""
        self.editing = ""
        self._store: MutableMapping[str, str] = {}

    def open(self, store: MutableMapping[str, str]) -> None:
        """Read the keys from `store` if there are none yet, and keep keys there from now on."""
        self._store = store
        self.asking = self.asking or store.get("asking", "")
        self.editing = self.editing or store.get("editing", "")
        self.touch()

    def keep(self, asking: str, editing: str) -> None:
        """Use these keys from now on; "" means no key."""
        self.asking, self.editing = asking.strip(), editing.strip()
        self.touch()

    def touch(self) -> None:
        """Write the keys to the store again."""
        for name, key in (("asking", self.asking), ("editing", self.editing)):
            if key:
                self._store[name] = key
            else:
                self._store.pop(name, None)
