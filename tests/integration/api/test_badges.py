"""Badges: what they say, and who may see them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from manman_status.api.badge import COLOURS, Colour, shown_uptime
from manman_status.domain.fleet import OverallStatus
from manman_status.domain.status import Health
from manman_status.domain.uptime import Figures

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from tests.integration.api.conftest import Rows

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

NAMESPACE = "{http://www.w3.org/2000/svg}"
DAY = 86_400.0
TOKEN = "a-token-5c1e"


async def badge(http: httpx.AsyncClient, path: str) -> tuple[list[str], str]:
    """Its two texts, and the colour of the second."""
    response = await http.get(path)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/svg+xml"
    assert response.headers["cache-control"] == "no-cache, max-age=30"
    root = ET.fromstring(response.text)
    texts = [text.text or "" for text in root.iter(f"{NAMESPACE}text")]
    (title,) = (title.text for title in root.iter(f"{NAMESPACE}title"))
    assert title == root.attrib["aria-label"] == ": ".join(texts)
    return texts, [
        shape.attrib["fill"] for shape in root.iter(f"{NAMESPACE}rect") if "fill" in shape.attrib
    ][1]


async def test_the_badge_of_the_fleet_is_its_overall_status(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    assert await badge(http, "/status/badge.svg") == (["fleet", "empty"], Colour.GREY)
    await rows.worker(1)
    assert await badge(http, "/status/badge.svg") == (["fleet", "healthy"], Colour.GREEN)
    await rows.worker(2, status="LOST")
    assert await badge(http, "/status/badge.svg") == (["fleet", "degraded"], Colour.AMBER)
    await rows.observe(lag=60)
    assert await badge(http, "/status/badge.svg") == (["fleet", "unknown"], Colour.GREY)


async def test_the_badge_of_a_worker_is_its_health(rows: Rows, http: httpx.AsyncClient) -> None:
    for worker_id, beat in ((1, 0), (2, 20), (3, 90)):
        await rows.worker(worker_id, beat_seconds_ago=beat)
    await rows.worker(4, status="COMPLETE")
    for worker_id, health, colour in (
        (1, "healthy", Colour.GREEN),
        (2, "late", Colour.AMBER),
        (3, "unhealthy", Colour.RED),
        (4, "terminated", Colour.GREY),
    ):
        shown = await badge(http, f"/status/workers/{worker_id}/badge.svg")
        assert shown == ([f"worker {worker_id}", health], colour)
    assert (await http.get("/status/workers/5/badge.svg")).status_code == 404


async def test_a_badge_with_a_window_shows_uptime(rows: Rows, http: httpx.AsyncClient) -> None:
    """Lost for 36 minutes of a day: 2.5 %."""
    await rows.worker(1, created_date=rows.ago(9 * DAY), status_since=rows.ago(0.5 * DAY))
    await rows.transition(
        "worker", 1, at=rows.ago(0.525 * DAY), old_status="RUNNING", new_status="LOST"
    )
    await rows.transition(
        "worker", 1, at=rows.ago(0.5 * DAY), old_status="LOST", new_status="RUNNING"
    )
    assert await badge(http, "/status/workers/1/badge.svg?window=24h") == (
        ["worker 1 uptime 24h", "97.50%"],
        Colour.RED,
    )
    await rows.worker(2, created_date=rows.ago(9 * DAY), status_since=rows.ago(9 * DAY))
    assert await badge(http, "/status/badge.svg?window=24h") == (
        ["fleet uptime 24h", "98.75%"],
        Colour.RED,
    )
    assert await badge(http, "/status/workers/2/badge.svg?window=7d") == (
        ["worker 2 uptime 7d", "100%"],
        Colour.GREEN,
    )
    for path in ("/status/badge.svg", "/status/workers/1/badge.svg"):
        for window in ("31d", "25h", ""):
            problem = (await http.get(f"{path}?window={window}")).json()
            assert (problem["status"], problem["parameter"]) == (400, "window")


def test_uptime_is_rounded_down() -> None:
    assert shown_uptime(Figures(active=999_999, lost=1)) == ("99.99%", Colour.GREEN)
    assert shown_uptime(Figures(active=10)) == ("100%", Colour.GREEN)
    assert shown_uptime(Figures(active=995, lost=5)) == ("99.50%", Colour.AMBER)
    assert shown_uptime(Figures(lost=5)) == ("0.00%", Colour.RED)
    assert shown_uptime(Figures(ended=5)) == ("unknown", Colour.GREY)


def test_every_word_has_a_colour_that_white_is_read_on() -> None:
    assert set(COLOURS) == {*Health, *OverallStatus}

    def luminance(colour: str) -> float:
        parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for colour in Colour:
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, colour


async def test_a_badge_wants_a_token_as_all_else(rows: Rows, run_app: RunApp) -> None:
    await rows.worker(1)
    async with run_app(api_tokens=(TOKEN,)) as http:
        for path in ("/status/badge.svg", "/status/workers/1/badge.svg"):
            assert (await http.get(path)).status_code == 401
            assert (
                await http.get(path, headers={"authorization": f"Bearer {TOKEN}"})
            ).status_code == 200


async def test_public_badges_want_none_and_open_nothing_else(rows: Rows, run_app: RunApp) -> None:
    await rows.worker(1)
    async with run_app(api_tokens=(TOKEN,), public_badges=True) as http:
        for path in (
            "/status/badge.svg",
            "/status/workers/1/badge.svg",
            "/status/badge.svg?window=24h",
        ):
            assert (await http.get(path)).status_code == 200, path
        assert (await http.get("/status/workers/2/badge.svg")).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/status/workers",
        "/status/workers/1",
        "/status/workers/1/uptime",
        "/status/uptime",
        "/status/badge.svg/",
        "/status/badge.svg/../system",
        "/status/badgexsvg",
        "/status/workers/badge.svg",
        "/status/workers/0/badge.svg",
        "/status/workers/1/badge.svg/",
        "/status/workers/1/2/badge.svg",
        "/status/workers/1/badge.svg%0a",
        "/status/workers/%D9%A3/badge.svg",
        "/x/status/badge.svg",
    ],
)
async def test_what_only_looks_like_a_badge_stays_closed(path: str, run_app: RunApp) -> None:
    async with run_app(api_tokens=(TOKEN,), public_badges=True) as http:
        assert (await http.get(path)).status_code == 401
