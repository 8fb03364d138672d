"""Draws the pictures of the README from the last run: `make pictures`."""

import shutil
from pathlib import Path

from cace.paths import PREDICTIONS
from cace.system.errors import UserError, run
from cace.system.files import expect_file

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1100, 760  # pixels of the page


def main() -> None:
    """Writes docs/run.png, the top of the page of the run, and docs/clip.png, one of its clips."""
    from playwright.sync_api import sync_playwright

    page_file = expect_file(PREDICTIONS / "report.html", made_by="evaluate").resolve()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"no browser: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_file.as_uri())
        page.screenshot(path=Path("docs/run.png"))
        page.locator("table.clip").last.screenshot(path=Path("docs/clip.png"))
        chromium.close()
    print("docs/run.png, docs/clip.png")


if __name__ == "__main__":
    run(main)
