"""A hash of a file's content: the same for a published JSON file and the Parquet file made from it.

The id of a comparison cell depends on the content of its files. `published.json` beside a Parquet file says from which
JSON file it was made (`scripts/make_data.py`), so a cell keeps its id when its data moves from JSON to Parquet.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from onceedit_ray.errors import DataError

PUBLISHED = "published.json"


def content_hash(file: Path) -> str:
    """SHA-256 (hexadecimal) of a file's bytes, or of the published file that it was made from.

    The hash of the published file is used only if the file's own bytes are those that `published.json` lists. Raises
    `DataError` if that list is damaged, `OSError` if the file cannot be read.
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
