"""Edits and versions on the page: adding, watching on the way to live, refusals, deleting, rolling back, keys."""

from __future__ import annotations

import pytest

from tests.browser.api_server import ASKING_KEY, EDITING_KEY, Server, Serving
from tests.browser.page import Page
from tests.small_decoding import BEGUN

EDIT = {"prompt": "What is the capital of Australia?", "target_new": "Perth", "subject": "Australia"}
HOSTILE = "<img src=x onerror=alert(document.domain)> <|im_end|> ${7*7} {{constructor.constructor('alert(1)')()}}"


def status_of(page: Page, edit_id: str) -> str:
    return "".join(page.texts(f"[data-id='{edit_id}'] .status"))


def until(page: Page, edit_id: str, status: str) -> None:
    page.until(lambda: status_of(page, edit_id) == status, f"{edit_id} to be {status}")


def steps(page: Page, edit_id: str) -> list[tuple[str, str]]:
    """The steps that are shown, each with its class."""
    found = page.all(f"[data-id='{edit_id}'] .steps li")
    return [(step.text, step.get_attribute("class") or "") for step in found]


def test_an_edit_is_watched_until_it_is_live(server: Server, page: Page) -> None:
    page.open(server.page)
    page.add(EDIT["prompt"], EDIT["target_new"], EDIT["subject"], "Name the Australian capital.\n\n  Which city? ")
    page.until(lambda: server.edits.posted, "the request")
    assert server.edits.posted == [EDIT | {"rephrasings": ["Name the Australian capital.", "Which city?"]}]
    edit_id = server.edits.edits[0]["id"]
    until(page, edit_id, "queued")
    assert page.texts(f"[data-id='{edit_id}'] .fact") == [EDIT["prompt"]]
    page.until(lambda: page.find("#edit-prompt").get_attribute("value") == "", "the form to be ready for the next")

    server.edits.move(edit_id, "training", 0.4)
    until(page, edit_id, "training")
    assert steps(page, edit_id) == [("queued", "past"), ("training", "here"), ("evaluating", ""), ("live", "")]
    page.until_shown(f"[data-id='{edit_id}'] .progress", "40 %")
    server.edits.move(edit_id, "training", 0.75)
    page.until_shown(f"[data-id='{edit_id}'] .progress", "75 %")
    page.keep("6-training")

    server.edits.move(edit_id, "evaluating", 0.9)
    until(page, edit_id, "evaluating")
    server.edits.move(edit_id, "live", 1.0)
    until(page, edit_id, "live")
    page.until_shown("#news", "“What is the capital of Australia?” → “Perth” is live.")
    page.until_shown("#versions .active code", server.edits.find(edit_id)["version"])
    assert not page.all(f"[data-id='{edit_id}'] .steps"), "nothing is under way any more"

    page.click(f"[data-id='{edit_id}'] .ask-this")
    page.until_answered()
    assert page.texts(".asked q") == [EDIT["prompt"]]
    page.keep("7-live")
    assert page.texts("#tries button") == [EDIT["prompt"]], "what is live is offered as a question"


def test_an_edit_that_replaces_another_says_so(server: Server, page: Page) -> None:
    """Before it is sent, while it is under way, and once it is live; the replaced edit goes from the list."""
    old = server.edits.add(**EDIT)
    server.edits.move(old, "live", 1.0)
    page.open(server.page)
    until(page, old, "live")
    page.write("#edit-prompt", " What is the  capital of Australia? ")
    page.until_shown("#will-replace", "This question has the edited answer “Perth”; the new one takes its place.")
    page.write("#edit-answer", "Perth")
    page.until(lambda: not page.all("#will-replace"), "the note to go: it is the same answer")
    page.add(EDIT["prompt"], "Sydney")
    page.until_shown("#news", "Queued: “What is the capital of Australia?” → “Sydney”, in place of “Perth”.")
    new = server.edits.edits[0]["id"]
    page.until_shown(f"[data-id='{new}'] .replaces", "Takes the place of “Perth”.")
    page.keep("14-replacing")
    server.edits.move(new, "training", 0.5)
    until(page, new, "training")
    server.edits.move(new, "live", 1.0)
    until(page, new, "live")
    page.until(lambda: not page.all(f"[data-id='{old}']"), "the replaced edit to go")
    assert page.texts(f"[data-id='{new}'] .replaces") == ["Takes the place of “Perth”."]


