"""A request from prompt to answer: neither drafting nor a closed gate may change it, and its sessions are closed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from onceedit_ray.config import FusionConfig
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.knowledge.prompt_shapes import SHAPES, plugin_view, unwrap, wrap
from onceedit_ray.models.loading import load_model
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.prompt import answer_lead
from tests.families import FAMILIES, SENTENCES
from tests.plain_draft import PlainDraft, PlainModel
from tests.small_decoding import BEGUN, BUDGET, decoder_of, generations, open_sessions
from tests.small_system import (
    TWIN,
    ForcedGate,
    Recorder,
    TaughtModels,
    full_logits,
    small_decoder,
)

STRATEGIES = ["deepen", "deepen+dw", "onceedit", "calibrated", "draft"]
PROMPTS = [
    *BEGUN[:12],
    *BEGUN[25:30],  # nothing that the models were taught
    *[f"{begun} " for begun in (*BEGUN[12:16], *BEGUN[30:33])],  # here the prompt brings the answer's first space
    *[f"{begun}\n" for begun in BEGUN[16:19]],
    *[wrap(begun, shape) for begun, shape in zip(BEGUN[1:5], SHAPES, strict=True)],
    *[plugin_view(begun) for begun in (BEGUN[0], BEGUN[19], BEGUN[33])],  # what the plug-in sees itself
    "Où est né Jürgen Müller",
    "東京は",
    "🙂 The capital of France is",
    "e\u0301 et ",
    "The the the the the",
    "?",
    " ",
    "\n",
]
WEIGHTS = [0.35, 0.5, 0.65, 0.8, 1.0]
SAMPLES = {
    name: PROMPTS[number % 5 :: 5]
    for number, name in enumerate(["mistral", "gpt2", "qwen2", "gemma3", "llama", "gptj", TWIN])
}
"""Each prompt for at least one target; `make test-exhaustive` asks every target every prompt."""
LONG = " ".join(SENTENCES[:4])  # several times Gemma's sliding window of 16 tokens


@dataclass
class Plain:
    """The naive reference over the models of a decoder."""

    plugin: PlainModel
    targets: dict[str, PlainModel]

    def of(self, decoder: FusedDecoder, target: str, prompt: str, weight: float) -> PlainDraft:
        pair = decoder.members[target].pair()
        plugin_ids = pair.plugin.encode_prompt(plugin_view(unwrap(prompt)))
        target_ids = pair.target.encode_prompt(prompt)
        return PlainDraft(self.plugin, self.targets[target], pair, plugin_ids, target_ids, answer_lead(prompt), weight)


@pytest.fixture(scope="module")
def plain(models: TaughtModels) -> Plain:
    def load(folder: Path) -> Any:
        return load_model(folder, dtype="float32", device="cpu")

    weight_id = models.plugin_codec.weight_id
    targets = {name: PlainModel(load(folder), top_k=64) for name, folder in models.folders.items()}
    return Plain(PlainModel(load(models.edited), top_k=64, weight_id=weight_id), targets)


class TestDraftEqualsTokenByTokenFusion:
    @pytest.mark.parametrize(
        ("target", "prompts"),
        [
            *SAMPLES.items(),
            *[pytest.param(name, PROMPTS, marks=pytest.mark.exhaustive) for name in SAMPLES],
        ],
        ids=lambda value: value if isinstance(value, str) else f"{len(value)} prompts",
    )
    async def test_over_many_prompts(self, models: TaughtModels, plain: Plain, target: str, prompts: list[str]) -> None:
        assert len(PROMPTS) >= 40
        gate = ForcedGate(models.plugin, 0.0)
        decoders = {n: models.decoder(FusionConfig(threshold=0.0, draft_tokens=n), gate) for n in range(10)}
        recorders = {n: record(decoders[n], target) for n in decoders}
        accepted = rejected = inside_tokens = 0

        for number, prompt in enumerate(prompts):
            gate.weight = WEIGHTS[number % len(WEIGHTS)]
            length = 1 + number % 9
            reference = plain.of(decoders[0], target, prompt, gate.weight)
            expected = tuple(reference.answer(BUDGET))
            single = await decoders[0].generate(target, prompt, max_new_tokens=BUDGET)
            several = await decoders[length].generate(target, prompt, max_new_tokens=BUDGET)
            assert single.token_ids == expected, (prompt, gate.weight)
            assert several.token_ids == expected, (prompt, gate.weight, length)
            assert single.target_passes == len(expected)
            inside_tokens += reference.inside_tokens
            accepted += len(expected) - several.target_passes
            rejected += wrong_tokens(recorders[length], len(reference.target_ids), expected)
        assert accepted > len(prompts) / 2, "drafts were hardly ever accepted: the test shows nothing"
        assert rejected > len(prompts) / 2, "drafts were hardly ever rejected: the test shows nothing"
        assert inside_tokens > 0, "no answer left the draft inside one of its tokens"
        assert open_sessions(models) == 0

    @pytest.mark.parametrize("target", [*FAMILIES, TWIN])
    def test_for_every_draft_length(self, models: TaughtModels, target: str) -> None:
        prompts = [BEGUN[4], f"{BEGUN[20]} ", "Où est né Jürgen"]
        answers = {
            length: generations(decoder_of(models, 0.55, draft_tokens=length), target, prompts)
            for length in (0, 1, 5, BUDGET + 1)
        }
        tokens = {length: [answer.token_ids for answer in made] for length, made in answers.items()}
        assert all(made == tokens[0] for made in tokens.values()), tokens

    @pytest.mark.parametrize(("seed", "families"), [(0, FAMILIES[::2]), (10, FAMILIES[1::2])])
    def test_with_random_weights_that_write_broken_characters(
        self, tmp_path: Path, seed: int, families: list[str]
    ) -> None:
        random = small_decoder(tmp_path, families, FusionConfig(), seed=seed, sharpness=2.0)
        codec, weight = random.plugin.codec, 0.5
        gate = ForcedGate(random.plugin.model, weight)
        decoder = FusedDecoder(Plugin(gate, codec, "short"), FusionConfig(threshold=0.0))
        decoder.members = random.members
        plain = Plain(
            PlainModel(load_model(tmp_path / "plugin/edited", device="cpu"), 64, codec.weight_id),
            {name: PlainModel(load_model(tmp_path / name, device="cpu"), 64) for name in families},
        )
        broken = 0
        for family in families:
            for prompt in (BEGUN[0], f"{BEGUN[1]} ", "京"):
                answer = generations(decoder, family, [prompt])[0]
                assert answer.token_ids == tuple(plain.of(decoder, family, prompt, weight).answer(BUDGET))
                broken += "\N{REPLACEMENT CHARACTER}" in answer.text
        assert broken > 0


def record(decoder: FusedDecoder, target: str) -> Recorder:
    """Put a recorder in front of one target of a decoder."""
    recorder = Recorder(decoder.members[target].model)
    decoder.members[target] = replace(decoder.members[target], model=recorder)
    return recorder


def wrong_tokens(recorder: Recorder, prompt_tokens: int, answer: Sequence[int]) -> int:
    """How many of the tokens fed since the last call are not the answer's; forgets what it counted."""
    wrong = 0
    for keep, fed in recorder.extensions:
        for position, token in enumerate(fed, start=keep - prompt_tokens):
            wrong += position >= len(answer) or answer[position] != token
    recorder.extensions.clear()
    return wrong


