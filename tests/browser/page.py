"""Drives the playground for a test: types, clicks, reads what is shown, and collects errors."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys as Key
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from scripts.chromium import DESKTOP, PHONE, Scheme, appear, chromium, missing, picture
from tests.paths import ROOT

T = TypeVar("T")
SECONDS = 60


def artifacts() -> Path:
    """The folder for pictures."""
    return Path(os.environ.get("ONCEEDIT_ARTIFACTS") or ROOT / "build" / "artifacts") / "playground"


@contextlib.contextmanager
def browser_or_skip(profile: Path) -> Iterator[Chrome]:
    """A browser; where there is none, the test is skipped, or fails if ONCEEDIT_NEED_CHROMIUM is set."""
    if absent := missing():
        reason = f"{' and '.join(absent)} not found: the page is not tested; scripts/chromium.sh installs them"
        if os.environ.get("ONCEEDIT_NEED_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    with chromium(profile) as opened:
        yield opened


class Page:
    """One visit."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser
        self.url = ""

    def open(self, url: str) -> Page:
        appear(self.browser)
        self._logged()
        self.url = url
        self.browser.get(url)
        self.until(lambda: self.run("return window.did_handshake === true"), "the page to be connected")
        return self

    def close(self) -> None:
        """Leave the page, once; raises if the console holds a message, or a request went to another host."""
        if not self.url:
            return
        wrong = [str(entry["message"]) for entry in self.browser.get_log("browser")]
        own = (self.url, self.url.replace("http", "ws", 1))
        elsewhere = [url for url in self.requested() if not url.startswith(own)]
        self.url = ""
        self.browser.execute_script("sessionStorage.clear()")
        self.browser.get("about:blank")
        assert wrong == [], wrong
        assert elsewhere == [], elsewhere

    # --- looking -----------------------------------------------------------------------------------------------------

    def find(self, css: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        return self._shown(css, "e => e")

    def texts(self, css: str) -> list[str]:
        """The shown texts of what matches, as they are in the document."""
        return self._shown(css, "e => e.textContent")

    def _shown(self, css: str, what: str) -> list[Any]:
        """`what` of each element that is shown, read in the next frame, when new elements have been drawn."""
        shown = f"[...document.querySelectorAll(arguments[0])].filter(e => e.checkVisibility()).map({what})"
        script = f"requestAnimationFrame(() => requestAnimationFrame(() => arguments[1]({shown})))"
        return list(self.browser.execute_async_script(script, css))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def until(self, looked_for: Callable[[], T], what: str) -> T:
        return WebDriverWait(self.browser, SECONDS, 0.05).until(lambda _: looked_for(), f"waited for {what}")

    def until_shown(self, css: str, text: str) -> None:
        self.until(lambda: any(text in found for found in self.texts(css)), f"'{text}' in {css}")

    # --- doing -------------------------------------------------------------------------------------------------------

    def write(self, css: str, text: str) -> None:
        """Replace the field's content by `text`, typed as by a person."""
        (field, *_) = self.until(lambda: self.all(css), f"{css} to write in")
        field.send_keys(Key.CONTROL, "a", Key.NULL, text or Key.DELETE)

    def paste(self, css: str, text: str) -> None:
        """Replace the field's content by `text`, at once."""
        self.write(css, "")
        script = "document.querySelector(arguments[0]).focus(); document.execCommand('insertText', false, arguments[1])"
        self.run(script, css, text)

    def click(self, css: str) -> None:
        self.until(lambda: self.all(css), f"{css} to click on")[0].click()

    def choose(self, css: str, option: str) -> None:
        """Choose the option of that text from the list that opens below `css`."""
        self.click(css)
        offered = "[role=listbox] [role=option]"
        self.until(lambda: option in self.texts(offered), option)
        self.all(offered)[self.texts(offered).index(option)].click()
        self.until(lambda: not self.all(offered), "the list to close")

    def press(self, key: str) -> None:
        ActionChains(self.browser).send_keys(key).perform()

    def appear(self, scheme: Scheme) -> None:
        appear(self.browser, scheme)

    def ask(self, question: str) -> None:
        self.write("#question", question)
        self.send_question()

    def send_question(self) -> None:
        """Submit the question, and wait until the previous answers are gone."""
        cards = "return [...document.querySelectorAll('#answers .comparison')].map(e => e.id).join()"
        before = self.run(cards)
        self.click("#ask-button")
        self.until(lambda: self.run(cards) != before, "the question to be sent")

    def until_answered(self) -> None:
        self.until(lambda: self.all("#answers .answer") and not self.all("#answers .answer[aria-busy=true]"), "answers")
        self.until(lambda: self.all("#ask-button"), "the end of the request")

    def add(self, prompt: str, answer: str, subject: str = "", rephrasings: str = "") -> None:
        self.write("#edit-prompt", prompt)
        self.write("#edit-answer", answer)
        self.write("#edit-subject", subject)
        if rephrasings:
            self.click("#add summary")
            self.write("#edit-rephrasings", rephrasings)
        self.click("#add-button")

    # --- keeping -----------------------------------------------------------------------------------------------------

    def keep(self, name: str) -> None:
        """Pictures of the state the page is in: light, dark, and on a phone."""
        looks = {"light": ("light", DESKTOP, 1.0), "dark": ("dark", DESKTOP, 1.0), "phone": ("light", PHONE, 2.0),
                 "phone-dark": ("dark", PHONE, 2.0)}  # fmt: skip
        for look, (scheme, size, scale) in looks.items():
            appear(self.browser, scheme, size, scale)
            picture(self.browser, artifacts() / f"{name}-{look}.png")
            width = self.run("return document.documentElement.scrollWidth")
            assert width <= size[0], f"{name}-{look}: the page is {width} pixels wide on a screen of {size[0]}"
        appear(self.browser)

    def requested(self) -> list[str]:
        """The addresses that the page asked the network for."""
        return [
            event["params"]["request"]["url"]
            for event in self._logged()
            if event["method"] == "Network.requestWillBeSent"
            and not event["params"]["request"]["url"].startswith(("data:", "about:"))
        ]

    def _logged(self) -> list[Any]:
        return [json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")]
