"""The pages over HTTP: what they say, what they are allowed to do, and who may see them."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

import manman_status.api.page
from manman_status.api.tokens import SignInLimit, Tokens
from manman_status.domain.status import Health, Reason, StatusType
from tests.integration.api.conftest import UNHURRIED

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import httpx

    from tests.integration.api.conftest import Rows

    RunApp = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src"
    " 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGES = ("/", "/workers", "/workers/1", "/servers", "/alerts", "/silences")
OF_SCRIPTS = (
    "/page/bar",
    "/page/groups",
    "/page/map.json",
    "/page/workers/1/why",
    "/page/workers/1/day.json",
)
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
TOKEN = "s3cret; with=all, of%it"
FOLDER = Path(manman_status.api.page.__file__).parent
ELSEWHERE = re.compile(
    r"""(?:src|href|action|url\(|import|from|fetch\()\s*[=(]?\s*["']?(?:https?:)?//"""
)


@pytest.fixture
async def fleet(rows: Rows) -> Rows:
    await rows.worker(1, labels={"group": "eu-1"})
    await rows.worker(2, labels={"group": "eu-1"}, beat_seconds_ago=17)
    await rows.worker(3, status="LOST", reason="heartbeat_expired", beat_seconds_ago=60)
    await rows.worker(4, beat_seconds_ago=None)
    await rows.worker(5, status="COMPLETE", reason="graceful")
    await rows.server(31)
    return rows


@pytest.mark.parametrize(
    "path", [*PAGES, *OF_SCRIPTS, "/nowhere-of-a-page", "/workers/999", "/workers?health=ill"]
)
async def test_every_answer_of_the_pages_forbids_what_they_do_not_need(
    path: str, fleet: Rows, http: httpx.AsyncClient
) -> None:
    response = await http.get(path, headers=BROWSER)
    if path == "/nowhere-of-a-page":
        assert response.status_code == 404
        return
    assert response.headers["content-security-policy"] == POLICY
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
async def test_page_has_nothing_inline_and_loads_only_our_files(
    path: str, fleet: Rows, http: httpx.AsyncClient
) -> None:
    await has_nothing_inline(http, path)


async def has_nothing_inline(http: httpx.AsyncClient, path: str) -> None:
    page = (await http.get(path, headers=BROWSER)).text
    assert not re.search(r"<style|<script(?![^>]*src=)|\sstyle=|\son\w+=|javascript:", page)
    loaded = re.findall(r'<(?:script|link|img)[^>]*?(?:src|href)="([^"]+)"', page)
    assert len(loaded) >= 5
    for url in loaded:
        assert url.startswith("/page/files/")
        response = await http.get(url)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "max-age=31536000, public, immutable"
        kind = {"js": "javascript", "css": "text/css", "svg": "image/svg+xml"}[
            url.rpartition(".")[2]
        ]
        assert kind in response.headers["content-type"]


def test_no_file_of_the_page_names_another_host() -> None:
    for path in FOLDER.rglob("*"):
        if path.suffix in {".html", ".js", ".css", ".svg"}:
            assert not ELSEWHERE.search(path.read_text("utf-8")), path


def test_what_others_made_is_there_with_version_and_licence() -> None:
    listed = (FOLDER / "vendor" / "VERSIONS.md").read_text("utf-8")
    for path in (FOLDER / "vendor").iterdir():
        assert path.name == "VERSIONS.md" or f"`{path.name}`" in listed, path


async def test_map_has_each_worker_that_has_not_ended(fleet: Rows, http: httpx.AsyncClient) -> None:
    shown = (await http.get("/page/map.json")).json()
    assert (shown["state"], shown["healths"], shown["statuses"], shown["reasons"]) == (
        "ok",
        [*Health],
        [*StatusType],
        [*Reason],
    )

    def spelt(letters: str, names: list[str]) -> list[str]:
        return [names[ord(letter) - ord("a")] for letter in letters]

    groups = {
        name: list(
            zip(
                ids.split(" "),
                spelt(healths, shown["healths"]),
                spelt(statuses, shown["statuses"]),
                spelt(reasons, shown["reasons"]),
                strict=True,
            )
        )
        for name, ids, healths, statuses, reasons in shown["groups"]
    }
    assert groups == {
        "": [
            ("3", "unhealthy", "LOST", "heartbeat_expired"),
            ("4", "unknown", "RUNNING", "never_beat"),
        ],
        "eu-1": [("1", "healthy", "RUNNING", "reported"), ("2", "late", "RUNNING", "reported")],
    }


async def test_the_map_of_a_large_fleet_comes_in_pieces(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """None of them grows with the fleet: 45,000 workers here, every third in `eu-1`, one in a
    hundred LOST."""
    await rows.connection.execute(
        """INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since,
            reason, labels)
        SELECT n, now(), $1, CASE WHEN n % 100 = 0 THEN 'LOST' ELSE 'RUNNING' END, now(),
            'reported',
            CASE WHEN n % 3 = 0 THEN '{"group": "eu-1"}'::jsonb ELSE '{}' END FROM
                generate_series(1, 45000) n""",
        rows.now,
    )

    async def pieces(query: str) -> tuple[list[int], list[int]]:
        """Sizes of the pieces, and the ids of all."""
        sizes: list[int] = []
        ids: list[int] = []
        after: str | None = ""
        while after is not None:
            piece = (
                (await http.get(f"/page/map.json?{query}&after={after}")).raise_for_status().json()
            )
            found = [int(each) for group in piece["groups"] for each in group[1].split(" ")]
            sizes.append(len(found))
            ids += found
            after = piece["next"]
        return sizes, sorted(ids)

    assert await pieces("") == ([20_000, 20_000, 5_000], [*range(1, 45_001)])
    assert await pieces("group=eu-1") == ([15_000], [*range(3, 45_001, 3)])
    assert await pieces("health=unhealthy") == ([450], [*range(100, 45_001, 100)])
    assert await pieces("group=eu-1&health=unhealthy") == ([150], [*range(300, 45_001, 300)])
    for query in ("after=x", "after=-1", "health=dead", "group=a%00b", "limit=5"):
        assert (await http.get(f"/page/map.json?{query}")).status_code == 400


async def test_the_map_of_an_empty_fleet_is_empty(rows: Rows, http: httpx.AsyncClient) -> None:
    assert (await http.get("/page/map.json")).json()["groups"] == []
    assert "No worker has reported yet." in (await http.get("/")).text


async def test_unchanged_map_is_304(fleet: Rows, http: httpx.AsyncClient) -> None:
    """A client that has the map already downloads it again only after a change."""
    given = {"if-none-match": (await http.get("/page/map.json")).headers["etag"]}
    assert (await http.get("/page/map.json", headers=given)).status_code == 304
    await fleet.worker(6)
    assert (await http.get("/page/map.json", headers=given)).status_code == 200


async def test_why_a_worker_is_as_it_is_stands_there_in_words(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    beat = rows.ago(60)
    evidence = {
        "last_heartbeat": beat.isoformat(),
        "observed_through": (beat + timedelta(seconds=32)).isoformat(),
    }
    await rows.connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
    )
    await rows.worker(
        7, status="LOST", reason="heartbeat_expired", beat_seconds_ago=60, evidence=evidence
    )
    await rows.worker(8, beat_seconds_ago=None)
    await rows.worker(9, beat_seconds_ago=17)
    await rows.worker(10, status="CRASHED", end_date=rows.ago(5))
    clock = "%H:%M:%S"
    assert (
        (await http.get("/page/workers/7/why")).text
        == f"Silent since {beat:{clock}}; three beats of 10 s missed; "
        f"heard everything else until {beat + timedelta(seconds=32):{clock}}."
    )
    assert "never sent a heartbeat" in (await http.get("/page/workers/8/why")).text
    assert (
        (await http.get("/page/workers/9/why")).text
        == f"Silent since {rows.ago(17):{clock}}; one beat of 10 s missed. "
        f"Lost when nothing is heard until {rows.ago(17 - 30):{clock}}."
    )
    assert (await http.get("/page/workers/10/why")).text == f"Crashed at {rows.ago(5):{clock}}."
    await rows.observe(lag=3600)
    assert "Nobody has listened since" in (await http.get("/page/workers/9/why")).text


async def test_day_shows_statuses_servers_and_gaps(rows: Rows, http: httpx.AsyncClient) -> None:
    """The chart of a worker's day has statuses, servers and the times without monitoring."""
    await rows.worker(1, created_date=rows.ago(200_000))
    await rows.server(31, created_date=rows.ago(200_000))
    await rows.server(32, created_date=rows.ago(7200), status="COMPLETE", end_date=rows.ago(3600))
    await rows.transition("worker", 1, at=rows.ago(600), old_status="RUNNING", new_status="LOST")
    await rows.transition("worker", 1, at=rows.ago(300), old_status="LOST", new_status="RUNNING")
    await rows.connection.execute(
        "INSERT INTO observation_gaps (began_at, ended_at) VALUES ($1, $2)",
        rows.ago(1030),
        rows.ago(900),
    )
    day = (await http.get("/page/workers/1/day.json")).json()

    def seconds_ago(pairs: list[list[float]]) -> list[tuple[int, object]]:
        return [(round(day["ends"] - at), what) for at, what in pairs]

    assert seconds_ago(day["statuses"]) == [(86_400, "RUNNING"), (600, "LOST"), (300, "RUNNING")]
    assert seconds_ago(day["servers"]) == [(86_400, 1), (7200, 2), (3600, 1)]
    assert [[round(day["ends"] - at) for at in gap] for gap in day["blind"]] == [[1000, 900]]
    assert (await http.get("/page/workers/2/day.json")).status_code == 404


@pytest.mark.parametrize(
    ("lag", "state", "words"),
    [
        (0.0, "ok", "observed until"),
        (600.0, "degraded", "everything here is as of"),
        (3600.0, "blind", "Grey is not dead"),
        (None, "blind", "Nothing was ever observed"),
    ],
)
async def test_bar_shows_how_good_the_observation_is(
    lag: float | None, state: str, words: str, rows: Rows, run_app: RunApp
) -> None:
    await rows.observe(lag=lag)
    async with run_app(**UNHURRIED) as http:
        bar = (await http.get("/page/bar")).text
    assert f'data-state="{state}"' in bar
    assert words in bar


async def test_the_bar_says_how_many_workers_are_not_watched(
    fleet: Rows, http: httpx.AsyncClient
) -> None:
    assert "1 worker reports but never sent a heartbeat" in (await http.get("/page/bar")).text
    await fleet.connection.execute("UPDATE workers SET last_heartbeat = now()")
    assert "never sent a heartbeat" not in (await http.get("/page/bar")).text


async def test_the_bar_counts_open_alerts_and_names_what_a_guard_holds(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.alert("worker_lost:1", severity="critical")
    await rows.guard("eu-1", held=40, group_size=120)
    bar = (await http.get("/page/bar")).text
    assert "1 critical" in bar
    assert "A guard holds eu-1: 40 of 120 fell silent at once, and are not given up yet." in bar


async def test_what_workers_say_of_themselves_cannot_become_markup(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    evil = "<script>alert(1)</script>"
    await rows.connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
    )
    await rows.worker(1, labels={"group": evil, evil: evil})
    await rows.alert("worker_lost:1", summary=evil, group_name=evil)
    await rows.silence("a", why=evil, created_by=evil)
    for path in (
        "/",
        "/workers",
        "/workers/1",
        "/alerts",
        "/silences",
        f"/workers?group={quote(evil)}",
    ):
        page = await http.get(path)
        assert page.status_code == 200
        assert "<script>alert" not in page.text


@pytest.mark.parametrize(
    "query",
    ["health=ill", "colour=red", "group=a&group=b", "cursor=nonsense", "label=x", "group=%00"],
)
async def test_invalid_field_is_a_page_or_a_problem(
    query: str, rows: Rows, http: httpx.AsyncClient
) -> None:
    """People get a page that explains it, scripts a problem+json."""
    page = await http.get(f"/workers?{query}", headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert "Bad Request" in page.text
    problem = await http.get(f"/workers?{query}")
    assert (problem.status_code, problem.json()["parameter"]) == (400, query.partition("=")[0])


async def test_empty_field_filters_nothing(fleet: Rows, http: httpx.AsyncClient) -> None:
    page = await http.get("/workers?health=&status=&group=eu-1&label=")
    assert re.findall(r'id="worker-(\d+)"', page.text) == ["1", "2"]
    rows_alone = await http.get("/workers?group=eu-1", headers={"hx-request": "true"})
    assert "<html" not in rows_alone.text
    assert re.findall(r'id="worker-(\d+)"', rows_alone.text) == ["1", "2"]
    assert rows_alone.headers["vary"] == "HX-Request"


async def test_without_a_database_the_page_says_so(run_app: RunApp) -> None:
    async with run_app(database_url="postgresql://nobody@127.0.0.1:1/none") as http:
        page = await http.get("/", headers=BROWSER)
        assert (page.status_code, page.headers["retry-after"]) == (503, "1")
        assert "Service Unavailable" in page.text


async def test_visitor_signs_in_and_script_is_refused(rows: Rows, run_app: RunApp) -> None:
    async with run_app(api_tokens=(TOKEN,)) as http:
        for path in ("/", "/workers?group=eu-1", "/workers/7", "/servers", "/alerts", "/silences"):
            visit = await http.get(path, headers=BROWSER)
            assert (visit.status_code, visit.headers["location"]) == (
                303,
                f"/sign-in?to={quote(path, safe='')}",
            )
            assert (await http.get(path)).status_code == 401
        for path in ("/status/workers", "/page/map.json", "/page/bar", "/metrics", "/nowhere"):
            assert (await http.get(path, headers=BROWSER)).status_code == 401, path
        await has_nothing_inline(http, "/sign-in")


async def test_token_becomes_a_cookie_until_signing_out(
    rows: Rows, run_app: RunApp, capfd: pytest.CaptureFixture[str]
) -> None:
    async with run_app(api_tokens=("another", TOKEN)) as http:
        signed = await http.post("/sign-in", data={"token": TOKEN, "to": "/workers?health=late"})
        assert (signed.status_code, signed.headers["location"]) == (303, "/workers?health=late")
        (cookie,) = signed.headers.get_list("set-cookie")
        assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=604800"} <= set(
            cookie.split("; ")
        )
        assert "Secure" not in cookie
        for path in ("/", "/status/workers", "/page/map.json", "/metrics"):
            assert (await http.get(path)).status_code == 200, path
        wrong = await http.get("/status/workers", headers={"authorization": "Bearer wrong"})
        assert wrong.status_code == 401, "what is shown counts before what is kept"
        again = await http.get("/sign-in?to=/alerts")
        assert (again.status_code, again.headers["location"]) == (
            303,
            "/alerts",
        ), "signed in already"
        gone = await http.post("/sign-out")
        assert (gone.status_code, gone.headers["location"]) == (303, "/sign-in")
        assert (await http.get("/status/workers")).status_code == 401
    out, err = capfd.readouterr()
    assert TOKEN not in out + err
    assert quote(TOKEN, safe="") not in out + err


@pytest.mark.parametrize("given", ["wrong", "", "x" * 5000, TOKEN[:-1]])
async def test_a_wrong_token_signs_nobody_in(given: str, rows: Rows, run_app: RunApp) -> None:
    async with run_app(api_tokens=(TOKEN,)) as http:
        answer = await http.post("/sign-in", data={"token": given})
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
        assert "That is none of them." in answer.text
        http.cookies.set("manman-status-token", quote(given))
        assert (await http.get("/status/workers")).status_code == 401


async def test_the_cookie_is_no_token_and_ends_by_itself(rows: Rows, run_app: RunApp) -> None:
    """Another process knows it too; whoever stole it has no token, and cannot make it last."""
    async with run_app(api_tokens=(TOKEN,)) as http:
        cookie = (await http.post("/sign-in", data={"token": TOKEN})).cookies["manman-status-token"]
    assert TOKEN not in cookie
    assert quote(TOKEN, safe="") not in cookie
    until, _, seal = cookie.partition(".")
    async with run_app(api_tokens=("another", TOKEN)) as http:

        async def opens(value: str) -> int:
            return (
                await http.get(
                    "/status/workers", headers={"cookie": f"manman-status-token={value}"}
                )
            ).status_code

        assert await opens(cookie) == 200
        for other in (
            TOKEN,
            quote(TOKEN, safe=""),
            seal,
            f"{int(until) + 1}.{seal}",
            f"1.{seal}",
            f"{until}.",
        ):
            assert await opens(other) == 401, other
        bearer = {"authorization": f"Bearer {cookie}"}
        assert (await http.get("/status/workers", headers=bearer)).status_code == 401
        old = Tokens((TOKEN,)).cookie(TOKEN.encode(), seconds=-1)
        assert await opens(old) == 401
    async with run_app(api_tokens=("another",)) as http:
        assert await opens(cookie) == 401


async def test_whoever_guesses_tokens_has_to_wait_and_others_have_not(rows: Rows) -> None:
    limit = SignInLimit(of_one=3, of_all=5)
    for _ in range(3):
        assert limit.allows("10.0.0.1")
        limit.failed("10.0.0.1")
    assert not limit.allows("10.0.0.1")
    assert limit.allows("10.0.0.2")
    for _ in range(2):
        limit.failed("10.0.0.2")
    assert not limit.allows("10.0.0.3"), "too many in all"


async def test_wrong_tokens_are_counted_and_then_refused_unseen(
    rows: Rows, run_app: RunApp
) -> None:
    async with run_app(api_tokens=(TOKEN,)) as http:
        wrong = [
            (await http.post("/sign-in", data={"token": f"wrong {n}"})).status_code
            for n in range(30)
        ]
        assert set(wrong) == {403, 429}
        refused = await http.post("/sign-in", data={"token": "wrong"})
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "60"


async def test_a_token_for_metrics_opens_nothing_else(rows: Rows, run_app: RunApp) -> None:
    async with run_app(api_tokens=(TOKEN,), metrics_tokens=("for-prometheus",)) as http:
        bearer = {"authorization": "Bearer for-prometheus"}
        assert (await http.get("/metrics", headers=bearer)).status_code == 200
        for path in ("/status/workers", "/status/system", "/", "/schema/openapi.json"):
            assert (await http.get(path, headers=bearer)).status_code == 401, path
        assert (await http.post("/sign-in", data={"token": "for-prometheus"})).status_code == 403
        assert (
            await http.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
        ).status_code == 200
    async with run_app(metrics_tokens=("for-prometheus",)) as http:
        assert (await http.get("/status/workers")).status_code == 401, "no token at all opens it"


async def test_parameters_of_a_proxy_in_front_are_ignored(rows: Rows, run_app: RunApp) -> None:
    """Its password comes with every request, and does not outweigh the cookie."""
    async with run_app(api_tokens=(TOKEN,)) as http:
        http.headers["authorization"] = "Basic YW5uOnNlY3JldA=="
        assert (await http.get("/", headers=BROWSER)).status_code == 303
        await http.post("/sign-in", data={"token": TOKEN})
        assert (await http.get("/", headers=BROWSER)).status_code == 200


async def test_pages_that_are_left_open_do_not_fill_the_log(
    fleet: Rows, http: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in (*PAGES, *OF_SCRIPTS):
        assert (await http.get(path, headers={"hx-request": "true"})).status_code == 200
    assert "[info" not in capfd.readouterr().out
    for path in ("/workers", "/status/workers", "/workers/99"):
        await http.get(path, headers={} if path == "/workers" else {"hx-request": "true"})
        assert "[info" in capfd.readouterr().out, path


async def test_over_https_the_cookie_is_never_sent_without(rows: Rows, run_app: RunApp) -> None:
    async with run_app(api_tokens=(TOKEN,)) as http:
        signed = await http.post(
            "/sign-in", data={"token": TOKEN}, headers={"x-forwarded-proto": "https"}
        )
        assert "Secure" in signed.headers["set-cookie"].split("; ")


@pytest.mark.parametrize(
    "to", ["https://evil.test/", "//evil.test", "/\\evil.test", "javascript:alert(1)", "/\r\nx"]
)
async def test_signing_in_leads_to_no_other_site(to: str, rows: Rows, run_app: RunApp) -> None:
    async with run_app(api_tokens=(TOKEN,)) as http:
        assert 'value="/"' in (await http.get("/sign-in", params={"to": to})).text
        assert (await http.post("/sign-in", data={"token": TOKEN, "to": to})).headers[
            "location"
        ] == "/"


async def test_nothing_else_may_be_posted(rows: Rows, http: httpx.AsyncClient) -> None:
    for path in (*PAGES, *OF_SCRIPTS):
        assert (await http.post(path)).status_code == 405, path
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await http.request(method, "/sign-in")).status_code == 405
    assert (await http.post("/sign-in", content=b"x" * 20_000)).status_code in {400, 413}
