"""The API page in a headless Chromium, used as a person uses it."""

from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Locator, Page, expect

from tests.people import Person, Tokens
from tests.proxies import StartPrefix


async def authorize(page: Page, username: str, password: str) -> Locator:
    """Log in with the dialog, and leave it open."""
    await page.get_by_role("button", name="Authorize").first.click()
    await expect(page.locator(".auth-container")).to_be_visible()
    if await page.get_by_role("button", name="Remove authorization").is_visible():  # of the last login
        await page.get_by_role("button", name="Remove authorization").click()
    await page.get_by_label("username:").fill(username)
    await page.get_by_label("password:").fill(password)
    await page.get_by_role("button", name="Apply given OAuth2 credentials").click()
    return page.locator(".auth-container")


async def execute(page: Page, operation: str, status: int, body: str | None = None) -> Locator:
    """Send the example of an operation, or another body; returns what the page shows of the response."""
    block = page.locator(f"[id^='operations-'][id$='-{operation}']")
    await block.locator(".opblock-summary-control").click()
    if body:
        await block.locator("textarea").fill(body)
    await block.get_by_role("button", name="Execute").click()
    response = block.locator(".live-responses-table")
    await expect(response.locator("tbody .response-col_status").first).to_contain_text(str(status))
    return response


async def use_the_page(page: Page, url: str, client: httpx.AsyncClient, alice: Person) -> None:
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
    listing = await execute(page, "list_posts", 200)
    await expect(listing).to_contain_text("From the page")

    [post] = (await client.get("/posts")).json()
    assert (post["title"], post["user_id"]) == ("From the page", alice.id)
    assert origins == {urlsplit(url).netloc}
    assert errors == []


async def test_a_user_logs_in_creates_a_post_and_lists_it(
    browser_page: Page, address: str, client: httpx.AsyncClient, alice: Person
) -> None:
    await use_the_page(browser_page, f"{address}/docs", client, alice)


async def test_a_user_does_the_same_behind_a_proxy_that_adds_a_prefix(
    browser_page: Page, address: str, client: httpx.AsyncClient, alice: Person, nginx_with_prefix: StartPrefix
) -> None:
    await use_the_page(browser_page, f"{await nginx_with_prefix(address)}/docs/", client, alice)


async def test_a_user_lists_the_sessions_and_ends_one(browser_page: Page, address: str, alice: Person) -> None:
    page = browser_page
    page.set_default_timeout(10_000)
    await page.goto(f"{address}/docs")
    await expect(await authorize(page, alice.username, alice.password)).to_contain_text("Authorized")
    await page.get_by_role("button", name="Close").click()

    listed = await execute(page, "list_sessions", 200)
    await expect(listed).to_contain_text("Mozilla/5.0")
    [theirs] = [one for one in await Tokens(alice.client, alice.token, "").sessions() if one["current"]]
    await page.locator("[id$='-end_session'] .opblock-summary-control").click()
    await page.locator("[id$='-end_session'] input").fill(str(theirs["id"]))
    await page.locator("[id$='-end_session']").get_by_role("button", name="Execute").click()
    status = page.locator("[id$='-end_session'] .live-responses-table tbody .response-col_status").first

    await expect(status).to_contain_text("204")
    assert (await alice.client.get("/users/me", headers=alice.headers)).status_code == 401


async def test_a_wrong_password_is_reported_where_it_was_typed(browser_page: Page, address: str, alice: Person) -> None:
    page = browser_page
    page.set_default_timeout(10_000)
    await page.goto(f"{address}/docs")

    dialog = await authorize(page, alice.username, "wrong password")

    await expect(dialog.locator(".errors")).to_have_text("Incorrect username or password", use_inner_text=True)
    await expect(page.get_by_text("Incorrect username or password")).to_have_count(1)
    await expect(dialog.locator("input:visible")).to_have_count(2)


@pytest.mark.long
async def test_the_examples_work_one_after_the_other_on_a_narrow_screen(browser_page: Page, address: str) -> None:
    page, width = browser_page, 390
    page.set_default_timeout(10_000)
    await page.set_viewport_size({"width": width, "height": 844})
    await page.goto(f"{address}/docs")
    await expect(page.locator(".opblock")).to_have_count(20)
    blocks = await page.locator(".opblock").all()
    operations = [(await block.get_attribute("id") or "").rpartition("-")[2] for block in blocks]
    statuses = {
        "register": 201,
        "create_post": 201,
        "delete_post": 204,
        "end_session": 404,  # no session has the id of the example
        "end_all_sessions": 204,
        "change_password": 204,
        "delete_own_account": 204,
    }
    log_in_before = {"read_own_account", "end_session"}  # the second one follows the end of all sessions

    for operation in operations:
        if operation in log_in_before:
            await expect(await authorize(page, "maria", "correct horse battery")).to_contain_text("Authorized")
            await page.get_by_role("button", name="Close").click()
        response = await execute(page, operation, statuses.get(operation, 200))
        assert await page.evaluate("document.documentElement.scrollWidth") == width, operation
        column = await response.locator("tbody .response-col_description").first.bounding_box()
        assert column, operation
        assert column["width"] > 0.75 * width, operation
        await page.locator(f"[id$='-{operation}'] .opblock-summary-control").click()

    assert operations[:3] == ["register", "create_token", "revoke_token"]
    await expect(page.locator(".servers")).to_have_count(0)
