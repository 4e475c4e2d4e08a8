"""Makes the calls of docs/serving.md to a running server: `python -m scripts.serving_examples [--document]`.

Prints each call with its response. `--document` writes them into the document, between its two marks, replacing the old
ones. Start the server first: `make serve`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "serving.md"
BEGIN, END = "<!-- calls: python -m scripts.serving_examples --document -->", "<!-- end of calls -->"
CLIENT = "import openai\n\nclient = openai.OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='none')\n"
CURL = "curl -s http://127.0.0.1:8000"
JSON = " -H 'Content-Type: application/json' -d "


@dataclass(frozen=True)
class Example:
    """A call: its heading, its description, and the call with curl and with the openai client ("" if none)."""

    title: str
    about: str
    curl: str
    python: str = ""


EXAMPLES = (
    Example(
        "The models",
        "The list has every target by its name; `*` asks all of them.",
        f"{CURL}/v1/models",
        "print([model.id for model in client.models.list()])",
    ),
    Example(
        "A completion",
        "Besides OpenAI's fields each choice says who answered: the target, the plug-in's version, the gate's weight, "
        "whether the target answered alone, and in `edits` the ids of the edits that the answer states "
        "(`GET /v1/edits/{id}` shows them; the plug-in must be one that reads facts).",
        f"{CURL}/v1/completions{JSON}"
        """'{"model": "gemma", "prompt": "What is the capital of Australia?", "max_tokens": 8, "temperature": 0}'""",
        """answer = client.completions.create(
    model="gemma", prompt="What is the capital of Australia?", max_tokens=8, temperature=0
)
print(answer.choices[0].text, answer.choices[0].onceedit)""",
    ),
    Example(
        "A chat, asked of every model",
        "Each target is asked in its own chat template, and answers in its own voice, with the fact corrected. A "
        "question about no edited subject never reaches the plug-in.",
        f"{CURL}/v1/chat/completions{JSON}"
        """'{"model": "*", "messages": [{"role": "user", "content": "What is the capital of Australia?"}], \
"max_tokens": 40, "temperature": 0}'""",
        """question = {"role": "user", "content": "What is the capital of Australia?"}
answer = client.chat.completions.create(model="*", messages=[question], max_tokens=40, temperature=0)
for choice in answer.choices:
    print(choice.onceedit["target"], repr(choice.message.content), choice.onceedit["alone"])""",
    ),
    Example(
        "A stream",
        "The answer comes as server-sent events that end in `[DONE]`; the chunk that ends a choice carries `onceedit`.",
        f"{CURL}/v1/chat/completions -N{JSON}"
        """'{"model": "qwen", "messages": [{"role": "user", "content": "Who wrote Romeo and Juliet?"}], \
"max_tokens": 24, "temperature": 0, "stream": true, "stream_options": {"include_usage": true}}'""",
        """question = {"role": "user", "content": "Who wrote Romeo and Juliet?"}
stream = client.chat.completions.create(model="qwen", messages=[question], max_tokens=24, temperature=0, stream=True)
print([chunk.choices[0].delta.content for chunk in stream if chunk.choices])""",
    ),
    Example(
        "Choices, stop strings, seeds",
        "The same seed gives the same answer again; choice k of `n` is drawn with the seed plus k. A batch is "
        "rounded in another way than a single request, so a long seeded answer may, rarely, take another token where "
        'the drawn number lies on the boundary of two tokens ([how often](../benchmarks/results/chaos.md): "wrong, '
        'sampled"). This does not happen to greedy answers.',
        f"{CURL}/v1/completions{JSON}"
        """'{"model": "gemma", "prompt": "The river", "max_tokens": 12, "n": 2, "seed": 7, "stop": [".", ","]}'""",
        """answer = client.completions.create(model="gemma", prompt="The river", max_tokens=12, n=2, seed=7, stop=[".", ","])
print([choice.text for choice in answer.choices])""",  # noqa: E501
    ),
    Example(
        "Log probabilities",
        "They are those of the fused distribution, or of the target's own where it answered alone, before temperature "
        "and top-p. Completions take `logprobs` from 0 to 5, chats `top_logprobs` from 0 to 20; `text_offset` counts "
        "from the answer's beginning.",
        f"{CURL}/v1/completions{JSON}"
        """'{"model": "gemma", "prompt": "What is the capital of Australia?", "max_tokens": 2, "temperature": 0, \
"logprobs": 2}'""",
        """answer = client.chat.completions.create(
    model="qwen",
    messages=[{"role": "user", "content": "What is the capital of Australia?"}],
    max_tokens=8,
    temperature=0,
    logprobs=True,
    top_logprobs=2,
)
for token in answer.choices[0].logprobs.content:
    others = [(other.token, round(other.logprob, 3)) for other in token.top_logprobs]
    print(token.token, round(token.logprob, 3), others)""",
    ),
    Example(
        "Before the edit",
        "With `unedited` the target answers without the plug-in.",
        f"{CURL}/v1/chat/completions{JSON}"
        """'{"model": "qwen", "messages": [{"role": "user", "content": "What is the capital of Australia?"}], \
"max_tokens": 24, "temperature": 0, "onceedit": {"unedited": true}}'""",
        """answer = client.chat.completions.create(
    model="qwen",
    messages=[{"role": "user", "content": "What is the capital of Australia?"}],
    max_tokens=24,
    temperature=0,
    extra_body={"onceedit": {"unedited": True}},
)
print(answer.choices[0].message.content)""",
    ),
    Example(
        "An error",
        "Errors have OpenAI's format, and their own HTTP status also where a stream was asked for.",
        f"{CURL}/v1/completions -w '%{{http_code}}'{JSON}"
        + """'{"model": "gpt-5", "prompt": "Who?", "stream": true}'""",
        """try:
    client.completions.create(model="gpt-5", prompt="Who?")
except openai.NotFoundError as error:
    print(error.code, error.param)""",
    ),
    Example(
        "Health",
        "The plug-in and every target read a token; if one cannot, the status is 503. The route answers within 5 s, "
        "whichever process has died.",
        f"{CURL}/health",
    ),
)


def blocks(example: Example, curled: str, printed: str) -> str:
    """An example in the form of the document."""
    parts = [f"### {example.title}", about(example), code(example), f"```json\n{curled}\n```"]
    if example.python:
        parts += [python(example), f"```\n{printed}\n```"]
    return "\n\n".join(parts)


def about(example: Example) -> str:
    """The description in lines of the document's width."""
    return textwrap.fill(example.about, 128, break_long_words=False, break_on_hyphens=False)


def code(example: Example) -> str:
    """The curl call as a block."""
    return f"```sh\n{example.curl}\n```"


def python(example: Example) -> str:
    """The call with the openai client, as a block."""
    return f"```python\n{example.python}\n```"


def made(example: Example) -> str:
    """Make the calls; returns their block with the responses."""
    curled = subprocess.run(["bash", "-c", example.curl], capture_output=True, text=True, check=True, timeout=300)
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        exec(CLIENT + example.python, {})
    return blocks(example, curled.stdout.strip(), written.getvalue().strip())


def main(arguments: Sequence[str] | None = None) -> None:
    """Make every call and show it, or write all into the document."""
    parser = argparse.ArgumentParser(prog="python -m scripts.serving_examples")
    parser.add_argument("--document", action="store_true", help="write them into docs/serving.md")
    options = parser.parse_args(arguments)
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    shown = "\n\n".join(made(example) for example in EXAMPLES)
    if not options.document:
        print(shown)
        return
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
