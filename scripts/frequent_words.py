"""Write `onceedit_ray/knowledge/data/frequent_words.txt`: `python scripts/frequent_words.py TOKENIZER_JSON`.

A byte-pair vocabulary lists its tokens in the order of merging, so its lower-case tokens that begin a word are the
words of its corpus, the most frequent first. Names are missing, since they begin with a capital. The file in the
package is made from the tokenizer of SmolLM2-135M (Apache-2.0).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "onceedit_ray" / "knowledge" / "data" / "frequent_words.txt"
MOST = 20_000


def frequent_words(tokenizer: Path) -> list[str]:
    """The lower-case words of two letters or more that are tokens of their own, by rank."""
    ranks: dict[str, int] = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    ordered = sorted(ranks, key=ranks.__getitem__)
    return [token[1:] for token in ordered if re.fullmatch("Ġ[a-z]{2,}", token)][:MOST]


if __name__ == "__main__":
    TARGET.write_text("\n".join(frequent_words(Path(sys.argv[1]))) + "\n", encoding="utf-8")
