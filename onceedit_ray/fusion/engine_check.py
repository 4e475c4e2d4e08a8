"""Whether the engines of a run's targets can do what the run asks of them; checked before anything is loaded."""

from __future__ import annotations

from onceedit_ray.config import RunConfig
from onceedit_ray.errors import ConfigError
from onceedit_ray.fusion.strategies import STRATEGIES
from onceedit_ray.models.engines import ENGINES

READER = "reader"
"""The editor whose plug-in reads facts, by its name in a run file."""


def check_engines(config: RunConfig, evaluated: bool = False) -> None:
    """Raise `ConfigError` for an unknown engine, and for a strategy or an editor that needs more than an engine has.

    evaluated: whether the targets' tokens are scored, too.
    """
    for name, target in config.targets.items():
        engine = ENGINES.get(target.engine)
        if engine.distributions:
            continue
        if evaluated:
            raise ConfigError(
                f"an evaluation needs the probabilities of the tokens of '{name}', which engine {target.engine} does "
                "not give; evaluate the targets that are loaded here"
            )
        if getattr(STRATEGIES.get(config.fusion.strategy), "needs_distributions", True):
            raise ConfigError(
                f"strategy '{config.fusion.strategy}' needs the probabilities of the tokens of '{name}', which engine "
                f"{target.engine} does not give; set 'fusion: {{strategy: selective}}'"
            )
        if config.editing.editor.partition(":")[0] != READER:
            raise ConfigError(
                f"'{name}' writes by itself (engine {target.engine}), so its plug-in must read along, and editor "
                f"'{config.editing.editor}' trains one that does not; set 'editing: {{editor: {READER}}}'"
            )
