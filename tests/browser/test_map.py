"""The fleet map, in a real browser: what it shows, how soon, and at what cost."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import aio_pika
import asyncpg
import httpx
from playwright.async_api import Page, Position, expect

from tests.browser.conftest import FILL, UNHURRIED, WORKERS, Window, hindrances
from tests.conftest import run_sql
from tests.fleet import TIMEOUT_SECONDS, Fleet, Worker
from tests.kinds import Eventually, Role, StartRole

IN_A_MESSAGE = 1_000
MODULE = "const { map } = await import(document.querySelector('script[src$=\"/map.js\"]').src);"
SEEN = """async () => {
    const { map } = await import(document.querySelector('script[src$="/map.js"]').src);
    const { grid, fleet, drawing, pane, places } = map;
    const { context, ratio } = drawing;
    const commonest = (pixels) => {
        const counts = new Map();
        for (let at = 0; at < pixels.length; at += 4) {
            const colour = (pixels[at] << 16) | (pixels[at + 1] << 8) | pixels[at + 2];
            counts.set(colour, (counts.get(colour) ?? 0) + 1);
        }
        const [colour] = [...counts].reduce((most, one) => (one[1] > most[1] ? one : most));
        return "#" + colour.toString(16).padStart(6, "0");
    };
    const seen = {};
    for (let top = 0; top < grid.height + pane.clientHeight; top += pane.clientHeight / 2) {
        pane.scrollTop = top;
        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        // Now, since the page may just have gone from dark to light.
        const shades = Object.fromEntries(Object.entries(drawing.colours).map(([health, colour]) =>
            [colour, health]));
        for (let place = 0; place < grid.count; place++) {
            const { x, y } = grid.corner(place);
            const fromTop = y - pane.scrollTop + 12;
            if (fromTop < 0 || fromTop + grid.size > drawing.height) continue;
            const cell = context.getImageData(x * ratio, fromTop * ratio, grid.size * ratio,
                grid.size * ratio);
            const colour = commonest(cell.data);
            seen[fleet.ids[places[place]]] = shades[colour] ?? colour;
        }
    }
    return seen;
}"""
"""Health by worker: the one whose colour most of its cell has; the rest of it is the mark."""


async def known_to_the_api(api: Role) -> dict[str, str]:
    """Health by worker."""
    healths: dict[str, str] = {}
    query = "limit=1000"
    async with httpx.AsyncClient(base_url=api.url) as http:
        while query:
            page = (await http.get(f"/status/workers?{query}")).raise_for_status().json()
            healths |= {str(item["worker_id"]): item["health"] for item in page["items"]}
            query = page["next_cursor"] and f"limit=1000&cursor={page['next_cursor']}"
    return healths


async def loaded(page: Page, workers: int = WORKERS) -> None:
    await expect(page.locator("#shown")).to_contain_text(f"{workers:,}")


async def test_each_of_ten_thousand_cells_has_the_colour_of_its_health(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url)).open("/")
    await loaded(page)
    known = await known_to_the_api(crowded)
    assert set(known.values()) == {"healthy", "late", "unhealthy", "unknown"}
    assert await page.evaluate(SEEN) == known


async def test_a_map_of_too_many_workers_says_how_many_are_not_drawn(
    start_api: StartRole,
    database: str,
    window: Callable[..., Awaitable[Window]],
) -> None:
    """A filter that leaves fewer has all of them, of the whole fleet."""
    await run_sql(
        database, FILL.replace(f"generate_series(1, {WORKERS})", "generate_series(1, 110000)")
    )
    api = await start_api(**UNHURRIED)
    page = await (await window(api.url)).open("/")
    shown = page.locator("#shown")
    await expect(shown).to_have_text(
        "100,000 workers, and 10,000 more that are not drawn: choose a group or a health",
        timeout=60_000,
    )
    await page.select_option("select[name=group]", "g1")
    await expect(shown).to_have_text("15,715 workers", timeout=60_000)
    await page.select_option("select[name=health]", "unhealthy")
    await expect(shown).to_have_text("155 workers", timeout=60_000)
    await page.select_option("select[name=group]", "")
    await expect(shown).to_have_text("1,089 workers", timeout=60_000)
    await page.select_option("select[name=health]", "")
    await expect(shown).to_contain_text("100,000 workers, and 10,000 more", timeout=60_000)


async def test_map_filter_is_in_the_url_and_survives_a_reload(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url)).open("/")
    await loaded(page)
    await page.select_option("[name=group]", "g3")
    await page.select_option("[name=health]", "unhealthy")
    assert page.url == f"{crowded.url}/?group=g3&health=unhealthy"
    lost = sum(1 for n in range(3, WORKERS + 1, 7) if n % 101 == 0)
    await expect(page.locator("#shown")).to_have_text(f"{lost} of 10,000 workers")
    await page.reload()
    await expect(page.locator("#shown")).to_have_text(f"{lost} of 10,000 workers")
    assert await page.input_value("[name=group]") == "g3"
    assert set((await page.evaluate(SEEN)).values()) == {"unhealthy"}


async def test_pointing_at_a_cell_explains_it_and_clicking_opens_it(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url)).open("/?health=unhealthy&group=g3")
    await expect(page.locator("#shown")).to_contain_text(" of 10,000")
    cell: Position = {"x": 20, "y": 50}
    await page.hover("#map", position=cell)
    await expect(page.locator("#tip")).to_contain_text("Worker 101: unhealthy")
    await expect(page.locator("#tip")).to_contain_text("Lost since")
    await page.click("#map", position=cell)
    await page.wait_for_url("**/workers/101")


async def test_text_of_a_cell_changes_with_its_worker(
    start_api: StartRole,
    database: str,
    window: Callable[..., Awaitable[Window]],
) -> None:
    await run_sql(database, FILL)
    page = await (await window((await start_api(**UNHURRIED)).url)).open("/?group=g3")
    await expect(page.locator("#shown")).to_contain_text(" of 10,000")
    await page.hover("#map", position={"x": 20, "y": 50})
    tip = page.locator("#tip")
    await expect(tip).to_contain_text("Worker 3: healthy")
    await expect(tip).to_contain_text("Heard at")
    await run_sql(
        database,
        """WITH lost AS (
               UPDATE workers SET status = 'LOST', status_since = now(), reason =
                   'heartbeat_expired'
               WHERE worker_id = 3 RETURNING worker_id
           ), counted AS (UPDATE revision_counter SET revision = 3)
           INSERT INTO transitions (revision, at, entity, entity_id, old_status, new_status, reason)
           SELECT 3, now(), 'worker', worker_id, 'RUNNING', 'LOST', 'heartbeat_expired' FROM
               lost""",
    )
    await expect(tip).to_contain_text("Worker 3: unhealthy")
    await expect(tip).to_contain_text("Lost since")
    await page.select_option("[name=health]", "healthy")
    await expect(tip).to_be_hidden()


async def test_map_is_walked_by_keys_and_announces_each_worker(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url)).open("/")
    await loaded(page)
    await page.focus("#map")
    for key in ("Home", "ArrowRight", "PageDown", "ArrowRight"):
        await page.keyboard.press(key)
    # After those without a group come those of g1: 1, 8, …
    await expect(page.locator("#told")).to_contain_text("Worker 8: healthy. Heard at")
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/workers/8")


async def test_scrolling_takes_little_of_each_frame(
    crowded: Role, window: Callable[..., Awaitable[Window]]
) -> None:
    page = await (await window(crowded.url)).open("/")
    await loaded(page)
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    async def script_seconds() -> float:
        metrics = (await devtools.send("Performance.getMetrics"))["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "ScriptDuration")

    before = await script_seconds()
    frames = await page.evaluate(
        """async () => {
            const pane = document.getElementById("map");
            let frames = 0;
            for (let top = 0; top + pane.clientHeight < pane.scrollHeight; top += 12) {
                pane.scrollTop = top;
                await new Promise(requestAnimationFrame);
                frames++;
            }
            return frames;
        }"""
    )
    assert frames > 50
    assert (await script_seconds() - before) / frames < 0.016


async def test_blind_the_page_says_so_and_shows_nobody_as_dead(
    start_api: StartRole,
    database: str,
    window: Callable[..., Awaitable[Window]],
) -> None:
    await run_sql(database, FILL)
    api = await start_api(**UNHURRIED)
    page = await (await window(api.url)).open("/")
    await loaded(page)
    await run_sql(database, "UPDATE observation SET observed_through = now() - interval '3 h'")
    await expect(page.locator("#bar")).to_contain_text("Grey is not dead")
    await expect(page.locator("#told")).to_contain_text("Nobody has listened since")
    await expect(page.locator("#map")).to_have_class("map blind")
    assert await hindrances(page) == []
    healths = await page.evaluate(SEEN)
    assert {health for worker, health in healths.items() if int(worker) % 101} == {"unknown"}


QUICK = {
    "minimum_timeout_seconds": TIMEOUT_SECONDS,
    "recovery_grace_seconds": TIMEOUT_SECONDS,
    "canary_interval_seconds": 0.2,
    "sweep_interval_seconds": 0.2,
}
COLOUR_AT = """async (id) => {
    const { map } = await import(document.querySelector('script[src$="/map.js"]').src);
    const place = map.places.indexOf(map.fleet.byId.get(id));
    map.reveal(place);
    const { context, ratio, colours } = map.drawing;
    const colour = () => {
        const { x, y } = map.grid.corner(place);
        const [r, g, b] = context.getImageData((x + 1) * ratio, (y - map.pane.scrollTop + 13) *
            ratio, 1, 1).data;
        return "#" + ((r << 16) | (g << 8) | b).toString(16).padStart(6, "0");
    };
    const deadline = Date.now() + 60_000;
    while (colour() !== colours.unhealthy && Date.now() < deadline) await new
        Promise(requestAnimationFrame);
    return Date.now() / 1000;
}"""
"""Time, in seconds since the epoch, at which the cell turns the colour of LOST; fails in the
end."""


async def beat_once(broker: str) -> None:
    """A fleet of 10,000 workers that beat once an hour."""
    async with await aio_pika.connect(broker) as connection:
        exchange = await (await connection.channel()).get_exchange(
            "internal_service_events", ensure=False
        )
        for first in range(1, WORKERS + 1, IN_A_MESSAGE):
            beats = [
                {
                    "command_type": "HEARTBEAT",
                    "command_args": [worker_id],
                    "interval_seconds": 3600,
                    "labels": {"group": f"g{worker_id % 7}"},
                }
                for worker_id in range(first, first + IN_A_MESSAGE)
            ]
            await exchange.publish(
                aio_pika.Message(json.dumps(beats).encode()), f"worker.{first}.heartbeat"
            )


ATTEMPTS = 3
"""A machine that stands still just then proves nothing."""


async def lost_at(database: str, worker_id: int) -> float:
    connection = await asyncpg.connect(database)
    at: float = await connection.fetchval(
        """SELECT extract(epoch FROM at)::float8 FROM transitions
           WHERE entity = 'worker' AND entity_id = $1 AND new_status = 'LOST'""",
        worker_id,
    )
    await connection.close()
    return at


async def test_killed_worker_changes_colour_within_a_second_of_lost(
    start_processor: StartRole,
    start_api: StartRole,
    database: str,
    broker: str,
    fleet: Fleet,
    window: Callable[..., Awaitable[Window]],
    eventually: Eventually,
) -> None:
    await start_processor(**QUICK)
    api = await start_api(**QUICK)
    await beat_once(broker)
    others = [Worker(20_001 + number, group="g3") for number in range(ATTEMPTS + 1)]
    fleet.add(*others)
    page = await (await window(api.url)).open("/")
    await loaded(page, WORKERS + len(others))
    await eventually(
        lambda: page.evaluate(f"async () => {{ {MODULE} return map.fleet.state === 'ok' }}")
    )
    # The next reload would show it too, a little later: here only the stream may.
    await page.evaluate(f"async () => {{ {MODULE} map.fleet.loading = true }}")
    took = [float("inf")]
    for killed in others[:ATTEMPTS]:
        if min(took) < 1:
            break
        killed.go_silent()
        changed_at = await page.evaluate(COLOUR_AT, str(killed.worker_id))
        took.append(changed_at - await lost_at(database, killed.worker_id))
    assert 0 <= min(took) < 1, took
    await page.evaluate(f"async () => {{ {MODULE} map.fleet.loading = false }}")

    async def all_others_are_well() -> bool:
        return set((await page.evaluate(SEEN)).values()) == {"healthy", "unhealthy"}

    await eventually(all_others_are_well)
