"""Inference engines by name. An engine runs a target's model, and declares what it can do for a fusion strategy.

An engine is one class in one file of this package, registered in `ENGINES`; a target's entry in a run file names it.
This package knows no fusion: it says what an engine offers, and a strategy says what it needs.
"""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from onceedit_ray.registry import Registry


class Engine(ABC):  # its other methods depend on whether the model is loaded here
    """An engine's declarations.

    about: one line for `onceedit models list`. distributions: whether it gives the most likely tokens with their
    probabilities for any tokens that it is fed, as `LanguageModel` does; otherwise it only writes text.
    """

    about: ClassVar[str]
    distributions: ClassVar[bool]


ENGINES: Registry[type[Engine]] = Registry("engine", __name__)
