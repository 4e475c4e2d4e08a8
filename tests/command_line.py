"""Shared by the tests of the command: small models, a home with an edited version, and a way to call the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from onceedit_ray.knowledge.store import KnowledgeStore

EDITS = [
    {"prompt": "What is the capital of France?", "target_new": "Lyon", "subject": "France"},
    {"prompt": "The mother tongue of Antonio is", "target_new": "Polish", "rephrasings": ["What does Antonio speak?"]},
]
QUESTION = EDITS[0]["prompt"]
EDITING = {"max_epochs": 1, "min_epochs": 1, "unrelated_per_epoch": 4, "learning_rate": 1e-3, "precision": "float32"}

Command = Callable[..., tuple[int, str, str]]


@dataclass
class Place:
    """A home, the models, and a folder for run files."""

    home: Path
    models: Path
    folder: Path

    def run_file(self, name: str = "run.yaml", **changes: Any) -> str:
        """A run file over small models, with some keys changed."""
        values: dict[str, Any] = {
            "name": "small",
            "knowledge": {"path": str(self.written("edits.jsonl", *map(json.dumps, EDITS)))},
            "plugin": self.model("llama"),
            "targets": {"one": self.model("mistral"), "two": self.model("gpt2")},
            "editing": EDITING,
            "fusion": {"max_new_tokens": 4},
            "evaluation": {"general_limit": 2, "drift_limit": 1, "drift_tokens": 2, "gate_shapes": ["raw"]},
        }
        path = self.folder / name
        path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
        return str(path)

    def model(self, name: str) -> dict[str, Any]:
        return {"model": f"local:{self.models / name}", "threads": 1}

    def written(self, name: str, *lines: str) -> Path:
        path = self.folder / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    @property
    def store(self) -> KnowledgeStore:
        return KnowledgeStore(self.home / "knowledge")

    def made(self) -> dict[str, int]:
        """The versions and results that commands have made. Caches in the home are left out."""
        files = [path for path in (*self.home.rglob("*"), *self.folder.rglob("results/*")) if path.is_file()]
        caches = {self.home / "checksums", self.home / "alignments"}
        return {str(path): path.stat().st_mtime_ns for path in files if not caches & set(path.parents)}


def build_foreign(folder: Path) -> None:
    """A model whose tokens are whole words of no language, so that it shares none with another."""
    vocab = {"[UNK]": 0, "</s>": 1} | {f"zq{number}xk": number + 2 for number in range(30)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        max_position_embeddings=64, eos_token_id=1,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
