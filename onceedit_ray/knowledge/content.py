"""What a file holds, as a hash: the same for a published JSON file and for the Parquet file that was made from it.

A comparison cell is named after what its files hold. `published.json` beside a Parquet file says which JSON file it was
made from (`scripts/make_data.py`), so that a cell keeps its id when its data moves from one to the other.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from onceedit_ray.errors import DataError

PUBLISHED = "published.json"


def content_hash(file: Path) -> str:
    """SHA-256 (hexadecimal) of a file's bytes, or of the published file that it was made from.

    The second holds only while the file's own bytes are those that `published.json` lists. Raises `DataError` where
    that list is damaged, `OSError` where the file cannot be read.
    """
    with file.open("rb") as opened:
        own = hashlib.file_digest(opened, "sha256").hexdigest()
    listed = file.parent / PUBLISHED
    if not listed.exists():
        return own
    try:
        made = json.loads(listed.read_text(encoding="utf-8")).get(file.name, {})
        return str(made["made_from_sha256"]) if made.get("sha256") == own else own
    except (ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{listed}: not a list of published files; get it again, or remove it") from error
