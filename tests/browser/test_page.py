"""The page itself: who may speak to it, what it loads, and that keyboards and screen readers reach it."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys as Key
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from onceedit_ray.playground.page_guard import POLICY
from scripts.chromium import missing
from scripts.picture import main
from tests.browser.api_server import Server
from tests.browser.page import Page
from tests.browser.page_process import PageProcess
from tests.small_decoding import BEGUN

UNNAMED = """
return [...document.querySelectorAll("input, textarea, button, [role=progressbar], [role=combobox], [role=dialog]")]
  .filter(e => !(e.labels?.length && e.labels[0].textContent.trim()) && !e.getAttribute("aria-label")
    && !document.getElementById(e.getAttribute("aria-labelledby")) && !(e.tagName === "BUTTON" && e.textContent.trim()))
  .map(e => e.outerHTML);
"""
CONTRAST = """
const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const rgba = s => { const [r, g, b, a = 1] = s.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = e => { for (; e; e = e.parentElement) {
  const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 0.99) return c; } return [255, 255, 255, 1]; };
return [...document.querySelectorAll("body *")]
  .filter(e => e.checkVisibility() && !e.classList.contains("visually-hidden") && !e.disabled)
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
  .map(e => { const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.textContent.trim().slice(0, 40), e.className]; })
  .filter(([ratio]) => ratio < 4.5);
"""


def fill(server: Server, page: Page) -> None:
    """Open the page with something in every part of it."""
    for status in ("live", "training", "refused", "deleting"):
        edit_id = server.edits.add(prompt=f"Is it {status}?", target_new="Yes")
        server.edits.move(edit_id, status, 0.5, "locality 0.91 is below the bound 0.95")
    page.open(server.page)
    page.until(lambda: len(page.all("#edits > li")) == 4, "the edits")
    page.ask(BEGUN[0])
    page.until_answered()


def test_everything_has_a_name_and_an_id_of_its_own(server: Server, page: Page) -> None:
    fill(server, page)
    assert page.run(UNNAMED) == []
    ids = page.run("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert page.run("return document.documentElement.lang") == "en-US"
    assert page.run("return document.querySelectorAll('h1').length") == 1
    assert page.run("return [...document.querySelectorAll('img')].every(e => e.hasAttribute('alt'))")
    levels = page.run("return [...document.querySelectorAll('h2, h3, h4')].map(e => +e.tagName[1])")
    assert all(below - above <= 1 for above, below in zip([1, *levels], levels, strict=False)), levels


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(server: Server, page: Page, scheme: str) -> None:
    """WCAG's AA: 4.5 to 1 for all text."""
    fill(server, page)
    page.appear(scheme)
    page.click("[data-id] .delete")
    assert page.run(CONTRAST) == []
    page.keep("13-everything")


def test_the_keyboard_reaches_everything(server: Server, page: Page) -> None:
    fill(server, page)
    focusable = page.run(
        "return [...document.querySelectorAll('button, input, textarea, summary')]"
        ".filter(e => e.checkVisibility() && !e.disabled).length"
    )
    page.run("document.activeElement.blur(); window.seen = new Set()")
    for _ in range(focusable + 8):
        page.press(Key.TAB)
        page.run("seen.add(document.activeElement)")
    reached = page.run(
        "return [...document.querySelectorAll('button, input, textarea, summary')]"
        ".filter(e => e.checkVisibility() && !e.disabled && !seen.has(e)).map(e => e.outerHTML)"
    )
    assert reached == []


def test_enter_asks_and_the_dialog_closes_with_escape(server: Server, page: Page) -> None:
    page.open(server.page)
    page.write("#question", f"{BEGUN[0]}{Key.ENTER}")
    page.until_answered()
    assert page.texts(".asked q") == [BEGUN[0]]
    page.click("#open-keys")
    page.until(lambda: page.run("return document.activeElement.id") == "key-asking", "the dialog to open")
    page.press(Key.ESCAPE)
    page.until(lambda: not page.all("#keys"), "the dialog to close")


def test_news_is_announced(server: Server, page: Page) -> None:
    page.open(server.page)
    assert page.run("return [...document.querySelectorAll('[role=status]')].length") == 3
    assert page.run("return [...document.querySelectorAll('.problem')].every(e => e.role === 'alert')")


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    """The policy forbids it; `Page.close` checks what was asked for."""
    with urllib.request.urlopen(server.page) as response:
        headers = response.headers
    assert headers["Content-Security-Policy"] == POLICY
    assert "http" not in POLICY and POLICY.startswith("default-src 'none'")
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "foreign", [{"Host": "elsewhere.example"}, {"Origin": "http://elsewhere.example"}, {"Origin": "null"}]
)
@pytest.mark.parametrize("path", ["", "_nicegui_ws/socket.io/?EIO=4&transport=polling"])
def test_what_other_pages_send_is_refused(server: Server, path: str, foreign: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(server.page + path, headers=foreign))
    assert refused.value.code == 403


def test_the_socket_of_another_origin_is_refused(server: Server) -> None:
    address = server.page.replace("http", "ws", 1) + "_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    with pytest.raises(InvalidStatus, match="403"), connect(address, origin=Origin("http://elsewhere.example")):
        pass
    with connect(address, origin=Origin(server.page.rstrip("/"))) as socket:
        assert "sid" in str(socket.recv(10)), "its own origin is let in"


def test_the_api_has_no_page(server: Server) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(server.url)
    assert refused.value.code == 404


def test_the_page_says_that_its_server_is_away(playground: PageProcess, api_port: int, page: Page) -> None:
    page.open(playground.url)
    for problem in ("#ask-problem", "#list-problem"):
        page.until_shown(problem, f"the server at http://127.0.0.1:{api_port}/v1 cannot be reached; check that it runs")


def test_the_readmes_picture_is_taken(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if missing():
        pytest.skip("Chromium not found")
    file = tmp_path / "images" / "playground.png"
    assert main(["--url", server.page, "--question", BEGUN[0], "--out", str(file)]) == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr("scripts.picture.SECONDS", 1)
    assert main(["--url", "http://127.0.0.1:9/", "--out", str(file)]) == 1
    assert "no picture of http://127.0.0.1:9/: " in capsys.readouterr().err
