"""A headless Chromium."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # a slow import
    from playwright.async_api import Browser, Locator, Page, Playwright
    from playwright.async_api._generated import LocatorAssertions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

# The rest keeps Chromium from calling home, which would fail the test without a network of its own making.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
async def playwright() -> AsyncIterator["Playwright"]:
    from playwright.async_api import async_playwright  # noqa: PLC0415 - a slow import

    async with async_playwright() as started:
        yield started


@pytest.fixture(scope="session")
async def chromium(playwright: "Playwright") -> AsyncIterator["Browser"]:
    started = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
    yield started
    await started.close()


@pytest.fixture
async def browser_page(chromium: "Browser") -> AsyncIterator["Page"]:
    """A page that shares nothing with those of other tests."""
    context = await chromium.new_context()
    yield await context.new_page()
    await context.close()


@pytest.fixture
async def page_with_profile(playwright: "Playwright", tmp_path: Path) -> AsyncIterator["Page"]:
    """A page of a browser with a profile on disk. Without one, Chromium does not preconnect."""
    context = await playwright.chromium.launch_persistent_context(
        tmp_path / "profile", executable_path=CHROMIUM, args=ARGUMENTS
    )
    yield await context.new_page()
    await context.close()


def expect(locator: "Locator") -> "LocatorAssertions":
    from playwright.async_api import expect as expect_of_playwright  # noqa: PLC0415 - a slow import

    return expect_of_playwright(locator)
