"""The whole system in one process: the decoder of the coordinator actor, over models loaded in this process."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from onceedit_ray.alignment import Side, build_alignment
from onceedit_ray.config import AlignmentConfig, FusionConfig, ModelConfig, RunConfig
from onceedit_ray.errors import ModelError
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.engine_check import check_engines
from onceedit_ray.fusion.members import Member, Plugin
from onceedit_ray.fusion.screen import Screen
from onceedit_ray.fusion.strategies import STRATEGIES, Pair
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.knowledge.revision import StoredEdit
from onceedit_ray.knowledge.version import EDITS, Version, edits_in, stored_in
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.engines.openai import OpenAIEngine
from onceedit_ray.models.engines.openai_tokens import OpenAITokensEngine
from onceedit_ray.models.engines.start import open_engine
from onceedit_ray.models.loading import context_length, input_embeddings, load_config
from onceedit_ray.models.protocol import LanguageModel
from onceedit_ray.models.sources import ModelFolder, resolve
from onceedit_ray.progress import Progress, silent
from onceedit_ray.reader.plugin import is_read, plugin_folder


def check_run(config: RunConfig, progress: Progress = silent) -> None:
    """Check, before anything is edited, everything that would stop a run later.

    Raises `ConfigError` for an unknown strategy, view or engine, `ModelError` for a model that is not available or
    whose window is shorter than its `context`, `AlignmentError` for a target that shares no token with the plug-in.
    """
    check_engines(config, evaluated=True)
    for strategy in (config.fusion.strategy, *config.evaluation.strategies):
        STRATEGIES.get(strategy)
    plugin_view("", config.plugin.view)
    base = resolve(config.plugin.model, progress)
    codec = open_codec(base.path)
    _check_context("the plug-in", config.plugin, base)
    for name, target in config.loaded_targets.items():
        folder = resolve(target.model, progress)
        _check_context(name, target, folder)
        pair_up(base, codec, folder, open_codec(folder.path), config.alignment)
    for name, served in config.served_targets.items():
        engine = open_engine(name, served)
        if isinstance(engine, OpenAITokensEngine):
            pair_up(base, codec, engine.tokenizer_folder(), engine.codec(), config.alignment)


def _check_context(name: str, model: ModelConfig, folder: ModelFolder) -> None:
    try:
        context_length(load_config(folder.path), model.context)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None


def open_decoder(
    config: RunConfig, edited: Version | Path, progress: Progress = silent, targets: Collection[str] | None = None
) -> FusedDecoder:
    """Load a version of the plug-in, or that in a folder, and the targets (all, or those named) into this process."""
    check_engines(config)
    decoder = FusedDecoder(load_plugin(config, edited, progress), config.fusion)
    servers, members = open_targets(config, progress, targets)
    decoder.servers.update(servers)
    decoder.members.update(members)
    return decoder


def open_targets(
    config: RunConfig, progress: Progress = silent, targets: Collection[str] | None = None
) -> tuple[dict[str, OpenAIEngine], dict[str, Member]]:
    """The targets (all, or those named): those that servers have, and those whose tokens are known. Some are both."""
    base = resolve(config.plugin.model, progress)
    servers: dict[str, OpenAIEngine] = {}
    members: dict[str, Member] = {}
    for name, target in config.targets.items():
        if targets is not None and name not in targets:
            continue
        if target.is_loaded:
            progress(f"loading {name}")
            members[name] = _member(name, target, base, config, progress)
            continue
        engine = servers[name] = open_engine(name, target)
        if isinstance(engine, OpenAITokensEngine):
            members[name] = open_tokens(engine, base, open_codec(base.path), config.fusion, config.alignment)
    return servers, members


def load_plugin(config: RunConfig, edited: Version | Path, progress: Progress = silent) -> Plugin:
    """Load a version of the plug-in, or that in a folder, into this process."""
    weights = plugin_folder(folder_of(edited), resolve(config.plugin.model, progress))
    codec = open_codec(weights)
    model = open_model(weights, config.plugin, codec, config.fusion.top_k, "the plug-in")
    return open_plugin(model, codec, config.plugin.view, edited, config.fusion)


def pair_up(
    plugin: ModelFolder,
    plugin_codec: Codec,
    target: ModelFolder,
    target_codec: Codec,
    config: AlignmentConfig,
    progress: Progress | None = None,
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


def folder_of(edited: Version | Path) -> Path:
    """The folder of a version; a folder is returned as it is."""
    return edited.path if isinstance(edited, Version) else edited


def open_plugin(model: LanguageModel, codec: Codec, view: str, edited: Version | Path, config: FusionConfig) -> Plugin:
    """A version over its loaded plug-in: with its facts if it reads them, else with its screen."""
    folder = folder_of(edited)
    name = edited.id if isinstance(edited, Version) else folder.name
    if is_read(folder):
        stored = edited.stored() if isinstance(edited, Version) else stored_in(folder)
        return Plugin(model, codec, view, version=name, facts=FactsAt.of(stored))
    index = partial(_index_in, folder) if (folder / EDITS).is_file() else None
    return Plugin(model, codec, view, open_screen(folder, config), name, index=index)


def open_screen(edited: Path, config: FusionConfig) -> Screen | None:
    """The screen over a version's edits, if the run file asks for one; a version without its edits has none."""
    if config.screen == "none" or not (edited / EDITS).is_file():
        return None
    return Screen(edits_in(edited))


def _member(name: str, target: ModelConfig, base: ModelFolder, config: RunConfig, progress: Progress) -> Member:
    folder = resolve(target.model, progress)
    codec = open_codec(folder.path)
    if codec.chat_note:
        progress(f"{name} has {codec.chat_note}")
    base_codec: Codec = open_codec(base.path)
    model = open_model(folder.path, target, codec, config.fusion.top_k, name)
    return Member(
        name,
        model,
        codec,
        lambda: pair_up(base, base_codec, folder, codec, config.alignment, progress),
        beside=target.num_gpus > 0,
    )


def open_tokens(
    engine: OpenAITokensEngine, base: ModelFolder, base_codec: Codec, fusion: FusionConfig, alignment: AlignmentConfig
) -> Member:
    """The target of a server whose tokens are known. base: the plug-in, with its codec. Raises as `engine.codec`."""
    codec, folder, name = engine.codec(), engine.tokenizer_folder(), engine.name
    model = engine.language_model(codec, fusion.top_k)
    return Member(name, model, codec, lambda: pair_up(base, base_codec, folder, codec, alignment))


def _side(folder: ModelFolder, codec: Codec) -> Side:
    return Side(
        name=folder.name,
        vocab=codec.vocab,
        special=codec.special_tokens,
        literal=codec.literal_tokens,
        eos_id=codec.end_id if codec.end_id >= 0 else None,
        embeddings=lambda: input_embeddings(folder.path),
        digest=folder.digest,
    )


def _index_in(folder: Path) -> FactsAt:
    return index_of(edits_in(folder))


def index_of(edits: Sequence[Edit]) -> FactsAt:
    """An index of edits, each under its prompt. Rephrasings are left out, since an evaluation asks them."""
    return FactsAt.of([StoredEdit(edit.prompt, edit, 0) for edit in edits])
