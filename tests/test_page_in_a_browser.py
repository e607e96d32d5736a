"""The API page in a headless Chromium, used as a person uses it."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.browser import expect
from tests.people import Person, Tokens
from tests.proxies import StartPrefix

if TYPE_CHECKING:  # a slow import
    from playwright.async_api import Locator, Page


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


@pytest.mark.long
async def test_a_user_creates_a_post_ends_a_session_and_mistypes_the_password(
    browser_page: "Page", address: str, alice: Person
) -> None:
    """One visit, because the page takes longer to load than to use."""
    page = browser_page
    await create_a_post(page, f"{address}/docs", alice)

    await expect(await execute(page, "list_posts", 200)).to_contain_text("From the page")

    await expect(await execute(page, "list_sessions", 200)).to_contain_text("Mozilla/5.0")
    [theirs] = [one for one in await Tokens(alice.client, alice.token, "").sessions() if one["current"]]
    await page.locator("[id$='-end_session'] .opblock-summary-control").click()
    await page.locator("[id$='-end_session'] input").fill(str(theirs["id"]))
    await page.locator("[id$='-end_session']").get_by_role("button", name="Execute").click()
    status = page.locator("[id$='-end_session'] .live-responses-table tbody .response-col_status").first
    await expect(status).to_contain_text("204")
    assert (await alice.client.get("/users/me", headers=alice.headers)).status_code == 401

    dialog = await authorize(page, alice.username, "wrong password")
    await expect(dialog.locator(".errors")).to_have_text("Incorrect username or password", use_inner_text=True)
    await expect(page.get_by_text("Incorrect username or password")).to_have_count(1)
    await expect(dialog.locator("input:visible")).to_have_count(2)


async def test_a_user_creates_a_post_behind_a_proxy_that_adds_a_prefix(
    browser_page: "Page", address: str, alice: Person, nginx_with_prefix: StartPrefix
) -> None:
    await create_a_post(browser_page, f"{await nginx_with_prefix(address)}/docs/", alice)


@pytest.mark.long
async def test_the_examples_fit_a_narrow_screen(browser_page: "Page", address: str) -> None:
    """One operation of each kind of input. ``test_docs.py`` sends the examples of all operations."""
    page, width = browser_page, 390
    statuses = {
        "register": 201,  # a JSON body
        "create_token": 200,  # a form
        "create_post": 201,  # a header
        "list_posts": 200,  # a query
        "update_post": 200,  # a path, and a JSON body
        "delete_post": 204,  # a path, and a response without a body
        "export": 200,  # no input
    }
    page.set_default_timeout(10_000)
    await page.set_viewport_size({"width": width, "height": 844})
    await page.goto(f"{address}/docs")
    await expect(page.locator(".opblock")).to_have_count(20)
    blocks = await page.locator(".opblock").all()
    operations = [(await block.get_attribute("id") or "").rpartition("-")[2] for block in blocks]

    for operation, status in statuses.items():
        if operation == "create_post":
            await expect(await authorize(page, "maria", "correct horse battery")).to_contain_text("Authorized")
            await page.get_by_role("button", name="Close").click()
        response = await execute(page, operation, status)
        assert await page.evaluate("document.documentElement.scrollWidth") == width, operation
        column = await response.locator("tbody .response-col_description").first.bounding_box()
        assert column, operation
        assert column["width"] > 0.75 * width, operation
        await page.locator(f"[id$='-{operation}'] .opblock-summary-control").click()

    assert operations[:3] == ["register", "create_token", "revoke_token"]
    assert [operation for operation in operations if operation in statuses] == list(statuses)
    await expect(page.locator(".servers")).to_have_count(0)
