"""A request that cannot be answered: its error message, and that every session is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from onceedit_ray.config import FusionConfig
from onceedit_ray.errors import ConfigError, ContextLengthError, ModelError, OnceEditError, SessionLostError
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.loading import load_model
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.protocol import Step
from tests.families import FAMILIES, SENTENCES
from tests.small_decoding import BEGUN, decoder_of, generations, open_sessions
from tests.small_system import CPU, ForcedGate, Relay, TaughtModels


class Failing(Relay):
    """Raises an error at the n-th `extend`."""

    def __init__(self, model: Any, at: int) -> None:
        super().__init__(model)
        self.left = at

    async def extend(self, session: int, keep: int, ids: Sequence[int], rows: int = 1, decode: int = 0) -> Step:
        self.left -= 1
        if self.left == 0:
            raise SessionLostError("the model restarted")
        return await super().extend(session, keep, ids, rows, decode)


class TestErrors:
    """Every test here uses `decoder`, which checks that all sessions are closed."""

    async def test_an_unknown_target_is_named(self, decoder: FusedDecoder) -> None:
        for call in (decoder.generate("lama", "Who?"), decoder.score("lama", "Who?", [1])):
            with pytest.raises(ConfigError, match=r"unknown target 'lama': .*llama"):
                await call

    async def test_an_unknown_strategy_gets_a_suggestion(self, decoder: FusedDecoder) -> None:
        for call in (decoder.generate("llama", "Who?", "drafts"), decoder.score("llama", "Who?", [1, 2], "drafts")):
            with pytest.raises(ConfigError, match="unknown fusion strategy 'drafts': did you mean 'draft'"):
                await call

    @pytest.mark.parametrize("strategy", ["draft", "onceedit", UNEDITED])
    async def test_a_prompt_beyond_the_context_is_refused(self, decoder: FusedDecoder, strategy: str) -> None:
        prompt = " ".join(SENTENCES[:20])
        for call in (decoder.generate("gpt2", prompt, strategy), decoder.score("gpt2", prompt, [5, 6], strategy)):
            with pytest.raises(ContextLengthError, match=r"context of 256 tokens.*shorten the prompt"):
                await call

    def test_a_prompt_beyond_the_plugins_context_alone_is_refused(
        self, decoder: FusedDecoder, models: TaughtModels
    ) -> None:
        prompt, codec = "The capital", models.members["gpt2"].codec
        while len(codec.encode_prompt(f"{prompt} of of")) < 250:
            prompt += " of of"
        assert len(models.plugin_codec.encode_prompt(plugin_view(prompt))) > 256
        assert generations(decoder, "gpt2", [prompt], UNEDITED)
        with pytest.raises(ContextLengthError, match="the plug-in"):
            asyncio.run(decoder.generate("gpt2", prompt))

    @pytest.mark.parametrize("strategy", ["draft", "calibrated"])
    @pytest.mark.parametrize("at", [1, 2])
    async def test_a_target_that_fails_midway(self, decoder: FusedDecoder, strategy: str, at: int) -> None:
        inner = decoder.members["llama"]
        decoder.members["llama"] = replace(inner, model=Failing(inner.model, at))
        with pytest.raises(SessionLostError, match="the model restarted"):
            await decoder.generate("llama", BEGUN[0], strategy)

    @pytest.mark.parametrize("strategy", ["draft", "calibrated"])
    async def test_a_plugin_that_fails_midway(self, models: TaughtModels, strategy: str) -> None:
        plugin = Failing(ForcedGate(models.plugin, 0.6), at=1)
        decoder = models.decoder(FusionConfig(threshold=0.0, draft_tokens=1), plugin)
        for call in (decoder.generate("llama", BEGUN[0], strategy), decoder.score("llama", BEGUN[0], [9, 8, 7, 6])):
            plugin.left = 1
            with pytest.raises(SessionLostError, match="the model restarted"):
                await call
        assert open_sessions(models) == 0

    async def test_a_plugin_that_was_never_edited_is_refused(self, models: TaughtModels) -> None:
        codec = open_codec(models.base.path)
        plugin = open_model(models.base.path, CPU, codec, 64, "the plug-in")
        decoder = models.decoder(FusionConfig(), plugin)
        for call in (decoder.generate("llama", BEGUN[0]), decoder.gate(BEGUN[0]), decoder.score("llama", "Who", [5])):
            with pytest.raises(ModelError, match=r"no \[WEIGHT\] token.*onceedit edit"):
                await call
        assert plugin.open_sessions == 0
        assert open_sessions(models) == 0

    def test_an_empty_prompt_is_refused_or_answered(self, decoder: FusedDecoder) -> None:
        for name in FAMILIES:
            codec = decoder.members[name].codec
            try:
                assert generations(decoder, name, [""])[0].token_ids
            except OnceEditError as error:
                assert "empty" in str(error)
                assert codec.tokenizer("").input_ids == []

    @pytest.mark.parametrize(("slow", "strategy"), [("plugin", "draft"), ("gpt2", "draft"), ("gpt2", UNEDITED)])
    async def test_a_request_that_is_cancelled(self, models: TaughtModels, slow: str, strategy: str) -> None:
        """The caller leaves while a model prefills: a session that is opened then must be closed, too."""
        folder = models.edited if slow == "plugin" else models.folders[slow]
        codec = models.plugin_codec if slow == "plugin" else models.members[slow].codec
        network: Any = load_model(folder, dtype="float32", device="cpu")
        model = LocalModel(network, codec.end_ids, codec.weight_id, name=slow)
        gate = ForcedGate(model if slow == "plugin" else models.plugin, 0.6)
        decoder = models.decoder(FusionConfig(threshold=0.0), gate)
        if slow != "plugin":
            decoder.members[slow] = replace(decoder.members[slow], model=model)
        decoder.members["gpt2"].strategy("draft")
        go_on = threading.Event()
        network.register_forward_pre_hook(lambda *_: not go_on.wait(5) or None)

        request = asyncio.create_task(decoder.generate("gpt2", BEGUN[0], strategy))
        await asyncio.sleep(0.2)  # by now the other model has answered
        request.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await request
        await model.close((await model.open([1])).session)  # queued behind what is still running
        assert (model.open_sessions, open_sessions(models)) == (0, 0)


class TestContextEnd:
    @pytest.mark.parametrize("draft_tokens", [0, 3, 8])
    def test_an_answer_fits_if_all_but_its_last_token_does(
        self, models: TaughtModels, monkeypatch: pytest.MonkeyPatch, draft_tokens: int
    ) -> None:
        """The last token of an answer is never fed, so a draft must not need room for it in the context."""
        decoder = decoder_of(models, weight=0.6, draft_tokens=draft_tokens)
        for target in FAMILIES:
            member, (free,) = models.members[target], generations(decoder, target, BEGUN[:1])
            assert not free.ended
            exactly = len(member.codec.encode_prompt(BEGUN[0])) + len(free.token_ids) - 1
            monkeypatch.setattr(member.model, "context", exactly)
            monkeypatch.setattr(member.model._room, "context", exactly)
            assert generations(decoder, target, BEGUN[:1])[0].token_ids == free.token_ids
