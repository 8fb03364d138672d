"""Fixtures that open a page as a reader does: in Chromium, without a network."""

import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
)
LOCAL = ("file:", "data:", "blob:")


# Not longer than a module: while Playwright runs, asyncio takes the thread for its own.
@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; the test is skipped where none is installed."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium to open pages with: `apt-get install chromium`, or Chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a file at a width in pixels and gives Playwright's page.

    The test fails where a page has logged a warning or an error, thrown, or asked for what is not
    a local file. `visit.complaints` holds what came so far.
    """
    contexts = []

    def visit(path: Path, width: int = 1280, **settings):
        """settings: as for Playwright's `new_context`, for instance `reduced_motion="reduce"`."""
        viewport = {"width": width, "height": 800}
        context = browser.new_context(viewport=viewport, offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: _note(visit, message.type in ("warning", "error"), message.text),
        )
        page.on("pageerror", lambda error: _note(visit, True, str(error)))
        page.on("request", lambda asked: _note(visit, not asked.url.startswith(LOCAL), asked.url))
        page.goto(path.as_uri())
        return page

    visit.complaints = []
    yield visit
    for context in contexts:
        context.close()
    assert visit.complaints == []


def _note(visit, complains: bool, text: str) -> None:
    if complains:
        visit.complaints.append(text)
