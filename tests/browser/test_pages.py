"""Every page in a real browser: filters, pages, themes, sizes, and what a person with a screen
reader meets."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from playwright.async_api import Page, Response, Route, expect

from tests.browser.conftest import UNHURRIED, Window, hindrances
from tests.conftest import run_sql
from tests.kinds import ProcessTree, Role, StartRole

PAGES = (
    "/",
    "/workers?group=g3&health=unhealthy",
    "/workers/7",
    "/workers/101",
    "/servers?status=all&worker_id=7",
    "/alerts?worker_id=7",
    "/silences",
    "/schema/asyncapi",
)
"""Pages with few rows each: they are all alike, and looked at one by one."""


async def test_pages_have_no_accessibility_violations(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    opened = await window(crowded.url)
    for path in PAGES:
        page = await opened.open(path)
        assert await hindrances(page) == [], path
        await page.close()


@pytest.mark.parametrize("path", PAGES)
async def test_a_phone_shows_all_of_a_page_without_scrolling_sideways(
    path: str, crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url, width=390, height=844)).open(path)
    await expect(page.locator("h1")).to_be_attached()
    assert await page.evaluate("document.documentElement.scrollWidth") == 390


async def test_table_filters_while_typing_and_after_a_reload(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url)).open("/workers")
    await page.fill("[name=group]", "g3")
    await page.wait_for_url("**/workers?group=g3")
    await page.select_option("[name=health]", "unhealthy")
    await page.wait_for_url("**/workers?health=unhealthy&group=g3")
    rows = page.locator("#rows tbody tr")
    lost = [str(n) for n in range(3, 10_001, 7) if n % 101 == 0]
    await expect(rows).to_have_count(len(lost))
    await page.reload()
    await expect(rows.locator("th")).to_have_text(lost)
    assert await page.input_value("[name=group]") == "g3"
    await page.go_back()
    await page.wait_for_url("**/workers?group=g3")
    await expect(rows).to_have_count(100)


async def test_a_list_goes_on_page_by_page_and_back_to_the_first(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url)).open("/alerts?group=g1")
    rows = page.locator("#rows tbody tr")
    await expect(rows).to_have_count(100)
    await page.click("#next")
    await expect(rows).to_have_count(50)
    await expect(page.locator("#next")).to_have_count(0)
    assert await page.input_value("[name=group]") == "g1"
    await page.click("#first")
    await page.wait_for_url("**/alerts?group=g1")
    await expect(rows).to_have_count(100)


@pytest.fixture
async def page_of_worker_7(
    start_api: StartRole, database: str, window: Callable[..., Awaitable[Window]]
) -> Page:
    """Its page, which follows the stream and does not poll: healthy, at revision 50."""
    await run_sql(
        database,
        """INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since,
            reason)
        VALUES (7, now(), now(), 'RUNNING', now(), 'reported')""",
        "UPDATE observation SET observed_through = now(), resumed_at = now()",
        "UPDATE revision_counter SET revision = 50",
    )
    opened = await window((await start_api(**UNHURRIED)).url)

    async def without_its_poll(route: Route) -> None:
        answer = await route.fetch()
        await route.fulfill(
            response=answer, body=(await answer.text()).replace("renew, every 5s", "renew")
        )

    await opened.context.route("**/workers/7", without_its_poll)
    page = await opened.open("/workers/7")
    await expect(page.locator(".verdict")).to_contain_text("healthy")
    await expect(page.locator("#day canvas")).to_be_visible()
    return page


async def test_a_worker_that_is_lost_says_so_on_its_page_at_once(
    page_of_worker_7: Page, database: str
) -> None:
    page = page_of_worker_7
    await run_sql(
        database,
        """WITH lost AS (
               UPDATE workers SET status = 'LOST', status_since = now(), reason =
                   'heartbeat_expired', evidence =
                   jsonb_build_object('observed_through', now() + interval '32 s') RETURNING
                       worker_id
           ), counted AS (UPDATE revision_counter SET revision = 51)
           INSERT INTO transitions (revision, at, entity, entity_id, old_status, new_status, reason)
           SELECT 51, now(), 'worker', worker_id, 'RUNNING', 'LOST', 'worker_lost' FROM lost""",
    )
    await expect(page.locator(".verdict")).to_contain_text(re.compile(r"\w+ beats of 10 s missed"))
    await expect(page.locator("#day canvas")).to_be_visible()


async def test_a_worker_page_is_renewed_when_a_backup_was_restored(
    page_of_worker_7: Page, database: str
) -> None:
    """Revisions are lower than the one that the page was loaded at, and it does not poll."""
    page = page_of_worker_7
    await run_sql(
        database,
        """WITH restored AS (
               UPDATE revision_counter
               SET revision = 0, previous_epoch = epoch, epoch = 'ee', epoch_begins_after = 0
           ) UPDATE workers SET status = 'LOST', status_since = now(), reason = 'heartbeat_expired',
               evidence =
               jsonb_build_object('observed_through', now() + interval '32 s')""",
    )
    await expect(page.locator(".verdict")).to_contain_text(re.compile(r"\w+ beats of 10 s missed"))


async def test_when_nothing_answers_any_more_the_bar_says_since_when(
    start_api: StartRole, window: Callable[..., Awaitable[Window]]
) -> None:
    api = await start_api()
    opened = await window(api.url)
    page = await opened.open("/workers")
    api.kill()
    await expect(page.locator("#bar")).to_contain_text("no answer from the api since")
    opened.faults.clear()  # each question that was not answered


async def test_when_the_api_hangs_the_bar_says_so_too(
    process_tree: ProcessTree,
    start_api: StartRole,
    window: Callable[..., Awaitable[Window]],
) -> None:
    api = await start_api()
    opened = await window(api.url)
    page = await opened.open("/")
    pids = process_tree(api.pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await expect(page.locator("#bar")).to_contain_text("no answer from the api since")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await expect(page.locator("#bar")).not_to_contain_text("no answer")
    opened.faults.clear()  # each question that was not answered


async def test_time_of_the_outage_stands_still_while_refused(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    opened = await window(crowded.url)
    page = await opened.open("/silences")
    for path in ("**/page/bar", "**/silences"):
        await page.route(
            path, lambda route: route.fulfill(status=503, json={"detail": "The database is away"})
        )
    await expect(page.locator("#bar")).to_contain_text("no answer from the api since")
    since = await page.locator(".observation span").text_content()
    for _ in range(2):
        async with page.expect_response("**/page/bar"):
            pass
    await expect(page.locator(".observation span")).to_have_text(since or "")
    opened.faults.clear()


async def test_invalid_field_is_explained_and_is_no_outage(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    opened = await window(crowded.url)
    page = await opened.open("/workers")
    await page.fill("[name=label]", "group")
    await expect(page.locator("#refused")).to_contain_text("'group' is not key:value")
    await expect(page.locator("#bar")).to_contain_text("ok")
    assert await hindrances(page) == []
    await page.fill("[name=label]", "group:g3")
    await expect(page.locator("#refused")).to_have_text("")
    await page.wait_for_url("**/workers?label=group%3Ag3")
    assert all("400" in fault for fault in opened.faults)
    opened.faults.clear()


async def test_what_a_proxy_refuses_is_no_answer(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    opened = await window(crowded.url)
    page = await opened.open("/workers")
    for path in ("**/page/bar", "**/workers"):
        await page.route(
            path, lambda route: route.fulfill(status=404, body="<html>no such backend")
        )
    await expect(page.locator("#bar")).to_contain_text("no answer from the api since")
    opened.faults.clear()


ENDED = """INSERT INTO workers (worker_id, created_date, end_date, status, status_since, reason)
           VALUES (7, now(), now(), 'COMPLETE', now(), 'graceful')"""


async def test_a_worker_that_is_no_longer_known_is_no_outage(
    start_api: StartRole,
    database: str,
    window: Callable[..., Awaitable[Window]],
) -> None:
    await run_sql(database, ENDED)
    opened = await window((await start_api()).url)
    page = await opened.open("/workers/7")
    await run_sql(database, "DELETE FROM workers")
    await expect(page.locator("#refused")).to_contain_text("7")
    await expect(page.locator("#bar")).not_to_contain_text("no answer")
    await run_sql(database, ENDED)
    await expect(page.locator("#refused")).to_have_text("")
    assert all("404" in fault for fault in opened.faults)
    opened.faults.clear()


async def test_filter_holds_while_rows_are_polled(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url)).open("/workers")
    polled = asyncio.Event()

    async def after_a_poll(route: Route) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(
                polled.wait(), 8
            )  # what is requested after this would have been requested in it
        await route.continue_()

    await page.route("**/workers?health=unhealthy", after_a_poll)

    def note_poll(response: Response) -> None:
        if response.url.endswith("/workers"):
            polled.set()

    page.on("response", note_poll)
    await page.select_option("[name=health]", "unhealthy")
    await page.wait_for_url("**/workers?health=unhealthy")
    await expect(page.locator("#rows")).to_have_attribute("hx-get", "/workers?health=unhealthy")
    await expect(page.locator("#rows tbody tr").first).to_contain_text("unhealthy")


async def test_table_keeps_scroll_position_and_focus(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url, width=390, height=844)).open("/workers")
    table = page.locator("#table")
    await table.focus()
    await table.evaluate("table => (table.scrollLeft = 120)")
    async with page.expect_response("**/workers"):
        pass
    await table.evaluate("table => new Promise(requestAnimationFrame)")
    assert await table.evaluate(
        "table => [table.scrollLeft, document.activeElement === table]"
    ) == [120, True]


async def test_last_day_is_drawn_after_a_first_failed_request(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    opened = await window(crowded.url)
    requested = asyncio.Event()

    async def once_in_vain(route: Route) -> None:
        await (route.continue_() if requested.is_set() else route.abort())
        requested.set()

    await opened.context.route("**/day.json", once_in_vain)
    page = await opened.open("/workers/7")
    await asyncio.wait_for(requested.wait(), 30)
    await page.evaluate(
        "document.dispatchEvent(new Event('visibilitychange'))"
    )  # as who comes back to it
    await expect(page.locator("#day canvas")).to_be_visible()
    assert all("ERR_FAILED" in fault for fault in opened.faults)
    opened.faults.clear()


HIDE = """hidden => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_hidden_tabs_take_no_connection_from_visible_ones(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    """A browser has six connections to a host in all."""
    opened = await window(crowded.url)
    pages = []
    for path in (
        "/workers/7",
        "/workers/8",
        "/",
        "/workers/9",
        "/workers/101",
        "/",
        "/workers/102",
        "/workers/103",
    ):
        page = await opened.open(path)
        await expect(page.locator(".observation")).to_contain_text("observed until")
        await page.evaluate(HIDE, True)
        pages.append(page)
    await pages[0].evaluate(HIDE, False)
    async with pages[0].expect_response("**/page/bar"):
        pass
    await expect(pages[0].locator("#day canvas")).to_be_visible()


async def test_signing_in_opens_the_page_and_signing_out_closes_it(
    start_api: StartRole, window: Callable[..., Awaitable[Window]]
) -> None:
    api = await start_api(api_tokens="a-token-of-mine")
    opened = await window(api.url)
    page = await opened.open("/alerts?severity=critical")
    assert page.url == f"{api.url}/sign-in?to=%2Falerts%3Fseverity%3Dcritical"
    assert await hindrances(page) == []
    await page.fill("[name=token]", "another")
    await page.click("form.sign-in button")
    await expect(page.locator("form [role=alert]")).to_have_text("That is none of them.")
    await page.fill("[name=token]", "a-token-of-mine")
    await page.click("form.sign-in button")
    await page.wait_for_url("**/alerts?severity=critical")
    (cookie,) = await opened.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    await page.goto(f"data:text/html,<a href='{api.url}/silences'>a link from elsewhere</a>")
    await page.click("a")
    await page.wait_for_url("**/silences")
    await page.click("text=Sign out")
    await page.wait_for_url("**/sign-in")
    assert await opened.context.cookies() == []
    assert all("the server responded with a status of 40" in fault for fault in opened.faults)
    opened.faults.clear()
