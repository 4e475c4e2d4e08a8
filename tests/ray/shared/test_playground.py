"""The page over the real thing: Serve, actors, training. An edit is added in the browser, told by every model, and
rolled back. What the page shows of everything else is tested in tests/browser, without Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.store import open_store
from tests.browser.page import Page, browser_or_skip
from tests.browser.page_process import page_process
from tests.ray.served import served
from tests.ray.small_fleet import build_models, model, run_config

TARGETS = ("mistral", "qwen2")
BOUNDS = {"learnt": 0.5, "kept": 0.5, "locality": 0.0, "false_alarms": 1.0, "general_limit": 4}
"""Random models of two layers: what the gate lets through is not what is tested here."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page, not yet opened."""
    with browser_or_skip(tmp_path / "profile") as browser:
        yield Page(browser)


def test_an_edit_is_added_told_and_rolled_back(
    page: Page,
    ray_session: None,
    onceedit_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.browser.page.SECONDS", 180)  # the plug-in is trained meanwhile
    build_models(tmp_path, TARGETS)
    targets = {family: model(tmp_path, family) for family in TARGETS}
    knowledge = {"path": tmp_path / "edits.jsonl", "limit": 2}
    config = run_config(tmp_path, "playground", targets, living=BOUNDS, knowledge=knowledge)
    new = selected_edits(config.knowledge.model_copy(update={"limit": None}))[2]
    first = edit_plugin(config, open_store())
    with served(config, tmp_path) as address, page_process(f"{address}/v1") as playground:
        page.open(playground.url)
        page.until_shown("#versions .active code", first.id)
        page.add(new.prompt, new.target_new, new.subject)
        page.until_shown("#news", f"“{new.prompt}” → “{new.target_new}” is live.")
        page.until(lambda: page.texts("#versions .active code") != [first.id], "another version to be the active one")
        (second,) = page.texts("#versions .active code")
        page.ask(new.prompt)
        page.until_answered()
        before, after = page.texts("#answers .answer")[::2], page.texts("#answers .answer")[1::2]
        assert after == [new.target_new] * len(TARGETS), "every model tells the new fact"
        assert new.target_new not in before, "which none of them told before"
        assert page.texts("#answers .version") == [second] * len(TARGETS)
        page.keep("live-over-serve")
        page.click(f"[data-id='{first.id}'] .activate")
        page.until_shown("#versions .active code", first.id)
        page.ask(new.prompt)
        page.until_answered()
        assert page.texts("#answers .answer")[1::2] == before, "as if it had never been"
        page.close()  # while there still is someone to ask
