"""Public clients with their default settings get the same answers as the API itself gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.clients.conftest import KEY, Client
from tests.small_decoding import BEGUN
from tests.small_system import TaughtModels

PROMPT = BEGUN[0]


def asked(address: str, path: str, **body: Any) -> Any:
    """The answer of the API, asked by hand."""
    headers = {"Authorization": f"Bearer {KEY}"}
    found = httpx2.post(f"{address}/v1/{path}", json=body, headers=headers, trust_env=False, timeout=60)
    assert found.status_code == 200, found.text
    return found.json()


@pytest.fixture
def chat(address: str) -> str:
    """The answer to a chat about the prompt."""
    messages = [{"role": "user", "content": PROMPT}]
    answer = asked(address, "chat/completions", model="qwen2", messages=messages, max_tokens=8, temperature=0)
    return str(answer["choices"][0]["message"]["content"])


def test_litellm(client: Client, chat: str) -> None:
    script = """
import json, litellm
options = dict(model="openai/qwen2", api_base=ADDRESS + "/v1", api_key=KEY, max_tokens=8, temperature=0)
turn = [{"role": "user", "content": PROMPT}]
first = litellm.completion(messages=turn, **options)
stream = litellm.completion(messages=turn, stream=True, **options)
said = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
again = litellm.completion(messages=[*turn, first.choices[0].message.model_dump(), *turn], **options)
print(json.dumps([first.choices[0].message.content, said, again.choices[0].finish_reason]))
"""
    first, streamed, reason = client("litellm", script, PROMPT=PROMPT)
    assert first == streamed == chat and reason in ("stop", "length")


def test_langchain_openai(client: Client, chat: str, address: str) -> None:
    script = """
import json
from langchain_openai import ChatOpenAI, OpenAI
options = dict(base_url=ADDRESS + "/v1", api_key=KEY, max_tokens=8, temperature=0)
chat = ChatOpenAI(model="qwen2", **options)
first = chat.invoke([("user", PROMPT)])
said = "".join(chunk.content for chunk in chat.stream([("user", PROMPT)]))
again = chat.invoke([("user", PROMPT), first, ("user", PROMPT)])
text = OpenAI(model="mistral", **options).invoke(PROMPT)
print(json.dumps([first.content, said, again.response_metadata["finish_reason"], text]))
"""
    first, streamed, reason, text = client("langchain_openai", script, PROMPT=PROMPT)
    assert first == streamed == chat and reason in ("stop", "length")
    whole = asked(address, "completions", model="mistral", prompt=PROMPT, max_tokens=8, temperature=0)
    assert text == whole["choices"][0]["text"]


def test_llm(client: Client, chat: str) -> None:
    script = """
import json, pathlib, yaml, llm
pathlib.Path("extra-openai-models.yaml").write_text(yaml.safe_dump(
    [{"model_id": "here", "model_name": "qwen2", "api_base": ADDRESS + "/v1", "api_key_name": "here"}]))
model = llm.get_model("here")
model.key = KEY
conversation = model.conversation()
first = conversation.prompt(PROMPT, stream=False, max_tokens=8, temperature=0).text()
said = "".join(model.prompt(PROMPT, stream=True, max_tokens=8, temperature=0))
again = conversation.prompt(PROMPT, stream=False, max_tokens=8, temperature=0).text()
print(json.dumps([first, said, again]))
"""
    first, streamed, _ = client("llm", script, PROMPT=PROMPT)
    assert first == streamed == chat


def test_lm_evaluation_harness(client: Client, models: TaughtModels, tmp_path: Path) -> None:
    """Multiple choice by log-likelihoods, as it asks by default: token arrays, echo, one token."""
    script = """
import json, pathlib, lm_eval
from lm_eval.tasks import TaskManager
pathlib.Path("docs.jsonl").write_text("\\n".join(json.dumps(each) for each in DOCS))
pathlib.Path("small.yaml").write_text(json.dumps({
    "task": "small", "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": str(pathlib.Path("docs.jsonl").resolve())}},
    "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{begun}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}))
found = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={"model": "mistral", "base_url": ADDRESS + "/v1/completions", "tokenizer": TOKENIZER,
                "num_concurrent": 1, "max_retries": 1},
    tasks=["small"], task_manager=TaskManager(include_path="."), num_fewshot=0, bootstrap_iters=0)
print(json.dumps({"acc": found["results"]["small"]["acc,none"],
                  "logprobs": [[r[0] for r in s["filtered_resps"]] for s in found["samples"]["small"]]}))
"""
    docs = [{"begun": begun, "choices": ["zebra crossing", "Rome"], "answer": 1} for begun in BEGUN[:3]]
    found = client("lm_eval", script, DOCS=docs, TOKENIZER=str(models.folders["mistral"]))
    assert all(len(each) == 2 and all(float(logprob) < 0 for logprob in each) for each in found["logprobs"])
    likelier = [float(right) > float(wrong) for wrong, right in found["logprobs"]]
    assert found["acc"] == pytest.approx(sum(likelier) / 3)
