"""The API page in a headless Chromium, used as a person uses it."""

from urllib.parse import urlsplit

import httpx
from playwright.async_api import Page, expect

from tests.people import Person


async def test_a_user_logs_in_creates_a_post_and_lists_it(
    browser_page: Page, address: str, client: httpx.AsyncClient, alice: Person
) -> None:
    page = browser_page
    origins: set[str] = set()
    errors: list[str] = []
    page.on("request", lambda request: origins.add(urlsplit(request.url).netloc))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(10_000)
    await page.goto(f"{address}/docs")

    await page.get_by_role("button", name="Authorize").first.click()
    await page.get_by_label("username:").fill(alice.username)
    await page.get_by_label("password:").fill(alice.password)
    await page.get_by_role("button", name="Apply given OAuth2 credentials").click()
    await expect(page.locator(".auth-container")).to_contain_text("Authorized")
    await page.get_by_role("button", name="Close").click()

    create = page.locator("[id='operations-posts-create_post']")
    await create.locator(".opblock-summary-control").click()
    await create.locator("textarea").fill('{"title": "From the page", "content": "Written by hand"}')
    await create.get_by_role("button", name="Execute").click()
    await expect(create.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("201")

    listing = page.locator("[id='operations-posts-list_posts']")
    await listing.locator(".opblock-summary-control").click()
    await listing.get_by_role("button", name="Execute").click()
    await expect(listing.locator(".live-responses-table")).to_contain_text("From the page")

    [post] = (await client.get("/posts")).json()
    assert (post["title"], post["user_id"]) == ("From the page", alice.id)
    assert origins == {urlsplit(address).netloc}
    assert errors == []
