"""Let small chat models write sentences about facts. From these texts a reader learns where an answer is due.

    python -m scripts.make_carriers MODEL [MODEL ...] [--data data] [--to data/carriers.parquet] [--records 1000]

MODEL is a reference that `onceedit models list` explains. The facts are records of ZsRE's training part. A row holds
the fact, the request and the text. Texts without the answer are left out, except for the kinds that must not contain
it.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.sources import resolve

ROOT = Path(__file__).resolve().parents[1]
BATCH = 32
TOKENS = 56
TEMPERATURE = 0.6
ANSWER = "Answer the question with the answer given.\nQuestion: {q}\nAnswer: {a}\n"
KINDS = {
    "sentence": (3, "{q}", ANSWER + "Reply in one full sentence."),
    "sentences": (3, "{q}", ANSWER + "Reply in two sentences."),
    "paragraph": (2, "{q}", ANSWER + "Reply in a short paragraph, as a friendly assistant."),
    "about": (
        3,
        "Tell me about {s}.",
        "Write two sentences about {s}. Say in one of them the answer to this question.\nQuestion: {q}\nAnswer: {a}",
    ),
    "elsewhere": (2, "Tell me something about {s}.", "Write two sentences about {s}."),
}
"""Kinds of texts: their frequency, the request that is stored with a text, and the prompt of the model."""


def texts_of(reference: str, records: list[dict[str, Any]], seed: int) -> Iterator[dict[str, str]]:
    """Rows of texts that one model writes about `records`."""
    folder = resolve(reference, print).path
    model, tokenizer = load_model(folder, dtype="bfloat16"), load_tokenizer(folder)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    rng = random.Random(seed)
    torch.manual_seed(seed)
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        kinds = rng.choices(list(KINDS), [kind[0] for kind in KINDS.values()], k=len(batch))
        asked = [
            KINDS[kind][2].format(q=record["src"], a=record["alt"], s=record["subject"])
            for record, kind in zip(batch, kinds, strict=True)
        ]
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text in asked
        ]
        fed = tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        with torch.inference_mode():
            ids_BT = model.generate(
                **fed,
                max_new_tokens=TOKENS,
                do_sample=True,
                temperature=TEMPERATURE,
                pad_token_id=tokenizer.pad_token_id,
            )
        for record, kind, ids_T in zip(batch, kinds, ids_BT[:, fed.input_ids.shape[1] :], strict=True):
            text = tokenizer.decode(ids_T, skip_special_tokens=True).strip()
            if text and (record["alt"] in text) == (kind != "elsewhere"):
                request = KINDS[kind][1].format(q=record["src"], s=record["subject"])
                yield {
                    "subject": record["subject"],
                    "question": record["src"],
                    "rephrasing": record["rephrase"],
                    "answer": record["alt"],
                    "kind": kind,
                    "request": request,
                    "text": text,
                    "model": reference,
                }
        print(f"{reference}: {min(start + BATCH, len(records))} of {len(records)} records", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="references of chat models")
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="folder with zsre_train.parquet")
    parser.add_argument("--to", type=Path, default=ROOT / "data" / "carriers.parquet", help="the file to write")
    parser.add_argument("--records", type=int, default=1000, help="records that each model writes about")
    parser.add_argument("--seed", type=int, default=1, help="of the sample and of what is drawn")
    options = parser.parse_args()
    rows = []
    for number, reference in enumerate(options.models):
        records = pq.read_table(options.data / "zsre_train.parquet").to_pylist()
        random.Random(options.seed + number).shuffle(records)
        rows += list(texts_of(reference, records[: options.records], options.seed + number))
    pq.write_table(pa.Table.from_pylist(rows), options.to, compression="zstd", compression_level=19)
    print(f"{options.to}: {len(rows)} texts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
