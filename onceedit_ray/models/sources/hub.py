"""Models of the Hugging Face hub: `org/name`, or `org/name@revision` for a branch, a tag or a commit.

Only safetensors, JSON and tokenizer files are downloaded, never pickled weights or code. Downloads lie in
`onceedit_home()/hub`, or in the hub's own cache where `HF_HOME` or `HF_HUB_CACHE` is set; files that are there already
work offline. The hub client handles access tokens.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from onceedit_ray.errors import ModelError
from onceedit_ray.home import onceedit_home
from onceedit_ray.models.sources import SOURCES, ModelFolder, ModelSource
from onceedit_ray.models.sources.folder import INDEX, SINGLE, check_folder, no_space, one_line
from onceedit_ray.progress import Progress

_REFERENCE = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
# Folders hold other formats of the same weights; "consolidated" is Mistral's own, which transformers does not read.
_UNWANTED = ["*/*", "consolidated*"]


@SOURCES.register("hub")
class HubSource(ModelSource):
    """A model repository of the hub."""

    form: ClassVar[str] = "org/name[@revision] on the hub"
    precedence: ClassVar[int] = 4

    def recognises(self, reference: str) -> bool:
        return _REFERENCE.fullmatch(reference) is not None

    def check(self, address: str) -> None:
        """Does nothing: only the hub knows whether a repository exists."""

    def fetch(self, address: str, progress: Progress) -> ModelFolder:
        """The local snapshot; its digest is made from repository and commit, which determine every file's content."""
        repo, _, revision = address.partition("@")
        licence = _announce(repo, revision or None, progress)
        try:
            with _bars_on_a_terminal_only():
                found = snapshot_download(
                    repo,
                    revision=revision or None,
                    cache_dir=_cache(),
                    allow_patterns=_WANTED,
                    ignore_patterns=_UNWANTED,
                    local_files_only=licence is None,
                )
            path = Path(found)
        except Exception as error:  # the hub client passes on all exceptions of its HTTP and transfer libraries
            raise _explained(repo, error) from error
        check_folder(path)
        source = f"hub:{repo}@{path.name}"
        digest = hashlib.sha256(source.encode()).hexdigest()
        return ModelFolder(repo, path, source, digest, licence or f"see https://huggingface.co/{repo}")


@contextmanager
def _bars_on_a_terminal_only() -> Iterator[None]:
    """Show the hub client's progress bars on a terminal, but not in a log."""
    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _announce(repo: str, revision: str | None, progress: Progress) -> str | None:
    """Report what will be downloaded and return its licence; None if the hub cannot be reached."""
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise _explained(repo, error) from error
    except Exception:  # no network, a proxy, offline mode: local files may still be enough
        return None
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if SINGLE not in sizes and INDEX not in sizes:
        raise ModelError(
            f"{repo} has no {SINGLE}, and pickled weights are not read because they can run code: "
            "choose a copy of the model with safetensors"
        )
    weights = sum(size for name, size in sizes.items() if name.startswith("model") and name.endswith(".safetensors"))
    licence = _licence(info)
    progress(f"fetching {repo} ({weights / 1e6:.0f} MB of weights unless already here; licence: {licence})")
    return licence


def _licence(info: ModelInfo) -> str:
    stated = info.card_data.get("license") if info.card_data else None
    return str(stated or f"see https://huggingface.co/{info.id}")


def _cache() -> Path | None:
    """The folder of snapshots; None lets the hub client use the folder that the user has set."""
    return None if {"HF_HOME", "HF_HUB_CACHE"} & os.environ.keys() else onceedit_home() / "hub"


def _explained(repo: str, error: Exception) -> ModelError:
    if isinstance(error, GatedRepoError):
        return ModelError(f"{repo} asks for consent: accept its terms on huggingface.co and run 'hf auth login'")
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{repo} has no such revision; give a branch, a tag or a commit after the @")
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return ModelError(f"the hub has no model '{repo}', or it is private; check the name, or run 'hf auth login'")
    if no_space(error):
        return ModelError(f"no space left for {repo}; free some or set ONCEEDIT_HOME to another disk")
    return ModelError(
        f"{repo} is neither a folder nor downloaded, and the hub cannot be reached ({one_line(error)}); go online, "
        "give a local folder or a .gguf file, or use a catalogue model ('onceedit models list')"
    )
