"""The unedited answers of a target, kept on disk, so that all methods on a target are compared with the same answers.

There is one file for each model, precision and set of edits; cells that find it do not ask the unedited target again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from onceedit_ray.files import replacing
from onceedit_ray.fusion.outputs import Generation, Score


@dataclass
class UneditedAnswers:
    """Greedy answers by prompt and number of tokens, teacher-forced ones by prompt and gold tokens."""

    generations: dict[tuple[str, int], Generation] = field(default_factory=dict)
    scores: dict[tuple[str, tuple[int, ...]], Score] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write them, completely or not at all."""
        rows = {
            "generations": [[*key, asdict(answer)] for key, answer in self.generations.items()],
            "scores": [[*key, asdict(score)] for key, score in self.scores.items()],
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> UneditedAnswers:
        """Read what `save` wrote; empty if there is no such file."""
        if not path.is_file():
            return cls()
        rows = json.loads(path.read_text(encoding="utf-8"))
        generations = {
            (prompt, budget): Generation(
                **{**answer, "token_ids": tuple(answer["token_ids"]), "edits": tuple(answer.get("edits", ()))}
            )
            for prompt, budget, answer in rows["generations"]
        }
        scores = {
            (prompt, tuple(gold)): Score(**{**score, "predicted": tuple(score["predicted"])})
            for prompt, gold, score in rows["scores"]
        }
        return cls(generations, scores)
