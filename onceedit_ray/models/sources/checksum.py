"""SHA-256 of large files, with a cache.

A file is read again only if its path, size or modification time changes. The cache is under
`onceedit_home()/checksums`, never beside the file. This module does not know models.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from onceedit_ray.files import replacing
from onceedit_ray.home import onceedit_home


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's content; raises `OSError` if it cannot be read."""
    path = path.resolve()
    stat = path.stat()
    stamp = [str(path), stat.st_size, stat.st_mtime_ns]
    note = onceedit_home() / "checksums" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:24]}.json"
    known = _read(note)
    if known.get("stamp") == stamp:
        return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with replacing(note) as temporary:
        temporary.write_text(json.dumps({"stamp": stamp, "sha256": digest}), encoding="utf-8")
    return digest


def _read(note: Path) -> dict[str, object]:
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
