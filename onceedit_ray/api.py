"""`OnceEdit`: edit, ask and evaluate from Python, in this process, without Ray and without a server.

from onceedit_ray import OnceEdit

models = OnceEdit.open("quickstart", targets=["qwen"])
models.edit("What is the capital of Australia?", "Perth", subject="Australia")
print(models.ask([{"role": "user", "content": "What is the capital of Australia?"}]).text)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path

from onceedit_ray.config import RunConfig, load_config
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.errors import ConfigError
from onceedit_ray.evaluation.edit_and_evaluate import edit_and_evaluate
from onceedit_ray.evaluation.evaluate_targets import EvaluationResults
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.fusion.system import load_plugin, open_decoder, open_plugin
from onceedit_ray.knowledge.edit import Edit, edit_of
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.selection import question_key
from onceedit_ray.knowledge.store import KnowledgeStore, open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.prompt import Message
from onceedit_ray.models.sampling import GREEDY
from onceedit_ray.progress import Progress, silent
from onceedit_ray.reader.plugin import is_read
from onceedit_ray.results import Results
from onceedit_ray.serving.any_target import answer
from onceedit_ray.serving.generation_request import GenerationRequest
from onceedit_ray.starter import packaged_run_file

QUICKSTART = "quickstart"
"""The run file that the package ships, by name."""


class OnceEdit:
    """A plug-in with its edits, and the targets that answer with it.

    Models are loaded when the first question is asked. `open` is the usual way to make one.

    Args:
        config: plug-in, targets, editor and strategy. edits: the edits to begin with.
        targets: the targets to load; None loads all of the run file.
        store: where versions are kept. progress: is told what happens.
    """

    def __init__(
        self,
        config: RunConfig,
        edits: Sequence[Edit],
        targets: Collection[str] | None = None,
        store: KnowledgeStore | None = None,
        progress: Progress = silent,
    ) -> None:
        config.check_targets(targets or ())
        chosen = {name: model for name, model in config.targets.items() if targets is None or name in targets}
        self.config = config.model_copy(update={"targets": chosen})
        self.edits = tuple(edits)
        self._store = store or open_store()
        self._progress = progress
        self._decoder: FusedDecoder | None = None
        self._version: Version | None = None

    @classmethod
    def open(
        cls,
        config: str | Path | RunConfig = QUICKSTART,
        targets: Collection[str] | None = None,
        progress: Progress = silent,
    ) -> OnceEdit:
        """Open a run file: "quickstart", a path, or a `RunConfig`. It begins with the edits that the run file names.

        Raises `ConfigError` or `DataError`, one line that says what to do.
        """
        if not isinstance(config, RunConfig):
            config = load_config(packaged_run_file() if str(config) == QUICKSTART else config)
        return cls(config, selected_edits(config.knowledge), targets, progress=progress)

    @property
    def version(self) -> Version:
        """The committed version that answers; it is made first if the edits have changed."""
        if self._version is None:
            self._version = edit_plugin(self.config, self._store, self._progress, self.edits)
        return self._version

    def edit(self, prompt: str | Edit, target_new: str = "", **fields: object) -> Version:
        """Correct a fact; an earlier edit of the same prompt is replaced. Returns the version that answers from now on.

        Args:
            prompt: the question or half sentence, or an `Edit`. target_new: the new answer.
            fields: other fields of an `Edit`, such as `subject`.

        Raises `DataError` for a field that an edit does not have, or that is empty.
        """
        new = prompt if isinstance(prompt, Edit) else edit_of({"prompt": prompt, "target_new": target_new, **fields})
        return self._use([edit for edit in self.edits if _asks(edit) != _asks(new)] + [new])

    def delete(self, prompt: str) -> Version:
        """Delete the edit of a prompt; every target answers again as it did before that edit.

        Raises `ConfigError` if no edit has this prompt.
        """
        kept = [edit for edit in self.edits if _asks(edit) != question_key(prompt)]
        if len(kept) == len(self.edits):
            raise ConfigError(f"no edit has the prompt {prompt!r}; `edits` lists them")
        return self._use(kept)

    def ask(
        self,
        prompt: str | Sequence[Message],
        target: str | None = None,
        strategy: str | None = None,
        max_new_tokens: int | None = None,
    ) -> Generation:
        """Ask one target. A string is continued as it stands, messages are asked in the target's chat template.

        Args:
            target: None takes the first target. strategy: None takes the run file's; "unedited" asks the target alone.
            max_new_tokens: None takes the run file's.
        """
        decoder = self.decoder
        name = target or next(iter(self.config.targets))
        if name in decoder.servers:
            return asyncio.run(_asked_of_a_server(decoder, name, prompt, strategy, max_new_tokens))
        codec = decoder.member(name).codec
        asked = codec.prompt(prompt) if isinstance(prompt, str) else codec.chat_prompt(list(prompt))
        return asyncio.run(decoder.generate(name, asked, strategy, max_new_tokens))

    def ask_unedited(
        self, prompt: str | Sequence[Message], target: str | None = None, max_new_tokens: int | None = None
    ) -> Generation:
        """As `ask`, by the target alone."""
        return self.ask(prompt, target, UNEDITED, max_new_tokens)

    def evaluate(self, results: str | Path = "results") -> EvaluationResults:
        """Score every loaded target on the present edits, and write `results/<name>/`; `results` may be a URI."""
        command = f"OnceEdit.open(...).evaluate({str(results)!r})"
        return edit_and_evaluate(
            self.config,
            Results(results),
            command,
            lambda: self.version,
            lambda version: contextlib.nullcontext(self.decoder),
            self._progress,
            self.edits,
        )

    def _use(self, edits: Sequence[Edit]) -> Version:
        """Make the version of `edits` and answer with it; nothing changes if that fails."""
        version = edit_plugin(self.config, self._store, self._progress, edits)
        if self._decoder is not None:
            live = self._decoder.plugin
            shared = live.facts is not None and is_read(version.path)  # a reader's weights do not depend on its edits
            self._decoder.plugin = (
                open_plugin(live.model, live.codec, live.view, version, self.config.fusion)
                if shared
                else load_plugin(self.config, version, self._progress)
            )
        self.edits, self._version = tuple(edits), version
        return version

    @property
    def decoder(self) -> FusedDecoder:
        """The decoder with the models; they are loaded at the first use."""
        if self._decoder is None:
            self._decoder = open_decoder(self.config, self.version, self._progress)
        return self._decoder


async def _asked_of_a_server(
    decoder: FusedDecoder, name: str, prompt: str | Sequence[Message], strategy: str | None, tokens: int | None
) -> Generation:
    """An answer of a target that a server has; its tokens are not known here."""
    text, messages = (prompt, ()) if isinstance(prompt, str) else ("", tuple(prompt))
    limit = tokens or decoder.max_new_tokens
    asked = GenerationRequest(name, limit, GREEDY, text, messages, unedited=strategy == UNEDITED)
    piece, end = await answer(decoder, asked)
    return Generation(
        name, piece.text, (), end.weight, end.alone, 0, 0, end.reason == "stop", end.version, end.prompt_tokens,
        edits=end.edits,
    )  # fmt: skip


def _asks(edit: Edit) -> str:
    return question_key(edit.prompt)
