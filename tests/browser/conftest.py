"""A real Chromium, and pages in it that are watched: what a page must never do fails the test that
opened it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    async_playwright,
    expect,
)

from manman_status.dev.ports import free_port
from manman_status.dev.postgres import EmbeddedPostgres
from tests.conftest import role_environment, run_sql, temporary_database, write_thresholds
from tests.fleet import fleet
from tests.kinds import Eventually, Role

__all__ = ["fleet"]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
VIOLATIONS = (
    "addEventListener('securitypolicyviolation', e => console.error('CSP', e.violatedDirective,"
    " e.blockedURI))"
)

WORKERS = 10_000
FILL = f"""
    INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason,
        labels)
    SELECT n, now(), CASE WHEN n % 97 > 0 THEN now() - (n % 89 / 88) * interval '20 s' END,
        CASE WHEN n % 101 = 0 THEN 'LOST' ELSE 'RUNNING' END, now(),
        CASE WHEN n % 101 = 0 THEN 'heartbeat_expired' ELSE 'reported' END,
        CASE WHEN n % 7 > 0 THEN jsonb_build_object('group', 'g' || n % 7) ELSE '{{}}' END
    FROM generate_series(1, {WORKERS}) n;
    INSERT INTO server_instances (instance_id, worker_id, created_date, status, status_since,
        reason)
    SELECT n, 1 + n % 100, now() - interval '1 h', CASE WHEN n % 3 = 0 THEN 'COMPLETE' ELSE
        'RUNNING' END,
        now() - interval '1 min', CASE WHEN n % 3 = 0 THEN 'graceful' ELSE 'reported' END
    FROM generate_series(1, 900) n;
    INSERT INTO transitions (revision, at, entity, entity_id, old_status, new_status, reason)
    VALUES (1, now() - interval '2 h', 'worker', 7, 'RUNNING', 'LOST', 'worker_lost'),
        (2, now() - interval '1 h', 'worker', 7, 'LOST', 'RUNNING', 'recovered');
    UPDATE revision_counter SET revision = 2;
    INSERT INTO alerts (key, rule, severity, summary, group_name, worker_id, opened_at)
    SELECT 'worker_lost:' || n, 'worker_lost', CASE WHEN n % 2 = 0 THEN 'critical' ELSE 'warning'
        END,
        'Worker ' || n || ' fell silent', 'g1', n, now() FROM generate_series(1, 150) n;
    INSERT INTO silences (silence_id, created_at, ends_at, created_by, why, group_name)
    VALUES ('a-deploy', now(), now() + interval '1 h', 'ann', 'a deploy', 'g2');
    UPDATE observation SET observed_through = now(), advanced_at = now(), resumed_at = now() -
        interval '1 day'
"""
"""Some workers of each health, in seven groups, one of which has no name; and something for each
table."""
UNHURRIED = {"degraded_after_seconds": 3600, "blind_after_seconds": 7200}
"""Nothing moves the watermark of what was filled in."""


@pytest.fixture(scope="session")
async def crowded(
    postgres: EmbeddedPostgres, migrated_template: str, server_folder: Path, eventually: Eventually
) -> AsyncIterator[Role]:
    """An api of 10,000 workers, for tests that change nothing."""
    async for url in temporary_database(postgres, migrated_template):
        await run_sql(url, FILL)
        await write_thresholds(url, UNHURRIED)
        port = free_port()
        command = [sys.executable, "-m", "manman_status", "serve", "--role", "api"]
        env = role_environment(
            database_url=url, host="127.0.0.1", port=port, database_timeout_seconds=60
        )
        api = Role("api", command, log_file=server_folder / "crowded.log", env=env)
        api.url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=api.url) as http:

            async def lives() -> bool:
                try:
                    return (await http.get("/livez")).is_success
                except httpx.TransportError:
                    return False

            await eventually(lives)
        yield api
        api.kill()


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    expect.set_options(timeout=120_000)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


class Window:
    """Opens pages of one api. `faults` is what they did that none may do."""

    def __init__(self, url: str, context: BrowserContext) -> None:
        self.url = url
        self.context = context
        self.faults: list[str] = []

    async def open(self, path: str) -> Page:
        page = await self.context.new_page()
        await page.add_init_script(VIOLATIONS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self._requested(request.url))
        await page.goto(self.url + path)
        return page

    def _said(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(message.text)

    def _requested(self, url: str) -> None:
        scheme, host = urlsplit(url)[:2]
        if scheme != "data" and host != urlsplit(self.url).netloc:
            self.faults.append(f"asked {url}")


async def hindrances(page: Page) -> list[tuple[str, str]]:
    """Violations that axe finds, and the first place of each. The dark theme differs in colours
    alone."""
    found = (await Axe().run(page)).response["violations"]
    await page.emulate_media(color_scheme="dark")
    found += (await Axe().run(page, options={"runOnly": ["color-contrast"]})).response["violations"]
    await page.emulate_media(color_scheme="light")
    return [(fault["id"], fault["nodes"][0]["html"]) for fault in found]


@pytest.fixture
async def window(chromium: Browser) -> AsyncIterator[Callable[..., Awaitable[Window]]]:
    """A fresh one, of a size and with a theme where they are given. It must be without fault at the
    end of the test."""
    opened: list[Window] = []

    async def open_window(
        url: str, *, width: int = 1440, height: int = 900, dark: bool = False
    ) -> Window:
        context = await chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        opened.append(Window(url, context))
        return opened[-1]

    yield open_window
    for one in opened:
        await one.context.close()
    assert [fault for one in opened for fault in one.faults] == []
