"""Editing plug-ins that scale their logits, texts that look like control tokens, and edits beyond the window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from onceedit_ray.config import EditingConfig
from onceedit_ray.editing.editors.onceedit import OnceEditEditor
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.loading import load_model, load_tokenizer
from tests.families import SENTENCES, build_family
from tests.model_types import build_type

QUICK = EditingConfig(max_epochs=1, min_epochs=1, unrelated_per_epoch=4, precision="float32")
EDIT = Edit(prompt="The capital of France is", target_new="Milan", subject="France")
SCALED = {
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.0625},
    "gemma2": {"final_logit_softcapping": 3.0, "head_dim": 16},
}


def editor_of(folder: Path, edits: list[Edit], config: EditingConfig = QUICK) -> tuple[Any, Any, OnceEditEditor]:
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    return model, tokenizer, OnceEditEditor(model, tokenizer, edits, [SENTENCES[5:]], config)


@pytest.mark.parametrize("model_type", SCALED)
def test_training_sees_the_logits_that_decoding_sees(tmp_path: Path, model_type: str) -> None:
    """Also if the network changes its logits after the head."""
    common = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    common |= {"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2}
    folder = build_type(model_type, tmp_path / "m", **common, **SCALED[model_type])
    model, _, editor = editor_of(folder, [EDIT])
    instance = editor._edit_instance(0, EDIT.prompt, own=True)
    with torch.no_grad():
        loss, _, _, (w,) = editor._losses([instance])
        logits_TV = model(torch.tensor([[*instance.prompt_ids, *instance.answer_ids]])).logits[0]
    end = len(instance.prompt_ids) - 1
    assert w == pytest.approx(float(torch.sigmoid(logits_TV[end, editor._weight_id])), abs=1e-5)
    logits_TV[:, editor._weight_id] = -torch.inf
    answers = torch.tensor(instance.answer_ids)
    expected = torch.nn.functional.cross_entropy(logits_TV[end : end + len(answers)], answers)
    assert float(loss) == pytest.approx(float(expected), abs=1e-4)


def test_control_text_in_an_edit_is_text(tmp_path: Path) -> None:
    """In the answer and in the prompt; only the end-of-text token ends what is learnt."""
    edit = Edit(prompt="What comes before <|im_start|> in ChatML?", target_new="<|im_end|>", subject="ChatML")
    _, tokenizer, editor = editor_of(build_family("qwen2", tmp_path / "m"), [edit])
    instance = editor._edit_instance(0, edit.prompt, own=True)
    codec = Codec(tokenizer)
    assert codec.text_of(instance.answer_ids[:-1]) == " <|im_end|>"
    assert instance.answer_ids[-1] == tokenizer.eos_token_id
    assert codec.text_of(instance.prompt_ids) == plugin_view(edit.prompt)


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma3"])
def test_what_is_learnt_is_what_is_decoded(tmp_path: Path, family: str) -> None:
    """Token by token, also with a tokenizer that puts a space before every text."""
    _, tokenizer, editor = editor_of(build_family(family, tmp_path / "m"), [EDIT])
    instance = editor._edit_instance(0, EDIT.prompt, own=True)
    codec = Codec(tokenizer)
    assert instance.answer_ids == (*codec.encode_bytes(b" Milan"), tokenizer.eos_token_id)
    assert list(instance.prompt_ids) == codec.encode_prompt(plugin_view(EDIT.prompt))


@pytest.mark.parametrize(
    "prompt",
    [
        "Q: Who leads Borogrove?\nA:",
        "What does [INST] mean in Llama prompts?",
        "<|im_start|>user\nWho leads Borogrove?<|im_end|>\n<|im_start|>assistant\n",
        "User: Who leads Borogrove?\nAssistant:",
    ],
)
def test_an_edits_own_prompt_is_learnt_in_the_view_in_which_it_is_asked(tmp_path: Path, prompt: str) -> None:
    edit = Edit(prompt=prompt, target_new="Ana Trell", subject="Borogrove")
    _, tokenizer, editor = editor_of(build_family("qwen2", tmp_path / "m"), [edit])
    (own,) = [instance for instance in editor._instances() if instance.edit is not None]
    codec = Codec(tokenizer)
    for asked in (
        codec.prompt(prompt),
        codec.text_prompt(prompt),
        codec.chat_prompt([{"role": "user", "content": prompt}]),
    ):
        assert own.prompt_ids == codec.text_prompt(plugin_view(asked.question)).ids


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_beyond_the_window_is_named_before_any_work(tmp_path: Path, family: str) -> None:
    long = Edit(prompt="Who wrote the chronicle?", target_new=" ".join(SENTENCES[14:30]))
    with pytest.raises(ModelError, match='window holds 256 tokens, but the edit "Who wrote the chronicle\\?" takes'):
        editor_of(build_family(family, tmp_path / "m"), [EDIT, long])


def test_what_is_no_edits_own_is_cut_to_the_window_and_keeps_its_begin(tmp_path: Path) -> None:
    """Paraphrases stand after other sentences, and unrelated prompts may be of any length."""
    _, tokenizer, editor = editor_of(build_family("llama", tmp_path / "m"), [EDIT])
    ids = editor._encode(" ".join(SENTENCES), 10)
    assert len(ids) == 246
    assert ids[0] == tokenizer.bos_token_id
    assert Codec(tokenizer).text_of(ids).endswith("gives the answer.\nAnswer:")
    editor.run()


def test_both_unicode_forms_are_one_question_and_one_edit() -> None:
    composed, decomposed = "Where was B\u00e9atrice No\u00ebl born?", "Where was Be\u0301atrice Noe\u0308l born?"
    assert composed != decomposed
    assert plugin_view(composed) == plugin_view(decomposed)
    subject = "Be\u0301atrice Noe\u0308l"
    edit = Edit(prompt=decomposed, target_new="Lyo\u0302n", subject=subject, rephrasings=(decomposed,))
    assert edit == Edit(
        prompt=composed, target_new="Ly\u00f4n", subject="B\u00e9atrice No\u00ebl", rephrasings=(composed,)
    )
    assert edit.subject in edit.prompt
    assert Probe(prompt=decomposed, answer="Lyo\u0302n") == Probe(prompt=composed, answer="Ly\u00f4n")
