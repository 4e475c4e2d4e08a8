"""Make the Parquet files of `data/` from the published JSON files of the data sets.

    python -m scripts.make_data FOLDER [--to data]

FOLDER holds the files of `FILES` under the names given there, in any of its subfolders. `data/README.md` says where
they come from. The same files make the same bytes with the pyarrow of `constraints.txt`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "zsre_edit.json",
    "zsre_train.json",
    "counterfact_edit.json",
    "counterfact_train.json",
    "counterfact_portability.json",
    "mixed_prompts.json",
)
VOCABULARIES = {"tinyllama": "llama2.json", "mistral-7b-v0.1": "mistral-7b-v0.1.json", "gpt-j-6b": "gptj.json"}
"""Token lists by model, position = token id. TinyLlama's list is Llama 2's."""

PUBLISHED = "published.json"


def write_table(table: pa.Table, path: Path) -> None:
    """Write `table` as a small Parquet file: zstd at its highest ordinary level, one row group."""
    pq.write_table(
        table, path, compression="zstd", compression_level=19, row_group_size=len(table), write_statistics=False
    )


def make_data(source: Path, to: Path) -> None:
    """Write `data/*.parquet`, and `published.json` with the SHA-256 of each file and of the JSON file it was made from.

    Raises `FileNotFoundError` for a file that `source` lacks.
    """
    to.mkdir(parents=True, exist_ok=True)
    published = {}
    for name in FILES:
        content = found(source, name).read_bytes()
        path = to / f"{Path(name).stem}.parquet"
        write_table(pa.Table.from_pylist(json.loads(content)), path)
        published[path.name] = {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "made_from": name,
            "made_from_sha256": hashlib.sha256(content).hexdigest(),
        }
    tokens = {model: json.loads(found(source, name).read_bytes()) for model, name in VOCABULARIES.items()}
    rows = [
        {"model": model, "id": token_id, "token": token}
        for model, listed in tokens.items()
        for token_id, token in enumerate(listed)
    ]
    write_table(pa.Table.from_pylist(rows), to / "vocabularies.parquet")
    (to / PUBLISHED).write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")


def found(folder: Path, name: str) -> Path:
    """The file called `name` in `folder` or below; raises `FileNotFoundError` that says what is missing."""
    path = next(iter(sorted(folder.rglob(name))), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: holds no {name}; data/README.md says where it is published")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of the published JSON files")
    parser.add_argument("--to", type=Path, default=ROOT / "data", help="where the Parquet files go (default: data/)")
    options = parser.parse_args()
    try:
        make_data(options.source, options.to)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
