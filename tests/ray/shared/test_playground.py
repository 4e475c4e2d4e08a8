"""The page over the real thing: Serve, actors, training. An edit is added in the browser, given as the answer by every
model, and rolled back. All other parts of the page are tested in tests/browser, without Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from onceedit_ray.knowledge.run_data import selected_edits
from tests.browser.page import Page, browser_or_skip
from tests.browser.page_process import page_process
from tests.ray.served import Shared


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page, not yet opened."""
    with browser_or_skip(tmp_path / "profile") as browser:
        yield Page(browser)


def test_an_edit_is_added_told_and_rolled_back(page: Page, shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.browser.page.SECONDS", 180)  # the plug-in is trained meanwhile
    new = selected_edits(shared.config.knowledge.model_copy(update={"limit": None}))[2]
    first = shared.version
    with page_process(f"{shared.address}/v1") as playground:
        page.open(playground.url)
        page.until_shown("#versions .active code", first.id)
        page.add(new.prompt, new.target_new, new.subject)
        page.until_shown("#news", f"“{new.prompt}” → “{new.target_new}” is live.")
        page.until(lambda: page.texts("#versions .active code") != [first.id], "another version to be the active one")
        (second,) = page.texts("#versions .active code")
        page.ask(new.prompt)
        page.until_answered()
        before, after = page.texts("#answers .answer")[::2], page.texts("#answers .answer")[1::2]
        assert after == [new.target_new] * len(shared.config.targets), "every model tells the new fact"
        assert new.target_new not in before, "which none of them told before"
        assert page.texts("#answers .version") == [second] * len(shared.config.targets)
        page.keep("live-over-serve")
        page.click(f"[data-id='{first.id}'] .activate")
        page.until_shown("#versions .active code", first.id)
        page.ask(new.prompt)
        page.until_answered()
        assert page.texts("#answers .answer")[1::2] == before, "as if it had never been"
        page.close()  # while the server still answers
