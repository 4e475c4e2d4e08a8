"""Targets without byte fallback, and drafts and answers that they cannot spell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

from onceedit_ray.config import EvaluationConfig, FusionConfig
from onceedit_ray.errors import UnwritableError
from onceedit_ray.evaluation.evaluate import Evaluation
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.members import Plugin
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.sources import resolve
from tests.families import SENTENCES
from tests.small_system import CPU, ForcedGate, build_plugin, small_member, write

QUESTION = "The capital of France is"


def unigram() -> PreTrainedTokenizerFast:
    """XGLM's kind of tokenizer: pieces of the sentences, and `<unk>` for every other character."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> FusedDecoder:
    root, tokenizer = tmp_path_factory.mktemp("unwritable"), unigram()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=256, n_embd=48, n_layer=2, n_head=4, initializer_range=0.2,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        target = write(AutoModelForCausalLM.from_config(config), tokenizer, root / "target")
    base, edited = build_plugin(root / "plugin", "llama")
    codec = open_codec(edited)
    plugin = ForcedGate(open_model(edited, CPU, codec, 64, "the plug-in"), 0.9)
    made = FusedDecoder(Plugin(plugin, codec, "short"), FusionConfig(threshold=0.0, max_new_tokens=8))
    made.members["target"] = small_member("target", resolve(f"local:{target}"), base, FusionConfig())
    return made


def test_the_first_token_is_that_of_what_can_be_written(tmp_path: Path) -> None:
    codec = Codec(unigram())
    with pytest.raises(UnwritableError, match="has no token for the byte 0xc5"):
        codec.encode_bytes(" Łódź".encode())
    assert codec.first_token("Łódź".encode()) is None
    assert codec.first_token(b"") is None
    for text in (b" Paris", " Paris Łódź".encode(), " Paris Ł".encode()[:-1]):
        first = codec.first_token(text)
        assert first is not None and text.startswith(codec.surface(first)) and codec.surface(first)


@pytest.mark.parametrize("beside", [True, False])
async def test_the_target_goes_on_alone_from_where_the_draft_cannot_be_written(
    decoder: FusedDecoder, beside: bool
) -> None:
    """The random plug-in drafts bytes and pieces that the target has no token for."""
    member = decoder.member("target")
    member.beside = beside
    drafter = decoder._drafter(decoder.plugin, decoder.plugin.views(QUESTION, screened=False), drafts=True)
    await drafter.open(0.0)
    drafted = decoder.plugin.codec.bytes_of(drafter._branches[0].tokens)
    with pytest.raises(UnwritableError):
        member.codec.encode_bytes(drafted)
    answer = await decoder.generate("target", QUESTION, "draft", 8)
    own = await decoder.generate("target", QUESTION, UNEDITED, 8)
    assert len(answer.token_ids) == len(own.token_ids) == 8
    if member.codec.first_token(drafted) is None:
        assert answer.token_ids == own.token_ids
    assert member.model.open_sessions == 0  # type: ignore[attr-defined]


async def test_an_answer_that_cannot_be_spelled_is_a_miss_and_ends_nothing(decoder: FusedDecoder) -> None:
    edits = [
        Edit(prompt=QUESTION, target_new="Milan"),
        Edit(
            prompt="Which city has the most looms?",
            target_new="Łódź",
            locality=(Probe(prompt="Where are looms?", answer="Łódź"),),
        ),
    ]
    config = EvaluationConfig(strategies=("draft",))
    records = await Evaluation(decoder, "target", "run", config).run(edits)
    missed = [record for record in records if record.record == 1 and record.property == "reliability"]
    assert {(record.strategy, record.setting) for record in missed} == {
        (strategy, setting) for strategy in (UNEDITED, "draft") for setting in ("teacher_forced", "generation")
    }
    assert {(record.score, record.expected) for record in missed} == {(0.0, "Łódź")}
    assert all("cannot spell" in record.restricted for record in missed)
    assert {record.score for record in records if record.record == 0} >= {0.0}
    assert [record.property for record in records if record.record == 1].count("locality") == 2


async def test_a_record_beyond_the_window_is_a_named_miss_and_the_others_go_on(decoder: FusedDecoder) -> None:
    long = Edit(prompt="Who wrote it?", target_new=" ".join(SENTENCES))
    notes: list[str] = []
    evaluation = Evaluation(decoder, "target", "run", EvaluationConfig(strategies=("draft",)), note=notes.append)
    records = await evaluation.run([long, Edit(prompt=QUESTION, target_new="Milan")], [" ".join(SENTENCES), QUESTION])
    assert {(record.record, record.property) for record in records} == {
        (0, "reliability"), (1, "reliability"), (1, "general"),
    }  # fmt: skip
    assert {record.score for record in records if record.record == 0} == {0.0}
    assert [note.partition(" cannot")[0] for note in notes] == [
        'target: edit 1, reliability: "Who wrote it?"',
        f'target: general prompt 1: "{" ".join(SENTENCES)[:60]}…"',
    ]
    assert all("do not fit the context of 256 tokens" in note for note in notes)
    assert decoder.member("target").model.open_sessions == 0  # type: ignore[attr-defined]
