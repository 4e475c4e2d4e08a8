"""Holds the two keys of a visitor, only in the page's process and only for one browser tab."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Literal

Purpose = Literal["asking", "editing"]


class TabKeys:
    """The keys of one tab.

    The store that `open` is given keeps the keys when the page is reloaded. Its entries expire some time after the last
    write, so `touch` writes them again while the page is open.
    """

    def __init__(self) -> None:
        self.asking = ""
        self.editing = ""
        self._store: MutableMapping[str, str] = {}

    def open(self, store: MutableMapping[str, str]) -> None:
        """Read the keys from `store` if there are none yet, and keep keys there from now on."""
        self._store = store
        self.keep(self.asking or store.get("asking", ""), self.editing or store.get("editing", ""))

    def keep(self, asking: str, editing: str) -> None:
        """Use these keys from now on; "" means no key."""
        self.asking, self.editing = asking.strip(), editing.strip()
        for name, key in (("asking", self.asking), ("editing", self.editing)):
            if key:
                self._store[name] = key
            else:
                self._store.pop(name, None)

    def touch(self) -> None:
        """Write again what the store holds; a key that the tab has forgotten since is not put back."""
        for name, key in list(self._store.items()):
            self._store[name] = key
