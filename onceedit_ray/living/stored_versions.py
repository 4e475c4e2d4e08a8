"""The versions of the plug-in that is served, as they lie in the store: listing, showing and deleting them."""

from __future__ import annotations

import asyncio

from onceedit_ray.errors import NotPossibleError, UnknownIdError
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.edit_views import DeletedVersion, VersionDetail, VersionView, version_view


class StoredVersions:
    """What both kinds of living knowledge can do with versions.

    store: of all versions. active: the version that answers now.
    """

    def __init__(self, store: KnowledgeStore, active: Version) -> None:
        self._store = store
        self.active = active

    async def versions(self, limit: int = 100) -> list[VersionView]:
        """The newest `limit` versions of the plug-in that is served, the newest first."""
        made = await asyncio.to_thread(self._store.versions, limit)
        return [self._version(version) for version in reversed(made) if self._is_own(version)][:limit]

    async def version(self, id: str) -> VersionDetail:
        """A version with its edits; raises `UnknownIdError` if this plug-in has none with this id."""
        version = await self._own(id)
        edits = await asyncio.to_thread(version.edits)
        return VersionDetail(**self._version(version).model_dump(), data=edits)

    async def remove_version(self, id: str) -> DeletedVersion:
        """Delete a version that nothing needs.

        Raises `UnknownIdError` as `version`, `NotPossibleError` if the version answers or others were made from it.
        """
        version = await self._own(id)
        if version.id == self.active.id:
            raise NotPossibleError(f"version '{id}' answers now; activate another one first")
        await asyncio.to_thread(self._store.delete, version.id)
        return DeletedVersion(id=version.id)

    async def _own(self, id: str) -> Version:
        version = await asyncio.to_thread(self._store.find, id)
        if version is None or not self._is_own(version):
            raise UnknownIdError(f"there is no version '{id[:100]}'; GET /v1/versions lists them")
        return version

    def _is_own(self, version: Version) -> bool:
        return version.manifest.base_digest == self.active.manifest.base_digest

    def _version(self, version: Version) -> VersionView:
        return version_view(version, version.id == self.active.id)