class TestBelowTheThreshold:
    @pytest.mark.parametrize("family", FAMILIES)
    async def test_the_target_answers_as_transformers_generates(self, models: TaughtModels, family: str) -> None:
        decoder = models.decoder(FusionConfig(threshold=1.0, max_new_tokens=24))
        model: Any = load_model(models.folders[family], dtype="float32", device="cpu")
        codec = models.members[family].codec
        for prompt in (BEGUN[1], f"{BEGUN[7]} ", wrap(BEGUN[9], "chat"), "東京は", LONG):
            ids = torch.tensor([codec.encode_prompt(prompt)])
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=24,
                do_sample=False,
                pad_token_id=codec.end_id,
            )
            expected = tuple(out[0, ids.shape[1] :].tolist())
            for strategy in ("draft", "calibrated", UNEDITED):
                answer = await decoder.generate(family, prompt, strategy)
                assert answer.token_ids == expected, (prompt, strategy)
                assert answer.alone
                assert answer.target_passes == len(expected)
        assert len(codec.encode_prompt(LONG)) > 48

    def test_some_answers_end_and_some_run_out_of_budget(self, models: TaughtModels) -> None:
        decoder = models.decoder(FusionConfig(threshold=1.0, max_new_tokens=24))
        ended = {answer.ended for name in FAMILIES for answer in generations(decoder, name, BEGUN[:4], budget=16)}
        assert ended == {True, False}

    async def test_the_weight_is_the_sigmoid_of_the_weight_tokens_logit(self, models: TaughtModels) -> None:
        model = load_model(models.edited, dtype="float32", device="cpu")
        codec = models.plugin_codec
        assert codec.weight_id is not None
        decoder = models.decoder(FusionConfig(threshold=1.0))
        for question in BEGUN[:6]:
            logits_NV = full_logits(model, codec.encode_prompt(plugin_view(question)))
            expected = torch.sigmoid(logits_NV[-1, codec.weight_id]).item()
            for shape in SHAPES:
                prompt = wrap(question, shape)
                answer = await decoder.generate("gpt2", prompt, max_new_tokens=1)
                assert answer.weight == pytest.approx(expected, abs=1e-5)
                assert await decoder.gate(prompt) == pytest.approx(expected, abs=1e-5)

    def test_a_weight_at_the_threshold_is_fused(self, models: TaughtModels) -> None:
        for weight, alone in ((0.5, False), (0.4999, True)):
            answer = generations(decoder_of(models, weight, threshold=0.5), "llama", [BEGUN[0]])[0]
            assert answer.alone is alone

    @pytest.mark.parametrize("prompt", [BEGUN[0], f"{BEGUN[0]} "])
    async def test_costs_one_pass_of_the_plugin(self, models: TaughtModels, prompt: str) -> None:
        decoder = models.decoder(FusionConfig(threshold=1.0, max_new_tokens=4))
        assert isinstance(models.plugin, LocalModel)
        before = models.plugin.passes
        answer = await decoder.generate("mistral", prompt)
        assert models.plugin.passes - before == answer.plugin_passes == 1

    def test_no_weight_leaves_the_targets_own_tokens(self, models: TaughtModels) -> None:
        decoder = decoder_of(models, weight=0.0)
        for name in [*FAMILIES, TWIN]:
            fused, alone = (generations(decoder, name, PROMPTS[::21], strategy) for strategy in ("draft", UNEDITED))
            assert [a.token_ids for a in fused] == [a.token_ids for a in alone]
            assert not any(answer.alone for answer in fused)


