"""A plug-in and a target, paired: their alignment from the cache, or built once."""

from __future__ import annotations

from collections.abc import Callable

from onceedit_ray.alignment import Side, build_alignment
from onceedit_ray.config import AlignmentConfig
from onceedit_ray.fusion.strategies import Pair
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.loading import input_embeddings
from onceedit_ray.models.sources import ModelFolder


def pair_up(
    plugin: ModelFolder,
    plugin_codec: Codec,
    target: ModelFolder,
    target_codec: Codec,
    config: AlignmentConfig,
    progress: Callable[[str], None] | None = None,
) -> Pair:
    """Pair two models.

    `plugin` is the base plug-in: every edited version shares its alignments, so an edit never rebuilds one. Parts are
    built when a strategy first needs them. Raises `AlignmentError` where the vocabularies share no token.
    """
    alignment = build_alignment(
        _side(plugin, plugin_codec),
        _side(target, target_codec),
        rule=config.rule,
        keep=config.keep,
        own_mass=config.own_mass,
        progress=progress,
    )
    return Pair(plugin_codec, target_codec, alignment)


def _side(folder: ModelFolder, codec: Codec) -> Side:
    return Side(
        name=folder.name,
        vocab=codec.tokenizer.get_vocab(),
        special=codec.special_tokens,
        eos_id=codec.end_id if codec.end_id >= 0 else None,
        embeddings=lambda: input_embeddings(folder.path),
        digest=folder.digest,
    )
