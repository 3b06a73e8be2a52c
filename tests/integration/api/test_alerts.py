"""Alerts over HTTP: which are listed, what is shown of each, and what is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from manman_status.api.alert_responses import Alert, AlertDetail, AlertList, Delivery

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.integration.api.conftest import Rows

ACKNOWLEDGED = {
    "state": "acknowledged",
    "acknowledged_by": "ann",
    "acknowledged_why": "I look at it",
}


async def listed(http: httpx.AsyncClient, **query: Any) -> list[int]:
    """The ids of all pages, each once."""
    found: list[int] = []
    while True:
        response = await http.get("/status/alerts", params=query)
        assert response.status_code == 200, response.text
        page = response.json()
        found += [item["alert_id"] for item in page["items"]]
        assert len(set(found)) == len(found)
        if page["next_cursor"] is None:
            return found
        query["cursor"] = page["next_cursor"]


@pytest.fixture
async def thirty(rows: Rows) -> None:
    """Ids 1 to 30. Of three one is open, one acknowledged, one resolved; 5 is the cause of 6 to
    9."""
    for n in range(1, 31):
        resolved = {"state": "resolved", "resolved_at": rows.now, "resolution": "it is back"}
        await rows.alert(
            f"{('worker_lost', 'flapping')[n % 2]}:{n}",
            severity=("critical", "warning", "info")[n % 5 % 3],
            group_name=(None, "", "eu", "us")[n % 4],
            worker_id=None if n % 4 == 0 else 1 + n % 3,
            part_of=5 if 6 <= n <= 9 else None,
            **({}, ACKNOWLEDGED | {"acknowledged_at": rows.now}, resolved)[n % 3],
        )


FILTERS: list[tuple[dict[str, Any], Callable[[int], bool]]] = [
    ({}, lambda n: n % 3 != 2),
    ({"state": "unresolved"}, lambda n: n % 3 != 2),
    ({"state": "open"}, lambda n: n % 3 == 0),
    ({"state": "acknowledged"}, lambda n: n % 3 == 1),
    ({"state": "resolved"}, lambda n: n % 3 == 2),
    ({"state": "all"}, lambda _: True),
    ({"state": "all", "severity": "critical"}, lambda n: n % 5 % 3 == 0),
    ({"state": "all", "rule": "flapping"}, lambda n: n % 2 == 1),
    ({"state": "all", "rule": "dead_letters"}, lambda _: False),
    ({"state": "all", "group": "eu"}, lambda n: n % 4 == 2),
    ({"state": "all", "group": ""}, lambda n: n % 4 == 1),
    ({"state": "all", "group": "nobody"}, lambda _: False),
    ({"state": "all", "worker_id": 2}, lambda n: n % 4 != 0 and n % 3 == 1),
    ({"state": "all", "part_of": 5}, lambda n: 6 <= n <= 9),
    ({"part_of": 5}, lambda n: n in {6, 7, 9}),
    (
        {"severity": "warning", "rule": "worker_lost"},
        lambda n: n % 3 != 2 and n % 5 % 3 == 1 and n % 2 == 0,
    ),
]


async def test_newest_come_first_and_filters_hold(thirty: None, http: httpx.AsyncClient) -> None:
    for query, expected in FILTERS:
        assert await listed(http, limit=4, **query) == [
            n for n in range(30, 0, -1) if expected(n)
        ], query


@pytest.mark.parametrize("limit", [1, 29, 30, 31, 1000])
async def test_pages_of_any_size_hold_every_alert_once(
    limit: int, thirty: None, http: httpx.AsyncClient
) -> None:
    assert await listed(http, limit=limit, state="all") == list(range(30, 0, -1))


async def test_a_cursor_holds_while_alerts_open_and_are_resolved(
    thirty: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    first = (await http.get("/status/alerts", params={"limit": 5})).json()
    assert [item["alert_id"] for item in first["items"]] == [30, 28, 27, 25, 24]
    await rows.alert("observer")
    for alert_id in (30, 24, 22):
        await rows.resolve(alert_id)
    rest = await listed(http, limit=5, cursor=first["next_cursor"])
    assert rest == [n for n in range(21, 0, -1) if n % 3 != 2]


REFUSED = [
    ("?state=unsolved", "state"),
    ("?state=", "state"),
    ("?state=open&state=resolved", "state"),
    ("?selected=all", "selected"),
    ("?severity=bad", "severity"),
    ("?rule=worker-lost", "rule"),
    ("?rule=", "rule"),
    ("?group=%00", "group"),
    ("?group=a&group=b", "group"),
    ("?worker_id=0", "worker_id"),
    ("?part_of=9223372036854775808", "part_of"),
    ("?limit=1001", "limit"),
    ("?cursor=AQAAAAAAAAABmPjm_rQrOh", "cursor"),
    ("?label=a:b", "label"),
    ("/x", "alert_id"),
    ("/0", "alert_id"),
    ("/1?state=all", "state"),
]


async def test_invalid_parameter_is_400_and_named(http: httpx.AsyncClient) -> None:
    for path, parameter in REFUSED:
        response = await http.get(f"/status/alerts{path}")
        assert (response.status_code, response.json()["parameter"]) == (400, parameter), path
        assert response.json()["detail"].startswith(f"{parameter}: "), path


async def test_cursor_is_bound_to_its_list_and_filters(
    thirty: None, http: httpx.AsyncClient
) -> None:
    cursor = (await http.get("/status/alerts", params={"limit": 1})).json()["next_cursor"]
    for path in (
        "/status/alerts?state=all",
        "/status/alerts?rule=flapping",
        "/status/workers?",
        "/status/silences?",
    ):
        response = await http.get(f"{path}&cursor={cursor}")
        assert (response.status_code, response.json()["parameter"]) == (400, "cursor"), path


async def test_every_answer_has_exactly_the_documented_fields(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    alert_id = await rows.alert(
        "worker_lost:7", labels={"group": "eu"}, evidence={"lost_servers": 2}
    )
    await rows.delivery(alert_id, "broker")
    page = await http.get("/status/alerts")
    msgspec.json.decode(page.content, type=AlertList)
    assert page.json().keys() == set(AlertList.__struct_fields__)
    assert [set(item) for item in page.json()["items"]] == [set(Alert.__struct_fields__)]
    detail = await http.get(f"/status/alerts/{alert_id}")
    msgspec.json.decode(detail.content, type=AlertDetail)
    assert detail.json().keys() == set(AlertDetail.__struct_fields__)
    assert [set(item) for item in detail.json()["deliveries"]] == [set(Delivery.__struct_fields__)]


async def test_alert_shows_its_subject_and_its_deliveries(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    alert_id = await rows.alert(
        "worker_lost:7",
        severity="critical",
        summary="worker 7 is silent",
        group_name="eu",
        worker_id=7,
        labels={"group": "eu"},
        evidence={"lost_servers": 2},
        **ACKNOWLEDGED | {"acknowledged_at": rows.now},
    )
    await rows.delivery(alert_id, "night-1", version=1, severity="warning", told_at=rows.ago(60))
    await rows.delivery(alert_id, "broker")
    for n in (1, 2):
        await rows.alert(f"server_crashed:{n}", part_of=alert_id)
    found = (await http.get(f"/status/alerts/{alert_id}")).json()
    assert (found["key"], found["rule"], found["severity"]) == (
        "worker_lost:7",
        "worker_lost",
        "critical",
    )
    assert (found["group"], found["worker_id"], found["labels"]) == ("eu", 7, {"group": "eu"})
    assert (found["state"], found["acknowledged_by"]) == ("acknowledged", "ann")
    assert (found["acknowledged_why"], found["resolved_at"], found["parts"]) == (
        "I look at it",
        None,
        2,
    )
    assert found["opened_at"].endswith("Z")
    assert [
        (each["channel"], each["severity"], each["is_settled"]) for each in found["deliveries"]
    ] == [
        ("broker", None, False),
        ("night-1", "warning", False),
    ]
    parts = (await http.get("/status/alerts", params={"part_of": alert_id})).json()["items"]
    assert [(part["key"], part["part_of"]) for part in parts] == [
        ("server_crashed:2", alert_id),
        ("server_crashed:1", alert_id),
    ]


async def test_an_alert_that_never_was_is_404(thirty: None, http: httpx.AsyncClient) -> None:
    response = await http.get("/status/alerts/31")
    assert (response.status_code, response.json()["parameter"]) == (404, "alert_id")
    assert response.headers["content-type"] == "application/problem+json"


async def test_alert_names_the_silence_that_covers_it_longest(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    covered = await rows.alert(
        "worker_lost:7", group_name="eu", worker_id=7, labels={"group": "eu", "disk": "old"}
    )
    await rows.silence("short", lasts=60, group_name="eu")
    await rows.silence("longest", lasts=120, labels={"disk": "old"})
    await rows.silence("ended", lasts=-1, worker_id=7)
    await rows.silence("other", lasts=240, rule="flapping")
    await rows.silence("half", lasts=240, group_name="eu", worker_id=8)
    for path in ("/status/alerts", f"/status/alerts/{covered}"):
        answer = (await http.get(path)).json()
        assert answer.get("items", [answer])[0]["silenced_by"] == "longest"
    await rows.resolve(covered)
    assert (await http.get(f"/status/alerts/{covered}")).json()["silenced_by"] is None


async def test_time_of_the_last_judgement_changes_no_etag(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """The list says when the alert rules last ran."""
    alert_id = await rows.alert("observer")
    first = await http.get("/status/alerts")
    assert first.json()["judged_at"] is None
    await rows.connection.execute("UPDATE alert_progress SET judged_at = $1", rows.now)
    for path in ("/status/alerts", f"/status/alerts/{alert_id}"):
        assert (await http.get(path)).json()["judged_at"] == f"{rows.now:%Y-%m-%dT%H:%M:%S.%f}Z"
    known = {"if-none-match": first.headers["etag"]}
    assert (await http.get("/status/alerts", headers=known)).status_code == 304
    await rows.connection.execute("UPDATE alerts SET severity = 'critical'")
    assert (await http.get("/status/alerts", headers=known)).status_code == 200


async def test_the_fleet_in_numbers_counts_what_people_have_to_look_at(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    cause = await rows.alert("fleet_guard:eu", severity="critical")
    await rows.alert("worker_lost:1", severity="critical", part_of=cause)
    await rows.alert("worker_lost:2")
    await rows.alert("worker_lost:3")
    await rows.alert("worker_lost:4", **ACKNOWLEDGED | {"acknowledged_at": rows.now})
    await rows.resolve(await rows.alert("observer", severity="critical"))
    system = await http.get("/status/system")
    assert system.json()["alerts"] == {"critical": 1, "warning": 2, "info": 0, "acknowledged": 1}
    lines = (await http.get("/metrics")).text.splitlines()
    for rule, severity, state, number in (
        ("fleet_guard", "critical", "open", 1),
        ("worker_lost", "critical", "open", 0),
        ("worker_lost", "warning", "open", 2),
        ("worker_lost", "warning", "acknowledged", 1),
        ("observer", "critical", "open", 0),
    ):
        labels = f'rule="{rule}",severity="{severity}",state="{state}"'
        assert f"manman_status_alerts{{{labels}}} {number:.1f}" in lines
    await rows.resolve(cause)
    changed = await http.get("/status/system", headers={"if-none-match": system.headers["etag"]})
    assert changed.json()["alerts"]["critical"] == 0