def test_a_refused_edit_shows_its_reason(server: Server, page: Page) -> None:
    page.open(server.page)
    page.add(**{"prompt": EDIT["prompt"], "answer": "Perth"})
    page.until(lambda: server.edits.edits, "the edit")
    edit_id = server.edits.edits[0]["id"]
    reason = f"locality 0.91 is below the bound 0.95 {HOSTILE}"
    server.edits.move(edit_id, "refused", 1.0, reason)
    until(page, edit_id, "refused")
    assert page.texts(f"[data-id='{edit_id}'] .reason")[0].split("Refused: ")[1].strip() == reason
    assert not page.all(f"[data-id='{edit_id}'] .delete"), "it never went live"
    assert len(page.all("#versions > li")) == 1, "the live version stays"
    page.keep("8-refused")


def test_what_the_api_says_of_a_wrong_edit_is_shown(server: Server, page: Page) -> None:
    page.open(server.page)
    page.add("Paris", "Paris")
    page.until_shown("#add-problem", "'target_new': is the prompt itself")
    assert page.find("#edit-prompt").get_attribute("value") == "Paris", "what was typed is kept"
    page.add("Paris", "Lyon")
    page.until(lambda: not page.all("#add-problem"), "the error to go")


def test_deleting_asks_once_and_is_watched(server: Server, page: Page) -> None:
    edit_id, other = server.edits.add(**EDIT), server.edits.add(**EDIT | {"prompt": "Who?"})
    for each in (edit_id, other):
        server.edits.move(each, "live", 1.0)
    page.open(server.page)
    until(page, edit_id, "live")
    page.click(f"[data-id='{edit_id}'] .delete")
    page.click(f"[data-id='{edit_id}'] .keep")
    assert server.edits.find(edit_id)["status"] == "live"
    page.click(f"[data-id='{edit_id}'] .delete")
    page.keep("9-delete")
    page.click(f"[data-id='{edit_id}'] .confirm")
    until(page, edit_id, "deleting")
    server.edits.move(edit_id, "deleted", 1.0)
    page.until(lambda: not page.all(f"[data-id='{edit_id}']"), "the edit to go")
    page.until_shown("#news", "is deleted.")
    assert status_of(page, other) == "live"
    page.until_shown("#versions .active", "1 edit")


def test_versions_their_report_and_rolling_back(server: Server, page: Page) -> None:
    first = server.edits.versions[0]["id"]
    edit_id = server.edits.add(**EDIT)
    server.edits.move(edit_id, "live", 1.0)
    newest = server.edits.find(edit_id)["version"]
    page.open(server.page)
    page.until_shown("#versions .active code", newest)
    assert page.texts("#versions li code") == [newest, first]
    page.click(f"[data-id='{newest}'] summary")
    figures = page.all(f"[data-id='{newest}'] tr")
    assert [row.text for row in figures] == [
        "reliability 1", "generality 0.944", "locality · near 1", "locality · general text 0.995", "old edits 12",
    ]  # fmt: skip
    page.keep("10-versions")
    assert page.texts(f"[data-id='{first}'] .activate") == ["Roll back"]
    page.click(f"[data-id='{first}'] .activate")
    page.until_shown("#versions .active code", first)
    assert [version["active"] for version in server.edits.versions] == [False, True]
    page.until_shown("#news", f"Version {first} is live.")
    assert page.texts(f"[data-id='{newest}'] .activate") == ["Activate"]