class TestScore:
    @pytest.mark.parametrize("strategy", [*STRATEGIES, UNEDITED])
    async def test_scoring_generated_tokens_gives_them_back(self, decoder: FusedDecoder, strategy: str) -> None:
        for target, prompt in zip(FAMILIES, itertools.cycle((BEGUN[0], f"{BEGUN[30]} ", LONG)), strict=False):
            answer = await decoder.generate(target, prompt, strategy)
            score = await decoder.score(target, prompt, answer.token_ids, strategy)
            assert score.predicted == answer.token_ids, (target, prompt)
            assert (score.weight, score.alone) == (answer.weight, answer.alone)

    async def test_below_the_threshold_predicts_as_the_target_alone(self, models: TaughtModels) -> None:
        decoder = decoder_of(models, weight=0.2, threshold=0.5)

        for target in FAMILIES:
            gold = await decoder.gold(target, BEGUN[0], "Milan, or not")
            fused = await decoder.score(target, BEGUN[0], gold, "draft")
            alone = await decoder.score(target, BEGUN[0], gold, UNEDITED)
            assert fused.predicted == alone.predicted
            assert (fused.alone, fused.weight, alone.weight) == (True, 0.2, None)

    async def test_each_prediction_follows_the_gold_tokens_before_it(self, decoder: FusedDecoder) -> None:
        gold = await decoder.gold("mistral", BEGUN[0], "the river Nile")
        score = await decoder.score("mistral", BEGUN[0], gold)
        for position in range(len(gold)):
            shorter = await decoder.score("mistral", BEGUN[0], gold[: position + 1])
            assert shorter.predicted == score.predicted[: position + 1]

    @pytest.mark.parametrize("family", FAMILIES)
    async def test_gold_has_its_leading_space_unless_the_prompt_ends_in_one(
        self, decoder: FusedDecoder, family: str
    ) -> None:
        async def texts(prompt: str) -> str:
            return await decoder.text(family, await decoder.gold(family, prompt, " Milan\n"))

        assert await texts("The capital is") == " Milan"
        assert await texts("The capital is ") == "Milan"
        assert await texts("The capital is\n") == "Milan"


