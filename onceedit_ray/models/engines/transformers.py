"""`transformers`: the weights are loaded into a process of this system, and decoded by its own loop (`local_model`)."""

from __future__ import annotations

from typing import ClassVar

from onceedit_ray.config import TRANSFORMERS
from onceedit_ray.models.engines import ENGINES, Engine


@ENGINES.register(TRANSFORMERS)
class TransformersEngine(Engine):
    """Any causal LM of transformers, loaded here."""

    about: ClassVar[str] = "loads the model here, any strategy (the default)"
    distributions: ClassVar[bool] = True