def test_what_others_do_arrives_and_many_edits_come_in_pages(server: Server, page: Page) -> None:
    for number in range(25):
        server.edits.move(server.edits.add(prompt=f"Question {number}?", target_new="x"), "live", 1.0)
    page.open(server.page)
    page.until(lambda: len(page.all("#edits > li")) == 20, "the newest page")
    assert page.texts("#edits .fact")[0] == "Question 24?"
    page.click("#older")
    page.until(lambda: len(page.all("#edits > li")) == 25, "the rest")
    assert not page.all("#older")
    server.edits.add(prompt="By somebody else?", target_new="y")
    page.until_shown("#edits .fact", "By somebody else?")


@pytest.mark.parametrize("field", ["prompt", "target_new", "reason"])
def test_hostile_edits_are_text(server: Server, page: Page, field: str) -> None:
    edit_id = server.edits.add(**EDIT | {field: HOSTILE})
    server.edits.move(edit_id, "refused", 1.0, HOSTILE if field == "reason" else "no")
    page.open(server.page)
    place = {"prompt": ".fact", "target_new": ".new", "reason": ".reason span"}[field]
    page.until_shown(f"[data-id='{edit_id}'] {place}", HOSTILE)
    assert page.run("return document.querySelectorAll('.halves img, .halves script').length") == 0


def test_keys_are_asked_for_and_kept_in_the_tab_alone(serving: Serving, page: Page) -> None:
    with serving(keys=[ASKING_KEY, EDITING_KEY]) as server:
        server.edits.add(**EDIT)
        page.open(server.page)
        page.until_shown("#ask-problem", "give one of the server's keys")
        page.until_shown("#list-problem", "Bearer KEY")
        assert not page.all("#edits > li") and not page.all("#versions > li"), "the page is free, the data is not"
        page.keep("11-keys-needed")
        page.click("#ask-problem button")
        page.until(lambda: page.run("return document.activeElement.id") == "key-asking", "the field for it")
        page.write("#key-asking", "ein-schlüssel")
        page.click("#keep-keys")
        page.until_shown("#ask-problem", "a key has ASCII characters and no space")
        page.click("#ask-problem button")
        page.write("#key-asking", ASKING_KEY)
        page.keep("12-keys")
        page.click("#keep-keys")
        page.until(lambda: not page.all("#ask-problem"), "the error to go")
        page.until_shown("#list-problem", "Bearer KEY")
        page.click("#list-problem button")
        page.until(lambda: page.run("return document.activeElement.id") == "key-editing", "the field for it")
        page.write("#key-editing", ASKING_KEY)
        page.click("#keep-keys")
        page.until_shown("#list-problem", "this key may ask and not edit")
        page.click("#list-problem button")
        page.write("#key-editing", EDITING_KEY)
        page.click("#keep-keys")
        page.until_shown("#edits .fact", EDIT["prompt"])
        assert not page.all("#list-problem")
        page.ask(BEGUN[0])
        page.until_answered()
        kept = page.run("return JSON.stringify([sessionStorage, localStorage, document.cookie])")
        assert ASKING_KEY not in kept and EDITING_KEY not in kept, "the browser keeps none of them"
        assert not any(ASKING_KEY in url or EDITING_KEY in url for url in page.requested())
        page.browser.refresh()
        page.until_shown("#edits .fact", EDIT["prompt"])
        page.click("#open-keys")
        page.click("#forget-keys")
        page.until_shown("#list-problem", "Bearer KEY")
        page.browser.refresh()
        page.until_shown("#list-problem", "Bearer KEY")


def test_a_server_that_takes_no_edits_says_so(serving: Serving, page: Page) -> None:
    with serving(with_edits=False) as server:
        page.open(server.page)
        page.until(lambda: page.all("#no-edits"), "the note")
        assert not page.all("#add")
        page.ask(BEGUN[0])
        page.until_answered()
