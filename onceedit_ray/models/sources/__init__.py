"""Sources of models: `resolve` turns a reference, a string, into a model folder that can be loaded.

A reference is `scheme:address` (`wheel:`, `local:`, `gguf:`, `hub:`) or, without a scheme, one of these, in this order:
a catalogue name, a folder, a path ending in `.gguf`, `org/name`. A source is one class in one file of this package,
registered in `SOURCES`. This module does not know where a source gets or stores its files.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from typing import ClassVar

from onceedit_ray.errors import ModelError
from onceedit_ray.models.sources.folder import ModelFolder
from onceedit_ray.progress import Progress, silent
from onceedit_ray.registry import Registry

__all__ = ["SOURCES", "ModelFolder", "ModelSource", "check_reference", "resolve"]


class ModelSource(ABC):
    """One way to get a model.

    form: how to write a reference to it, for error messages.
    precedence: sources are asked in rising order whether they recognise a reference without a scheme.
    names: the references that it can list, for "did you mean".
    """

    form: ClassVar[str]
    precedence: ClassVar[int]
    names: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def recognises(self, reference: str) -> bool:
        """Whether `reference`, written without a scheme, belongs to this source."""

    @abstractmethod
    def check(self, address: str) -> None:
        """Raise `ModelError` if it can be told without a download that there is no such model."""

    @abstractmethod
    def fetch(self, address: str, progress: Progress) -> ModelFolder:
        """The folder of the model at `address`, made or downloaded if need be; raises `ModelError`."""


SOURCES: Registry[type[ModelSource]] = Registry("model source", "onceedit_ray.models.sources")


def resolve(reference: str, progress: Progress | None = None) -> ModelFolder:
    """The model folder that `reference` names.

    Args:
        reference: `smollm2-135m`, `/path/to/folder`, `/path/to/file.gguf`, `org/name[@revision]`, or `scheme:address`.
        progress: called with one line before each step that takes more than a few seconds.

    Raises:
        ModelError: no such model, or it cannot be fetched, verified or converted.
    """
    reference = reference.strip()
    source, address = _source_of(reference)
    return source.fetch(address, progress or silent)


def check_reference(reference: str) -> None:
    """Raise `ModelError` if it can be told without a download that `reference` names no model."""
    source, address = _source_of(reference.strip())
    source.check(address)


def _source_of(reference: str) -> tuple[ModelSource, str]:
    scheme, colon, address = reference.partition(":")
    if colon and scheme in SOURCES.names():
        return SOURCES.get(scheme)(), address
    sources = sorted((SOURCES.get(name)() for name in SOURCES.names()), key=lambda source: source.precedence)
    for source in sources:
        if source.recognises(reference):
            return source, reference
    names = [name for source in sources for name in source.names]
    near = difflib.get_close_matches(reference, names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    forms = ", ".join(source.form for source in sources)
    raise ModelError(f"unknown model '{reference}': {hint}a model is {forms}")
