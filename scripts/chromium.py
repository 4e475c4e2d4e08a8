"""Headless Chromium of the Debian package, and screenshots of a page. This module does not know the page.

Neither a browser nor a driver is downloaded: `scripts/chromium.sh` installs Debian's.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

Scheme = Literal["light", "dark"]
DESKTOP = (1440, 900)
PHONE = (390, 844)


def missing() -> list[str]:
    """The required programs that are not installed."""
    return [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser with its own profile, which logs its console and its requests."""
    options = ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in (
        "headless=new",
        "no-sandbox",  # the sandbox does not work as root, as in CI's container; the browser opens our pages only
        "disable-dev-shm-usage",
        "disable-gpu",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        f"user-data-dir={profile}",
        f"window-size={DESKTOP[0]},{DESKTOP[1]}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options, ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def appear(browser: Chrome, scheme: Scheme = "light", size: tuple[int, int] = DESKTOP, scale: float = 1.0) -> None:
    """Show the page in a colour scheme, on a screen of `size` pixels; `scale`: device pixels per pixel."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": scale, "mobile": size[0] < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(browser: Chrome, file: Path, whole: bool = True) -> None:
    """Write a PNG of the page: all of it if `whole`, otherwise the visible part."""
    options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
    if whole:
        size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))
