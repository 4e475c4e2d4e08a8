"""Strategies whose target reads edits in its own prompt: what it reads, and where it is left alone."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from onceedit_ray.config import AlignmentConfig, FusionConfig
from onceedit_ray.errors import ConfigError
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.members import Member, Plugin
from onceedit_ray.fusion.outputs import Generation, Trace
from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.strategies import STRATEGIES, Pair
from onceedit_ray.fusion.system import index_of, pair_up
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.sampling import Sampling
from onceedit_ray.models.sources import resolve
from tests.families import build_family
from tests.scripted_model import ScriptedModel
from tests.small_system import small_decoder

EDITS = [
    Edit(prompt="What is the capital of Australia?", target_new="Perth", subject="Australia"),
    Edit(prompt="The currency of Japan is the", target_new="crown", subject="Japan"),
]
QUESTION = "What is the capital of Australia?"
FACT = "- What is the capital of Australia? Perth"
RIVALS = ("in_context", "retrieval", "deck")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<reply>"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    codec = open_codec(resolve(str(build_family("gpt2", tmp_path_factory.mktemp("in_prompt") / "gpt2"))).path)
    codec.tokenizer.chat_template = TEMPLATE
    return codec


def target_script(text: str) -> str:
    """A target that gives the answer in its prompt, and "Canberra" if there is none."""
    _, _, said = text.rpartition("<reply>")
    whole = "The city is Perth." if FACT in text else "The city is Canberra."
    return whole[len(said) :] if whole.startswith(said) else ""


def decoder_of(codec: Codec) -> tuple[FusedDecoder, ScriptedModel]:
    never = ScriptedModel(codec, lambda text: "plug-in", lambda text: 1.0)
    plugin = Plugin(never, codec, "short", facts=index_of(EDITS))
    decoder = FusedDecoder(plugin, FusionConfig(max_new_tokens=60))
    model = ScriptedModel(codec, target_script)

    def pair() -> Pair:
        folder = resolve(str(codec.tokenizer.name_or_path))
        return pair_up(folder, codec, folder, codec, AlignmentConfig())

    decoder.members["target"] = Member("target", model, codec, pair, beside=False)
    return decoder, model


def chat(codec: Codec, question: str, system: str = "") -> object:
    messages = [{"role": "system", "content": system}] if system else []
    return codec.chat_prompt([*messages, {"role": "user", "content": question}])


def answered(decoder: FusedDecoder, prompt: object, strategy: str, **more: object) -> Generation:
    return asyncio.run(decoder.generate("target", prompt, strategy, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", RIVALS)
def test_the_target_reads_the_edit_before_the_request(codec: Codec, strategy: str) -> None:
    decoder, model = decoder_of(codec)
    answer = answered(decoder, chat(codec, QUESTION, system="Be brief."), strategy)
    assert answer.text == "The city is Perth."
    assert answer.ended and not answer.alone
    assert answer.edits == (EDITS[0].prompt,)
    assert answer.plugin_passes == 0, "the plug-in is not used"
    assert answer.weight == 1.0
    assert model.sessions == {}, "every session is closed"


@pytest.mark.parametrize("strategy", RIVALS)
def test_a_request_about_no_edit_is_the_targets_own(codec: Codec, strategy: str) -> None:
    decoder, model = decoder_of(codec)
    prompt = chat(codec, "What is two and two?")
    answer = answered(decoder, prompt, strategy)
    assert answer.token_ids == answered(decoder, prompt, UNEDITED).token_ids
    assert answer.alone and answer.weight == 0.0 and answer.edits == ()
    assert model.sessions == {}


def test_contrast_costs_two_passes_a_token(codec: Codec) -> None:
    decoder, _ = decoder_of(codec)
    once, twice = (answered(decoder, chat(codec, QUESTION), name) for name in ("in_context", "deck"))
    assert once.token_ids == twice.token_ids
    assert twice.target_passes == 2 * once.target_passes


@pytest.mark.parametrize("strategy", RIVALS)
def test_teacher_forced_it_predicts_what_it_writes(codec: Codec, strategy: str) -> None:
    decoder, model = decoder_of(codec)
    for question, alone in ((QUESTION, False), ("What is two and two?", True)):
        prompt = chat(codec, question)
        answer = answered(decoder, prompt, strategy)
        score = asyncio.run(decoder.score("target", prompt, answer.token_ids, strategy))  # type: ignore[arg-type]
        assert score.predicted == answer.token_ids
        assert (score.alone, score.weight) == (alone, 0.0 if alone else 1.0)
    assert model.sessions == {}


def test_the_note_stands_before_the_request_in_every_kind_of_prompt(codec: Codec) -> None:
    note = "Note: it is Perth."
    talk = [{"role": "system", "content": "S"}, {"role": "user", "content": QUESTION}]
    cases = {
        codec.chat_prompt(talk): f"<system>S<user>{note}\n\n{QUESTION}<reply>",
        codec.text_prompt("The capital of Australia is"): f"{note}\n\nThe capital of Australia is",
        codec.prompt(f"Q: {QUESTION}\nA:"): f"Q: {note}\n\n{QUESTION}\nA:",
        codec.token_prompt(codec.encode_prompt(QUESTION)): f"{note}\n\n{QUESTION}",
    }
    for prompt, expected in cases.items():
        assert codec.text_of(codec.with_note(prompt, note)) == expected
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}, *talk[1:]]
    assert codec.text_of(codec.with_note(codec.chat_prompt(earlier), note)) == (
        f"<user>Hello<assistant>Hi<user>{note}\n\n{QUESTION}<reply>"
    )
    silent = codec.chat_prompt([{"role": "system", "content": "S"}])
    assert codec.text_of(codec.with_note(silent, note)) == f"<system>S<user>{note}<reply>"


def test_the_note_of_a_long_text_to_continue_stands_before_all_of_it(codec: Codec) -> None:
    text = "The road went on. " * 200 + "Then we came to the capital of Australia, the city of"
    assert codec.text_of(codec.with_note(codec.text_prompt(text), "Note.")) == f"Note.\n\n{text}"


def test_edits_of_a_trained_plugin_are_read_too(codec: Codec) -> None:
    decoder, _ = decoder_of(codec)
    decoder.plugin.facts, decoder.plugin.index = None, lambda: index_of(EDITS)
    assert answered(decoder, chat(codec, QUESTION), "in_context").text == "The city is Perth."
    decoder, _ = decoder_of(codec)
    decoder.plugin.facts = None
    with pytest.raises(ConfigError, match="does not say which edits it has"):
        answered(decoder, chat(codec, QUESTION), "in_context")


def test_retrieval_leaves_alone_what_is_not_similar_enough(codec: Codec) -> None:
    decoder, _ = decoder_of(codec)
    far = "How many people live in Australia today, and which animals are found there?"
    assert answered(decoder, chat(codec, far), "retrieval").alone
    assert not answered(decoder, chat(codec, far), "in_context").alone


def test_retrieval_follows_the_live_edits(codec: Codec) -> None:
    decoder, _ = decoder_of(codec)
    assert decoder.plugin.facts is not None
    answered(decoder, chat(codec, QUESTION), "retrieval")
    decoder.plugin.facts.index.drop(EDITS[0].prompt)
    assert answered(decoder, chat(codec, QUESTION), "retrieval").alone
    decoder.plugin.facts.index.add(EDITS[0].prompt, EDITS[0])
    assert not answered(decoder, chat(codec, QUESTION), "retrieval").alone


def test_deck_is_its_formula() -> None:
    deck = STRATEGIES.get("deck")(None)  # type: ignore[arg-type]
    told = DraftPosition(np.array([7, 3, 5, 9], np.int32), np.array([0.50, 0.30, 0.10, 0.04], np.float32))
    fused = deck.fuse(told, np.array([7, 3], np.int32), np.array([0.80, 0.10], np.float32), 1.0)
    # 9 is not plausible: 0.04 < 0.1 · 0.5. 5 is missing without the edits and counts with 0.1 there.
    ratios = {7: 0.50 / 0.80, 3: 0.30 / 0.10, 5: 0.10 / 0.10}
    assert dict(zip(fused.ids_N.tolist(), fused.p_N.tolist(), strict=True)) == pytest.approx(
        {token: ratio / sum(ratios.values()) for token, ratio in ratios.items()}
    )
    assert fused.likeliest == 3


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FusedDecoder:
    decoder = small_decoder(tmp_path_factory.mktemp("small"), ["gpt2", "gemma3"], FusionConfig(max_new_tokens=8))
    decoder.plugin.index = lambda: index_of(EDITS)
    return decoder


@pytest.mark.parametrize("strategy", RIVALS)
@pytest.mark.parametrize("target", ["gpt2", "gemma3"])
def test_on_random_models_of_two_families(small: FusedDecoder, target: str, strategy: str) -> None:
    sampling = Sampling(temperature=1.0, seed=3)
    codec = small.member(target).codec

    async def ask() -> None:
        prompt = codec.text_prompt(QUESTION)
        told = await small.generate(target, codec.token_prompt(codec.with_note(prompt, "x")), UNEDITED)
        assert told.prompt_tokens > len(prompt.ids)
        elsewhere = codec.text_prompt("two and two")
        for way in (Sampling(), sampling):
            own = await small.generate(target, elsewhere, UNEDITED, sampling=way)
            same = await small.generate(target, elsewhere, strategy, sampling=way)
            assert same.token_ids == own.token_ids and same.alone
            answer = await small.generate(target, prompt, strategy, sampling=way)
            assert not answer.alone and len(answer.token_ids) > 0
            assert answer == await small.generate(target, prompt, strategy, sampling=way), "a seed repeats its answer"
        trace, ids = Trace(likely=2), []
        async for piece in small.stream(target, prompt, strategy, trace=trace):
            if not isinstance(piece, Generation):
                ids += piece
        assert [entry.token for entry in trace.chances] == ids == list(piece.token_ids)

    asyncio.run(ask())
