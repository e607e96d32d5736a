"""The API page in a headless Chromium, used as a person uses it."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.browser import expect
from tests.people import Person, Tokens
from tests.proxies import StartPrefix

if TYPE_CHECKING:  # a slow import
    from playwright.async_api import Locator, Page

NARROW = 390  # the width of a phone


async def authorize(page: "Page", username: str, password: str) -> "Locator":
    """Log in with the dialog, and leave it open."""
    await page.get_by_role("button", name="Authorize").first.click()
    await expect(page.locator(".auth-container")).to_be_visible()
    if await page.get_by_role("button", name="Remove authorization").is_visible():  # of the last login
        await page.get_by_role("button", name="Remove authorization").click()
    await page.get_by_label("username:").fill(username)
    await page.get_by_label("password:").fill(password)
    await page.get_by_role("button", name="Apply given OAuth2 credentials").click()
    return page.locator(".auth-container")


async def execute(page: "Page", operation: str, status: int, body: str | None = None) -> "Locator":
    """Send the example of an operation, or another body; returns what the page shows of the response."""
    block = page.locator(f"[id^='operations-'][id$='-{operation}']")
    await block.locator(".opblock-summary-control").click()
    if body:
        await block.locator("textarea").fill(body)
    await block.get_by_role("button", name="Execute").click()
    response = block.locator(".live-responses-table")
    await expect(response.locator("tbody .response-col_status").first).to_contain_text(str(status))
    return response


async def create_a_post(page: "Page", url: str, alice: Person) -> None:
    """Log in on the page and create a post; no other origin is used and no error is reported."""
    origins: set[str] = set()
    errors: list[str] = []
    page.on("request", lambda request: origins.add(urlsplit(request.url).netloc))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(10_000)
    await page.goto(url)

    dialog = await authorize(page, alice.username, alice.password)
    await expect(dialog).to_contain_text("Authorized")
    await page.get_by_role("button", name="Close").click()
    await execute(page, "create_post", 201, '{"title": "From the page", "content": "Written by hand"}')

    [post] = (await alice.client.get("/posts")).json()
    assert (post["title"], post["user_id"]) == ("From the page", alice.id)
    assert origins == {urlsplit(url).netloc}
    assert errors == []


async def assert_fits(page: "Page", operation: str) -> None:
    """Assert that nothing is wider than the page, and that a response has room."""
    assert await page.evaluate("document.documentElement.scrollWidth") == NARROW, operation
    response = page.locator(f"[id$='-{operation}'] .live-responses-table tbody .response-col_description").first
    column = await response.bounding_box()
    assert column, operation
    assert column["width"] > 0.75 * NARROW, operation


@pytest.mark.long
async def test_a_user_creates_a_post_ends_a_session_and_mistypes_the_password_on_a_narrow_screen(
    browser_page: "Page", address: str, alice: Person
) -> None:
    """One visit, because the page takes longer to load than to use, with one operation of each kind of input.

    ``test_docs.py`` sends the examples of all operations.
    """
    page = browser_page
    await page.set_viewport_size({"width": NARROW, "height": 844})
    await create_a_post(page, f"{address}/docs", alice)  # a header, and a JSON body
    await assert_fits(page, "create_post")

    await expect(page.locator(".opblock")).to_have_count(20)
    blocks = [await block.get_attribute("id") or "" for block in await page.locator(".opblock").all()]
    assert [block.rpartition("-")[2] for block in blocks][:3] == ["register", "create_token", "revoke_token"]
    await expect(page.locator(".servers")).to_have_count(0)

    for operation, status in (("register", 201), ("create_token", 200)):  # a JSON body, and a form
        await execute(page, operation, status)
        await assert_fits(page, operation)
        await page.locator(f"[id$='-{operation}'] .opblock-summary-control").click()  # close it

    await expect(await execute(page, "list_posts", 200)).to_contain_text("From the page")  # a query
    await assert_fits(page, "list_posts")

    await expect(await execute(page, "list_sessions", 200)).to_contain_text("Mozilla/5.0")  # no input
    await assert_fits(page, "list_sessions")
    [theirs] = [one for one in await Tokens(alice.client, alice.token, "").sessions() if one["current"]]
    await page.locator("[id$='-end_session'] .opblock-summary-control").click()
    await page.locator("[id$='-end_session'] input").fill(str(theirs["id"]))  # a path
    await page.locator("[id$='-end_session']").get_by_role("button", name="Execute").click()
    shown = page.locator("[id$='-end_session'] .live-responses-table tbody .response-col_status").first
    await expect(shown).to_contain_text("204")
    await assert_fits(page, "end_session")  # a response without a body
    assert (await alice.client.get("/users/me", headers=alice.headers)).status_code == 401

    dialog = await authorize(page, alice.username, "wrong password")
    await expect(dialog.locator(".errors")).to_have_text("Incorrect username or password", use_inner_text=True)
    await expect(page.get_by_text("Incorrect username or password")).to_have_count(1)
    await expect(dialog.locator("input:visible")).to_have_count(2)


async def test_a_user_creates_a_post_behind_a_proxy_that_adds_a_prefix(
    browser_page: "Page", address: str, alice: Person, nginx_with_prefix: StartPrefix
) -> None:
    await create_a_post(browser_page, f"{await nginx_with_prefix(address)}/docs/", alice)