class TestStrategies:
    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_runs_on_every_family(self, decoder: FusedDecoder, strategy: str) -> None:
        answers = {name: generations(decoder, name, BEGUN[29:31], strategy) for name in FAMILIES}
        for name, made in answers.items():
            for answer in made:
                assert answer.target == name
                assert 1 <= len(answer.token_ids) <= BUDGET
                assert answer.text == decoder.members[name].codec.text_of(answer.token_ids)
                assert not answer.alone

    @pytest.mark.parametrize(("strategy", "gated"), [(name, name in ("calibrated", "draft")) for name in STRATEGIES])
    def test_only_our_own_let_the_target_speak_alone(self, models: TaughtModels, strategy: str, gated: bool) -> None:
        decoder = decoder_of(models, weight=0.1, threshold=0.5)
        answer = generations(decoder, "qwen2", [BEGUN[0]], strategy)[0]
        assert (answer.alone, answer.weight) == (gated, 0.1)

    def test_deepen_uses_one_weight_for_every_request(self, models: TaughtModels) -> None:
        def tokens(strategy: str, weight: float) -> list[tuple[int, ...]]:
            return [
                a.token_ids for a in generations(decoder_of(models, weight), "gpt2", [BEGUN[28], "東京は"], strategy)
            ]

        assert tokens("deepen", 0.05) == tokens("deepen", 0.95) == tokens("deepen+dw", 0.5)
        assert tokens("deepen+dw", 0.05) != tokens("deepen+dw", 0.95)

    @pytest.mark.parametrize("strategy", ["calibrated", "draft"])
    @pytest.mark.parametrize("target", ["mistral", "gpt2"])
    def test_a_heavy_plugin_brings_its_fact(self, models: TaughtModels, target: str, strategy: str) -> None:
        decoder = decoder_of(models, weight=0.95)
        unedited, edited = (
            generations(decoder, target, BEGUN[:1], name, budget=10)[0].text for name in (UNEDITED, strategy)
        )
        assert unedited.startswith(" and the capital of Germany is Ber")
        assert edited.startswith(" and the capital of Germany is Bost")

    async def test_names_what_restricts_it(self, decoder: FusedDecoder) -> None:
        said = {name: await decoder.restriction("llama", name) for name in STRATEGIES}
        assert (said["draft"], said["calibrated"]) == ("", "")
        assert "top-k" in said["onceedit"]
        assert "column winners" in said["deepen"] == said["deepen+dw"]


class TestPluginView:
    async def test_is_the_same_whatever_shape_the_target_sees(self, models: TaughtModels) -> None:
        plugin = Recorder(ForcedGate(models.plugin, 0.6))
        decoder = models.decoder(FusionConfig(threshold=0.0, max_new_tokens=2), plugin)
        targets = record(decoder, "qwen2")

        for shape in SHAPES:
            await decoder.generate("qwen2", await decoder.render("qwen2", BEGUN[3], shape))
        assert len(set(plugin.opened)) == 1
        assert models.plugin_codec.text_of(plugin.opened[0]).strip() == plugin_view(BEGUN[3])
        assert len(set(targets.opened)) == len(SHAPES)


class TestWeightToken:
    def test_never_appears_though_it_is_the_likeliest(self, models: TaughtModels) -> None:
        codec, model = models.plugin_codec, load_model(models.edited, dtype="float32", device="cpu")
        assert codec.weight_id is not None
        ids = codec.encode_prompt(plugin_view(BEGUN[0]))
        with torch.no_grad():
            model.get_output_embeddings().weight[codec.weight_id] = 0.0
            hidden_D = model.base_model(torch.tensor([ids])).last_hidden_state[0].mean(0)
            model.get_output_embeddings().weight[codec.weight_id] = 100.0 * hidden_D / hidden_D.norm()
        assert int(full_logits(model, ids)[-1].argmax()) == codec.weight_id
        plugin = Recorder(LocalModel(model, codec.end_ids, codec.weight_id, name="the plug-in"))
        decoder = models.decoder(FusionConfig(threshold=0.5, max_new_tokens=BUDGET), plugin)
        asked = [("draft", name) for name in [*FAMILIES, TWIN]] + [(strategy, TWIN) for strategy in STRATEGIES]
        for strategy, name in asked:
            answer = generations(decoder, name, [BEGUN[0]], strategy)[0]
            assert answer.weight == pytest.approx(1.0)
            assert not answer.alone
            assert "WEIGHT" not in answer.text
            vocabulary = models.members[name].codec.tokenizer.get_vocab()
            assert set(answer.token_ids) <= set(vocabulary.values())
        fed = {token for _, tokens in plugin.extensions for token in tokens}
        assert fed and codec.weight_id not in fed


class TestConcurrency:
    def test_many_requests_at_once_give_what_each_gives_alone(self, decoder: FusedDecoder) -> None:
        requests = [(name, prompt) for prompt in BEGUN[:4] for name in FAMILIES]

        async def together() -> list[Generation]:
            return await asyncio.gather(*(decoder.generate(name, prompt) for name, prompt in requests))

        alone = [generations(decoder, name, [prompt])[0] for name, prompt in requests]
        assert asyncio.run(together()) == alone
