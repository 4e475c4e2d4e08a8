"""Take the README's picture of the playground: `python -m scripts.picture`, while `make serve` runs.

Asks a question on the page as a user would, waits for every answer, and takes a screenshot. The default question is
about an edit of the quickstart.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from scripts.chromium import appear, chromium, missing, picture

SIZE = (1440, 900)
MOST_BYTES = 200_000
SECONDS = 120
QUESTION = "What is the capital of Australia?"
TOKENS = "40"


def main(arguments: list[str]) -> int:
    """Take the picture; 0 if it was taken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080/", help="of the page")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--out", type=Path, default=Path("docs/images/playground.png"))
    options = parser.parse_args(arguments)
    if absent := missing():
        print(f"{' and '.join(absent)} not found; scripts/chromium.sh installs them", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory() as profile:
            take(options.url, options.question, options.out, Path(profile))
    except WebDriverException as error:
        print(f"no picture of {options.url}: {(error.msg or 'no answer').splitlines()[0]}", file=sys.stderr)
        return 1
    size = options.out.stat().st_size
    print(f"{options.out}: {size:,} bytes")
    return 0 if size < MOST_BYTES else 1


def take(url: str, question: str, out: Path, profile: Path) -> None:
    """Ask and take the picture; raises `WebDriverException` if the page or an answer does not appear."""
    with chromium(profile) as browser:
        appear(browser, "light", SIZE)
        browser.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
        browser.get(url)
        wait = WebDriverWait(browser, SECONDS)
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#versions > li"), "no versions came")
        browser.find_element(By.ID, "question").send_keys(question)
        browser.find_element(By.ID, "tokens").send_keys(Keys.CONTROL, "a", Keys.NULL, TOKENS)
        browser.find_element(By.ID, "ask-button").click()
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#answers .after .answer.done"), "no answer came")
        wait.until(lambda _: not browser.find_elements(By.CSS_SELECTOR, ".answer[aria-busy=true]"), "no end came")
        browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
        picture(browser, out, whole=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
