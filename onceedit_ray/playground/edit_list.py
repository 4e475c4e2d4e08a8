"""The edits of the server and the versions they made: adding, watching, deleting, rolling back.

Knows nothing of the page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from onceedit_ray.playground.api_client import ApiClient, RequestError, listed
from onceedit_ray.playground.listed import ListedEdit, ListedVersion, same_prompt
from onceedit_ray.playground.tab_keys import TabKeys
from onceedit_ray.validation import problems

PAGE = 20
READ_EACH = 10
"""Number of updates after which the lists are read in full, since other people edit too."""
NO_EDITING = (404, 501)
"""HTTP statuses of a server that takes no edits."""

Listed = TypeVar("Listed", bound=BaseModel)


class EditsOfServer:
    """The edits and versions of the server, as they were last read.

    Args:
        api: the client of the server. keys: the visitor's keys. on_change: called when an attribute has changed.
            on_news: called with a sentence that a screen reader announces.

    Attributes:
        edits: the newest first. more: whether the server has older ones. versions: the newest first. offered: whether
        the server takes edits. loaded: whether the lists have been read. trouble: the error of the last request; None
        if it succeeded.
    """

    def __init__(
        self, api: ApiClient, keys: TabKeys, on_change: Callable[[], None], on_news: Callable[[str], None]
    ) -> None:
        self.edits: list[ListedEdit] = []
        self.versions: list[ListedVersion] = []
        self.more = False
        self.offered = True
        self.loaded = False
        self.trouble: RequestError | None = None
        self._api = api
        self._keys = keys
        self._on_change = on_change
        self._on_news = on_news
        self._changes = 0  # a list that was requested before a change must not undo that change
        self._looks = 0

    # --- what is known ---

    @property
    def kept(self) -> list[ListedEdit]:
        """The edits that are not deleted."""
        return [edit for edit in self.edits if edit.status != "deleted"]

    @property
    def live(self) -> list[ListedEdit]:
        """The edits that the models answer with."""
        return [edit for edit in self.edits if edit.status == "live"]

    @property
    def active(self) -> ListedVersion | None:
        """The version that answers."""
        return next((version for version in self.versions if version.active), None)

    def replaced(self, prompt: str, target_new: str) -> str | None:
        """The live answer that an edit of `prompt` to `target_new` replaces; None if there is none."""
        others = (edit for edit in self.live if same_prompt(edit.prompt, prompt))
        return next((edit.target_new for edit in others if edit.target_new != target_new), None)

    def replaced_by(self, edit: ListedEdit) -> list[str]:
        """The answers that `edit` replaces or has replaced; the id is given for an edit that has not been read."""
        if edit.replaces:
            known = {other.id: f"“{other.target_new}”" for other in self.edits}
            return [known.get(name, name) for name in edit.replaces]
        if edit.status == "deleting" or not edit.under_way:
            return []
        answer = self.replaced(edit.prompt, edit.target_new)
        return [] if answer is None else [f"“{answer}”"]

    # --- reading ---

    async def load(self) -> None:
        """Read the lists again, as many items as are shown."""
        await self._attempt(self._load)

    async def older(self) -> None:
        """Read another page of edits."""

        async def read() -> None:
            content = await self._request("GET", f"edits?limit={PAGE}&after={quote(self.edits[-1].id, safe='')}")
            known = {edit.id for edit in self.edits}
            self.edits += [edit for edit in _parsed(ListedEdit, listed(content)) if edit.id not in known]
            self.more = bool(content.get("has_more"))

        await self._attempt(read)

    async def look(self) -> None:
        """Read the edits that are in progress, and the whole lists from time to time. Call it every second."""
        self._looks += 1
        batches = {edit.batch for edit in self.edits if edit.under_way}
        if batches:
            await self._attempt(lambda: self._watch(batches))
        locked = self.trouble is not None and self.trouble.is_about_keys
        if self._looks % READ_EACH == 0 and self.offered and not locked:
            self._keys.touch()
            await self.load()

    async def _load(self) -> None:
        changes = self._changes
        count = max(PAGE, len(self.edits))
        edits, versions = await asyncio.gather(
            self._request("GET", f"edits?limit={count}"), self._request("GET", "versions")
        )
        found, made = _parsed(ListedEdit, listed(edits)), _parsed(ListedVersion, listed(versions))
        self.offered = self.loaded = True
        if changes == self._changes:
            self.edits, self.versions, self.more = found, made, bool(edits.get("has_more"))

    async def _watch(self, batches: Iterable[str]) -> None:
        contents = await asyncio.gather(*(self._request("GET", _path("edits", batch)) for batch in sorted(batches)))
        found = [edit for content in contents for edit in _parsed(ListedEdit, listed(content))]
        ended = [edit for edit in found if self._take(edit) and not edit.under_way]
        if not ended:
            return
        self._on_news(" ".join(f"{edit.quoted} is {edit.status}." for edit in ended))
        await self._load()  # for the new version and the edits that were replaced

    # --- changing ---

    async def add(self, edit: dict[str, Any]) -> None:
        """Send an edit; raises `RequestError`."""
        batch = _parsed(ListedEdit, listed(await self._request("POST", "edits", edit)))
        known = {old.id for old in self.edits}
        self.edits[:0] = [new for new in batch if new.id not in known]
        self._changed()
        replaced = [answer for new in batch for answer in self.replaced_by(new)]
        instead = f", in place of {' and '.join(replaced)}" if replaced else ""
        is_live = all(new.status == "live" for new in batch)
        self._on_news(f"{'Live' if is_live else 'Queued'}: {', '.join(new.quoted for new in batch)}{instead}.")
        if is_live:
            await self.load()  # for the new version and the edits that were replaced

    async def remove(self, edit: ListedEdit) -> None:
        """Ask the server for a version without `edit`."""

        async def delete() -> None:
            removed = _parsed(ListedEdit, [await self._request("DELETE", _path("edits", edit.id))])[0]
            self._take(removed)
            if removed.status == "deleted":
                self._on_news(f"{removed.quoted} is deleted.")
                await self._load()
                return
            self._on_news(f"Deleting {edit.quoted}: a version without it is being made.")

        await self._attempt(delete)

    async def activate(self, version: ListedVersion) -> None:
        """Make `version` the one that answers."""

        async def switch() -> None:
            await self._request("POST", f"{_path('versions', version.id)}/activate")
            self._on_news(f"Version {version.id} is live.")
            await self._load()

        await self._attempt(switch)

    def _take(self, edit: ListedEdit) -> bool:
        """Replace the edit that has the same id; returns whether its status has changed."""
        for place, known in enumerate(self.edits):
            if known.id == edit.id:
                self.edits[place] = edit
                self._changed()
                return known.status != edit.status
        return False

    # --- asking the server ---

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return await self._api.request(method, path, self._keys.editing, body)

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` and keep its error; the lists are hidden if the key is refused."""
        try:
            await work()
            self.trouble = None
        except RequestError as error:
            if error.is_about_keys:
                self.edits, self.versions, self.loaded = [], [], False
                self._changes += 1
            if error.status in NO_EDITING and not self.loaded:
                self.offered = False
            else:
                self.trouble = error
        self._on_change()

    def _changed(self) -> None:
        self._changes += 1
        self._on_change()


def _path(kind: str, name: str) -> str:
    return f"{kind}/{quote(name, safe='')}"


def _parsed(kind: type[Listed], items: Iterable[Any]) -> list[Listed]:
    try:
        return [kind.model_validate(item) for item in items]
    except ValidationError as error:
        found = problems(error, most=1)
        raise RequestError(f"the server lists something that this page cannot show ({found})") from None
