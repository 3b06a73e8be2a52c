"""Transitions of one entity, and the fleet as it was at a past time."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manman_status.domain.status import Entity, StatusType
from manman_status.store.partitions import _make_partition

if TYPE_CHECKING:
    import httpx

    from tests.integration.api.conftest import Rows

HOUR, DAY = 3600.0, 86_400.0


def moment(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


async def get(http: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    response = await http.get(path, params=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def refused(http: httpx.AsyncClient, path: str, **query: Any) -> tuple[int, str, str]:
    problem = (await http.get(path, params=query)).json()
    return problem["status"], problem["parameter"], problem["detail"]


@pytest.fixture
async def one(rows: Rows) -> None:
    """Worker 7, once a day: running, lost, back, ended. Another one beside it."""
    story = [
        (4, None, "RUNNING"),
        (3, "RUNNING", "LOST"),
        (2, "LOST", "RUNNING"),
        (1, "RUNNING", "COMPLETE"),
    ]
    reasons = ["reported", "heartbeat_expired", "recovered", "graceful"]
    for (days, old, new), reason in zip(story, reasons, strict=True):
        at = rows.ago(days * DAY)
        await rows.transition(
            "worker", 7, at=at, old_status=old, new_status=new, reason=reason, evidence={"d": days}
        )
        await rows.transition("worker", 8, at=at)
    await rows.worker(
        7,
        created_date=rows.ago(4 * DAY),
        status="COMPLETE",
        status_since=rows.ago(DAY),
        reason="graceful",
    )


async def test_transitions_of_a_worker_come_newest_first(
    one: None, http: httpx.AsyncClient
) -> None:
    answer = await get(http, "/status/workers/7/transitions")
    assert [item["new_status"] for item in answer["items"]] == [
        "COMPLETE",
        "RUNNING",
        "LOST",
        "RUNNING",
    ]
    assert answer["items"][0]["reason"] == "graceful"
    assert {item["entity_id"] for item in answer["items"]} == {7}
    assert answer["next_cursor"] is None


async def test_transitions_have_the_time_that_is_published(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """Transitions of the release before were published as of when they were stored."""
    late = rows.ago(2 * HOUR)
    await rows.transition("worker", 7, at=rows.ago(HOUR))
    await rows.transition("worker", 7, at=rows.now, as_of=late)
    newer, older = (await get(http, "/status/workers/7/transitions"))["items"]
    assert (older["at"], older["as_of"]) == (moment(rows.ago(HOUR)), moment(rows.ago(HOUR)))
    assert (newer["at"], newer["as_of"]) == (moment(rows.now), moment(late))


async def test_transitions_come_in_pages(one: None, http: httpx.AsyncClient) -> None:
    found, cursor = [], None
    while True:
        query = {"limit": 3} if cursor is None else {"limit": 3, "cursor": cursor}
        page = await get(http, "/status/workers/7/transitions", **query)
        found += [item["revision"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == [7, 5, 3, 1]


async def test_transitions_are_filtered_by_status_and_time(
    one: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    path = "/status/workers/7/transitions"
    assert [
        item["revision"] for item in (await get(http, path, new_status="RUNNING"))["items"]
    ] == [5, 1]
    since = {"since": moment(rows.ago(3 * DAY)), "until": moment(rows.ago(DAY))}
    assert [item["revision"] for item in (await get(http, path, **since))["items"]] == [5, 3], (
        "since, and before until"
    )


async def test_a_cursor_is_for_one_history_with_its_filters(
    one: None, http: httpx.AsyncClient
) -> None:
    cursor = (await get(http, "/status/workers/7/transitions", limit=1))["next_cursor"]
    for path, query in (
        ("workers/8", {}),
        ("servers/7", {}),
        ("workers/7", {"new_status": "LOST"}),
    ):
        assert (await refused(http, f"/status/{path}/transitions", cursor=cursor, **query))[:2] == (
            400,
            "cursor",
        )


async def test_deleted_worker_keeps_its_transitions(one: None, http: httpx.AsyncClient) -> None:
    assert len((await get(http, "/status/workers/8/transitions"))["items"]) == 4


async def test_who_was_never_named_has_no_transitions(rows: Rows, http: httpx.AsyncClient) -> None:
    await rows.server(31)
    assert (await get(http, "/status/servers/31/transitions"))["items"] == []
    assert (await refused(http, "/status/servers/32/transitions"))[:2] == (404, "instance_id")
    assert (await refused(http, "/status/workers/31/transitions"))[:2] == (404, "worker_id")


@pytest.mark.parametrize(
    ("days", "status", "health", "reason"),
    [
        (3.5, "RUNNING", None, "reported"),
        (2.5, "LOST", "unhealthy", "heartbeat_expired"),
        (1.5, "RUNNING", None, "recovered"),
        (0.5, "COMPLETE", "terminated", "graceful"),
    ],
)
async def test_a_worker_is_shown_as_it_was(
    days: float,
    status: str,
    health: str | None,
    reason: str,
    one: None,
    rows: Rows,
    http: httpx.AsyncClient,
) -> None:
    at = moment(rows.ago(days * DAY))
    for worker in (
        await get(http, "/status/workers/7", at=at),
        *(await get(http, "/status/workers", at=at))["items"],
    ):
        assert (worker["status"], worker["health"], worker["reason"]) == (status, health, reason)
        assert datetime.fromisoformat(worker["status_since"]) == rows.ago((int(days) + 1) * DAY)
        assert worker["evidence"] == {"d": int(days) + 1}
        assert worker["end_date"] == (worker["status_since"] if status == "COMPLETE" else None)
        assert not {"last_heartbeat", "deadline", "interval_seconds", "is_healthy"} & set(worker)


async def test_a_time_of_a_transition_is_after_it(
    one: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    assert (await get(http, "/status/workers/7", at=moment(rows.ago(3 * DAY))))["status"] == "LOST"


async def test_who_was_not_known_yet_is_not_there(
    one: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    at = moment(rows.ago(4 * DAY + 1))
    assert (await get(http, "/status/workers", at=at))["items"] == []
    assert (await refused(http, "/status/workers/7", at=at))[:2] == (404, "worker_id")
    assert (await refused(http, "/status/servers/7", at=at))[:2] == (404, "instance_id")


async def test_worker_unchanged_beyond_retention_is_listed(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(
        1, created_date=rows.ago(90 * DAY), status_since=rows.ago(80 * DAY), reason="recovered"
    )
    worker = (await get(http, "/status/workers", at=moment(rows.ago(29 * DAY))))["items"][0]
    assert (worker["status"], worker["reason"]) == ("RUNNING", "recovered")
    assert datetime.fromisoformat(worker["status_since"]) == rows.ago(80 * DAY)


async def test_status_older_than_retention_has_no_since(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """It was lost a day ago. Two days ago it ran, and why and since when went with the
    retention."""
    await rows.transition("worker", 1, at=rows.ago(DAY), old_status="RUNNING", new_status="LOST")
    await rows.worker(1, created_date=rows.ago(90 * DAY), status="LOST", status_since=rows.ago(DAY))
    worker = await get(http, "/status/workers/1", at=moment(rows.ago(2 * DAY)))
    assert worker["status"] == "RUNNING"
    assert (worker["status_since"], worker["reason"], worker["evidence"]) == (None, None, None)


async def test_confirmed_end_keeps_the_reason_of_its_time(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.transition(
        "game_server_instance", 31, at=rows.ago(DAY), new_status="CRASHED", reason="superseded"
    )
    await rows.server(
        31,
        created_date=rows.ago(DAY),
        status="CRASHED",
        status_since=rows.ago(DAY),
        reason="exit_code",
    )
    at = moment(rows.ago(HOUR))
    assert (await get(http, "/status/servers/31", at=at))["reason"] == "superseded"
    assert (await get(http, "/status/servers/31"))["reason"] == "exit_code"


async def servers_of(rows: Rows) -> None:
    """Servers of worker 1: 31 ran from 3 days ago and ended a day ago, 32 runs since 2 days, 33
    came an hour ago."""
    await rows.worker(
        1, created_date=rows.ago(9 * DAY), status_since=rows.ago(9 * DAY), labels={"group": "eu"}
    )
    await rows.transition("worker", 1, at=rows.ago(9 * DAY))
    for instance_id, days in ((31, 3.0), (32, 2.0), (33, 1 / 24)):
        since = rows.ago(days * DAY)
        await rows.transition("game_server_instance", instance_id, at=since)
        ended = (
            {"status": "COMPLETE", "status_since": rows.ago(DAY)}
            if instance_id == 31
            else {"status_since": since}
        )
        await rows.server(
            instance_id, created_date=since, game_server_config_id=instance_id % 2, **ended
        )
    await rows.transition(
        "game_server_instance", 31, at=rows.ago(DAY), old_status="RUNNING", new_status="COMPLETE"
    )


async def test_past_worker_has_its_servers_and_transitions(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await servers_of(rows)
    worker = await get(http, "/status/workers/1", at=moment(rows.ago(1.5 * DAY)))
    assert [(server["instance_id"], server["status"]) for server in worker["server_instances"]] == [
        (32, "RUNNING"),
        (31, "RUNNING"),
    ]
    assert worker["active_servers"] == 2
    assert [transition["revision"] for transition in worker["transitions"]] == [1]
    later = await get(http, "/status/workers/1", at=moment(rows.ago(HOUR / 2)))
    assert [(s["instance_id"], s["is_active"]) for s in later["server_instances"]] == [
        (33, True),
        (32, True),
        (31, False),
    ]
    assert later["active_servers"] == 2
    assert (await get(http, "/status/servers/31", at=moment(rows.ago(1.5 * DAY))))[
        "end_date"
    ] is None


async def test_filters_apply_to_the_past_time(rows: Rows, http: httpx.AsyncClient) -> None:
    await servers_of(rows)
    at = moment(rows.ago(1.5 * DAY))

    async def found(**query: Any) -> list[int]:
        return [
            server["instance_id"]
            for server in (await get(http, "/status/servers", at=at, **query))["items"]
        ]

    assert await found() == [31, 32]
    assert await found(status="RUNNING") == [31, 32]
    assert await found(status="COMPLETE") == []
    assert await found(game_server_config_id=1) == [31]
    assert await found(worker_id=2) == []
    for group, number in (("eu", 1), ("us", 0)):
        assert len((await get(http, "/status/workers", at=at, group=group))["items"]) == number
    assert (await refused(http, "/status/workers", at=at, health="healthy"))[:2] == (400, "health")


async def test_a_cursor_is_for_one_past_time(rows: Rows, http: httpx.AsyncClient) -> None:
    await servers_of(rows)
    at = moment(rows.ago(1.5 * DAY))
    page = await get(http, "/status/servers", at=at, limit=1)
    rest = await get(http, "/status/servers", at=at, limit=1, cursor=page["next_cursor"])
    assert [
        page["items"][0]["instance_id"],
        rest["items"][0]["instance_id"],
        rest["next_cursor"],
    ] == [31, 32, None]
    for query in ({}, {"at": moment(rows.ago(DAY))}, {"at": at, "status": "RUNNING"}):
        assert (await refused(http, "/status/servers", cursor=page["next_cursor"], **query))[
            :2
        ] == (400, "cursor")


async def test_the_fleet_is_counted_as_it_was(
    one: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    await servers_of(rows)
    system = await get(http, "/status/system", at=moment(rows.ago(2.5 * DAY)))
    assert system["overall_status"] == "degraded"
    assert system["workers"] == {"total_active": 1, "unhealthy": 1, "terminated": 0}
    assert (system["servers"]["total_active"], system["servers"]["by_status"]["RUNNING"]) == (1, 1)
    assert (await get(http, "/status/system", at=moment(rows.ago(1.5 * DAY))))[
        "overall_status"
    ] == "healthy"
    assert (await get(http, "/status/system", at=moment(rows.ago(20 * DAY))))[
        "overall_status"
    ] == "empty"


async def test_a_time_in_a_gap_of_the_observation_says_so(
    one: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    """It blinds 30 s after it began."""
    await rows.connection.execute(
        "INSERT INTO observation_gaps VALUES ($1, $2)", rows.ago(3.5 * DAY), rows.ago(3.4 * DAY)
    )
    for days, blind in ((3.45, True), (3.5 - 20 / DAY, False), (3.39, False)):
        at = moment(rows.ago(days * DAY))
        system, worker = (
            await get(http, "/status/system", at=at),
            await get(http, "/status/workers/7", at=at),
        )
        assert (system["is_blind"], worker["is_blind"]) == (blind, blind)
        assert (system["overall_status"], worker["health"]) == (
            ("unknown", "unknown") if blind else ("healthy", None)
        )
    await rows.observe(lag=100)
    assert (await get(http, "/status/system", at=moment(rows.ago(50))))["is_blind"]
    assert not (await get(http, "/status/system", at=moment(rows.ago(80))))["is_blind"]


async def test_a_time_that_is_not_kept_or_to_come_is_refused(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    for path in ("workers", "workers/1", "servers", "servers/1", "system"):
        status, parameter, detail = await refused(
            http, f"/status/{path}", at=moment(rows.ago(31 * DAY))
        )
        assert (status, parameter) == (400, "at")
        oldest = datetime.fromisoformat(detail.rpartition(" ")[2].rstrip("."))
        assert timedelta(0) <= oldest - rows.ago(30 * DAY) < timedelta(minutes=1)
        assert (await refused(http, f"/status/{path}", at=moment(rows.ago(-60))))[:2] == (400, "at")


@pytest.mark.parametrize(
    "at",
    [
        "",
        "now",
        "yesterday",
        "2026-11-23",
        "2026-11-23T08:00:00",
        "1763884800",
        "0001-01-01T00:00:00+14:00",
    ],
)
async def test_what_is_no_time_is_refused(at: str, http: httpx.AsyncClient) -> None:
    assert (await refused(http, "/status/system", at=at))[:2] == (400, "at")
    for parameter in ("since", "until"):
        assert (await refused(http, "/status/workers/1/transitions", **{parameter: at}))[:2] == (
            400,
            parameter,
        )


async def test_an_answer_of_a_past_time_may_be_kept(
    one: None, rows: Rows, http: httpx.AsyncClient
) -> None:
    for path in ("workers", "workers/7", "system"):
        query = {"at": moment(rows.ago(DAY / 2))}
        first = await http.get(f"/status/{path}", params=query)
        assert (first.headers["cache-control"], first.headers["age"]) == (
            "private, max-age=3600",
            "0",
        )
        await rows.observe(lag=1)
        again = await http.get(
            f"/status/{path}", params=query, headers={"if-none-match": first.headers["etag"]}
        )
        assert again.status_code == 304
    latest = await http.get("/status/workers", params={"at": moment(rows.ago(1))})
    assert latest.headers["cache-control"] == "no-cache", "transactions of then may still commit"


@pytest.fixture
async def daily_partitions(rows: Rows) -> None:
    for days in range(1, 32):
        await _make_partition(rows.connection, (rows.now - timedelta(days=days)).date())


class Reported(NamedTuple):
    """A status of one entity: since when, in seconds before now; and which."""

    ago: float
    status: str


KEPT = 31 * DAY
"""Age beyond which the partition is gone."""
lives = st.lists(
    st.tuples(st.integers(1, 60 * 24), st.sampled_from([*StatusType])),
    min_size=1,
    max_size=5,
    unique_by=lambda c: c[0],
).map(
    lambda changes: [
        Reported(hours * HOUR, status) for hours, status in sorted(changes, reverse=True)
    ]
)


async def live(rows: Rows, entity: Entity, entity_id: int, life: list[Reported]) -> None:
    """Each status to the next, also to the same one: it is read, not judged."""
    old = None
    for reported in life:
        if reported.ago < KEPT:
            await rows.transition(
                entity,
                entity_id,
                at=rows.ago(reported.ago),
                old_status=old,
                new_status=reported.status,
            )
        old = reported.status
    times: dict[str, Any] = {
        "created_date": rows.ago(life[0].ago),
        "status_since": rows.ago(life[-1].ago),
    }
    await (rows.worker if entity is Entity.WORKER else rows.server)(
        entity_id, status=life[-1].status, **times
    )


def then(life: list[Reported], ago: float) -> tuple[str, float | None] | None:
    """Its status so long ago and since when, the model's way. The beginning of one is not known
    when its transition is gone and another has followed."""
    known = [reported for reported in life if reported.ago >= ago]
    if not known:
        return None
    is_last = known[-1] == life[-1]
    return known[-1].status, known[-1].ago if is_last or known[-1].ago < KEPT else None


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    workers=st.lists(lives, max_size=4),
    servers=st.lists(lives, max_size=4),
    times=st.lists(st.integers(1, 30 * 24 - 1), min_size=1, max_size=6),
    beside=st.sampled_from([0.0, 0.5]),
)
async def test_the_past_is_what_the_transitions_made_it(
    workers: list[list[Reported]],
    servers: list[list[Reported]],
    times: list[int],
    beside: float,
    daily_partitions: None,
    rows: Rows,
    http: httpx.AsyncClient,
) -> None:
    for table in ("transitions", "workers", "server_instances"):
        await rows.connection.execute(f"DELETE FROM {table}")
    for entity, fleet in ((Entity.WORKER, workers), (Entity.SERVER_INSTANCE, servers)):
        for entity_id, life in enumerate(fleet, start=1):
            await live(rows, entity, entity_id, life)
    for hours in times:
        ago = (hours + beside) * HOUR
        at = moment(rows.ago(ago))
        for path, key, fleet in (
            ("workers", "worker_id", workers),
            ("servers", "instance_id", servers),
        ):
            expected = {entity_id: then(life, ago) for entity_id, life in enumerate(fleet, start=1)}
            shown: dict[Any, Any] = {}
            cursor: dict[Any, Any] = {}
            while True:
                page = await get(http, f"/status/{path}", at=at, limit=2, **cursor)
                shown |= {
                    item[key]: (item["status"], item["status_since"]) for item in page["items"]
                }
                if page["next_cursor"] is None:
                    break
                cursor = {"cursor": page["next_cursor"]}
            assert shown == {
                entity_id: (status, None if since is None else since_at(rows, since))
                for entity_id, known in expected.items()
                if known is not None
                for status, since in [known]
            }
            for entity_id, known in expected.items():
                response = await http.get(f"/status/{path}/{entity_id}", params={"at": at})
                assert response.status_code == (200 if known else 404)
                assert not known or response.json()["status"] == known[0]
            if path == "servers":
                system = await get(http, "/status/system", at=at)
                statuses = Counter(known[0] for known in expected.values() if known)
                assert system["servers"]["by_status"] == {
                    status: statuses[status] for status in StatusType
                }


def since_at(rows: Rows, ago: float) -> str:
    return rows.ago(ago).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
