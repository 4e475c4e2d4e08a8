"""A question on the page: every model's answer before and after, side by side, as it streams in."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from tests.browser.api_server import Server, Serving
from tests.browser.page import Page
from tests.small_decoding import BEGUN
from tests.small_ingress import TARGETS, VERSION

TOKENS = 12
PROMPT = BEGUN[0]


def answer_of(server: Server, target: str, unedited: bool, prompt: str = PROMPT) -> dict[str, Any]:
    """The choice that the API itself gives."""
    body = {"model": target, "prompt": prompt, "max_tokens": TOKENS, "onceedit": {"unedited": unedited}}
    request = urllib.request.Request(
        f"{server.url}v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        (choice,) = json.load(response)["choices"]
    return dict(choice)


def ask(page: Page, prompt: str = PROMPT, shape: str = "plain text") -> None:
    page.write("#tokens", str(TOKENS))
    if shape:
        page.choose("#shape", shape)
    page.ask(prompt)


def test_every_models_answer_before_and_after(server: Server, page: Page) -> None:
    page.open(server.page)
    page.keep("1-empty")
    ask(page)
    page.until_answered()
    assert page.texts("#answers .comparison h3") == TARGETS
    for side, unedited in (("before", True), ("after", False)):
        expected = [answer_of(server, target, unedited)["text"].strip() for target in TARGETS]
        assert page.texts(f"#answers .{side} .answer") == expected
        assert all(expected)
    assert page.texts("#answers .weight") == ["0.600"] * 2
    assert [bar.get_attribute("aria-valuenow") for bar in page.all("#answers [role=progressbar]")] == ["0.6"] * 2
    assert page.texts("#answers .version") == [VERSION] * 2
    assert page.texts("#answers .gate") == ["Gate open: the edit speaks"] * 2
    assert set(page.texts("#answers .badge")) <= {"Edited", "As before"}
    assert "Edited" in page.texts("#answers .badge")
    assert page.texts(".asking [role=status]")[0].startswith("Answered. The edit changed ")
    page.keep("3-answered")


def test_a_closed_gate_lets_the_target_speak_alone(serving: Serving, page: Page) -> None:
    with serving(weight=0.2) as server:
        page.open(server.page)
        ask(page)
        page.until_answered()
        assert page.texts("#answers .before .answer") == page.texts("#answers .after .answer")
        assert page.texts("#answers .weight") == ["0.200"] * 2
        assert page.texts("#answers .gate") == ["Gate closed: not about an edit"] * 2
        assert page.texts("#answers .badge") == ["As before"] * 2
        page.keep("4-gate-closed")


def test_all_answers_stream_at_once_and_can_be_stopped(server: Server, page: Page) -> None:
    """Both sides of every model have begun before any of them ends; stopping frees the sessions (`serving` checks)."""
    server.backend.held = True
    page.open(server.page)
    ask(page)
    page.until(lambda: len([text for text in page.texts("#answers .answer") if text]) == 4, "four beginnings")
    assert len(page.all("#answers .answer[aria-busy=true]")) == 4
    assert not page.all("#ask-button")
    page.keep("2-streaming")
    begun = page.texts("#answers .answer")
    page.click("#stop-button")
    page.until_answered()
    assert page.texts("#answers .answer") == begun
    server.backend.held = False
    ask(page)
    page.until_answered()
    finished = page.texts("#answers .answer")
    assert all(whole.startswith(part) and len(whole) > len(part) for whole, part in zip(finished, begun, strict=True))


def test_an_answer_that_was_cut_says_so(server: Server, page: Page) -> None:
    """`finish_reason` is `length` for a single token, and `stop` where the model ends by itself."""
    page.open(server.page)
    page.write("#tokens", "1")
    page.ask(PROMPT)
    page.until_answered()
    assert page.texts("#answers .cut") == ["Cut off: it has as many tokens as are allowed (1)."] * 4
    assert answer_of(server, TARGETS[0], False)["finish_reason"] == "stop"
    ask(page)
    page.until_answered()
    assert not page.all(f"[data-model={TARGETS[0]}] .after .cut")


def test_leaving_the_page_ends_the_work(server: Server, page: Page) -> None:
    """The tab is closed while answers are written; the API's sessions are freed though nobody pressed Stop."""
    server.backend.held = True
    page.open(server.page)
    ask(page)
    page.until(lambda: len([text for text in page.texts("#answers .answer") if text]) == 4, "four beginnings")
    assert server.backend.under_way == 4
    page.close()
    page.until(lambda: server.backend.under_way == 0, "the work to end")


def test_one_model_can_be_asked_in_a_chat(server: Server, page: Page) -> None:
    page.open(server.page)
    page.choose("#model", "qwen2")
    ask(page, shape="")  # a chat message is the default
    page.until_answered()
    assert page.texts("#answers .comparison h3") == ["qwen2"]
    assert [[*asked.messages] for asked in server.backend.asked] == [[{"role": "user", "content": PROMPT}]] * 2


def test_an_error_of_the_api_is_shown_as_its_line(server: Server, page: Page) -> None:
    page.open(server.page)
    page.paste("#question", "word " * 400)
    page.send_question()
    page.until_shown("#ask-problem", "context")
    assert page.texts("#answers .answer") == ["(stopped)"] * 4
    page.keep("5-refused-question")
    ask(page)
    page.until_answered()
    assert not page.all("#ask-problem")


@pytest.mark.parametrize(
    "hostile", ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "<|im_end|></p>{{7*7}}"]
)
def test_hostile_questions_are_text(server: Server, page: Page, hostile: str) -> None:
    page.open(server.page)
    ask(page, hostile)
    page.until_answered()
    assert page.texts(".asked q") == [hostile]
    assert page.run("return document.querySelectorAll('.halves img, .halves script').length") == 0
