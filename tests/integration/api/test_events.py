"""The event stream: every transition once and in order, to each who watches, whoever is slow."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from manman_status.api.database import Database, Outage
from manman_status.api.feed import KEPT, POLL_SECONDS, ChangeFilters, Feed
from manman_status.api.responses import Change
from manman_status.api.streams import EventStream
from manman_status.domain.status import StatusType
from manman_status.errors import DatabaseUnavailable
from manman_status.store.feed import Position
from manman_status.store.pool import create_pool
from tests.events import Event, Parser, Reader, revision_of

if TYPE_CHECKING:
    from litestar.types import Message

    from tests.integration.api.conftest import Rows
    from tests.kinds import Eventually, StartRole

    StartApi = StartRole


class CountingDatabase(Database):
    readings = 0
    failures = 0
    """Number of readings of the history that fail."""

    async def read(self, query: Any, *, key: Any) -> Any:
        self.readings += 1
        if self.failures and key != ("changes", 2_500):
            self.failures -= 1
            raise DatabaseUnavailable(cause="TimeoutError")
        return await super().read(query, key=key)


class Client:
    """One end of a stream: takes what it is sent while `takes` is set, until it leaves."""

    def __init__(self, stream: EventStream) -> None:
        self.parser = Parser()
        self.events: list[Event] = []
        self.is_open = self.has_end = False
        self.takes = asyncio.Event()
        self.takes.set()
        self.leaves = asyncio.Event()
        self.running = asyncio.ensure_future(stream({}, self._receive, self._send))  # type: ignore[arg-type]

    async def _receive(self) -> Any:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.takes.wait()
        if message["type"] == "http.response.body":
            self.is_open = True
            self.has_end = not message["more_body"]
            self.events += self.parser.feed(message["body"].decode())

    @property
    def revisions(self) -> list[int]:
        return [event.revision for event in self.events if event.kind == "transition"]


@pytest.fixture
async def counting(database: str) -> AsyncIterator[CountingDatabase]:
    async with create_pool(
        database, application="test", size=3, timeout_seconds=5, read_only=True
    ) as pool:
        yield CountingDatabase(pool, Outage(), timeout_seconds=5)


@asynccontextmanager
async def feeding(database: Database, **options: Any) -> AsyncIterator[Feed]:
    feed = Feed(database, **({"most_watchers": 1000} | options))
    yield feed
    await feed.close()


def stream(
    feed: Feed, after: int | None = None, *, epoch: str | None = None, **options: Any
) -> EventStream:
    filters = ChangeFilters(**options.pop("filters", {}))
    return EventStream(
        feed, filters, after=None if after is None else Position(epoch, after), **options
    )


async def take(reader: Reader, http: httpx.AsyncClient, count: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(20), aclosing(reader.read(http)) as reading:
        async for event in reading:  # pragma: no branch
            events.append(event)
            if len(events) == count:
                break
    return events


@pytest.fixture
async def http(start_api: StartApi) -> AsyncIterator[httpx.AsyncClient]:
    """A real server: the one in this process gives no answer before its end."""
    api = await start_api()
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as client:
        yield client


async def test_an_event_is_the_transition_with_its_worker_and_group(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1, labels={"group": "eu", "zone": "a"})
    await rows.worker(2)
    await rows.server(31, worker_id=1)
    await rows.transition("worker", 1, evidence={"line": "one\ntwo", "sign": "é"})
    await rows.transition(
        "game_server_instance", 31, old_status="RUNNING", new_status="CRASHED", reason="exit_code"
    )
    await rows.transition("worker", 2)
    await rows.transition("game_server_instance", 99)
    events = await take(Reader(**{"from": 0}), http, 4)
    assert [(event.revision, event.kind) for event in events] == [
        (n, "transition") for n in (1, 2, 3, 4)
    ]
    changes = [msgspec.convert(event.data, Change, strict=True) for event in events]
    assert [(change.worker_id, change.group) for change in changes] == [
        (1, "eu"),
        (1, "eu"),
        (2, None),
        (None, None),
    ]
    assert changes[0].evidence == {"line": "one\ntwo", "sign": "é"}
    assert (changes[1].old_status, changes[1].new_status, changes[1].at) == (
        "RUNNING",
        "CRASHED",
        rows.now,
    )
    detail = (await http.get("/status/workers/1")).json()["transitions"][0]
    assert events[0].data == detail | {"worker_id": 1, "group": "eu"}


async def test_stream_forbids_buffering_and_head_ends_at_once(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    async with http.stream("GET", "/status/events") as response:
        headers = response.headers
    assert headers["content-type"] == "text/event-stream"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert headers["x-request-id"]
    assert (await http.head("/status/events")).headers["content-type"] == "text/event-stream"


async def test_history_joins_the_present_without_gap_and_double(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.transitions(2_500)

    async def go_on() -> None:
        for number in range(1, 201):
            await rows.transition("worker", number)

    going_on = asyncio.create_task(go_on())
    for begin in (0, 700):
        events = await take(Reader(**{"from": begin}), http, 2_700 - begin)
        assert [event.revision for event in events] == list(range(begin + 1, 2_701))
    await going_on


async def test_last_event_id_comes_before_from(rows: Rows, http: httpx.AsyncClient) -> None:
    await rows.transitions(5)
    reader = Reader(**{"from": 1})
    reader.parser.last_id = "3"
    assert [event.revision for event in await take(reader, http, 2)] == [4, 5]


async def test_stream_without_a_revision_begins_now(rows: Rows, http: httpx.AsyncClient) -> None:
    await rows.transitions(5)
    for parameters in ({}, {"from": "now"}):
        async with http.stream("GET", "/status/events", params=parameters) as response:
            parser, texts = Parser(), response.aiter_text()
            assert parser.feed(await anext(texts)) == []
            assert revision_of(parser.last_id) == rows.revision, (
                "it could be resumed before the first event"
            )
            await rows.transition("worker", 1)
            [event] = parser.feed(await anext(texts))
            assert event.revision == rows.revision


@pytest.mark.parametrize(
    ("parameters", "last_id", "parameter"),
    [
        ({"from": -1}, None, "from"),
        ({"from": "later"}, None, "from"),
        ({"from": "9" * 30}, None, "from"),
        ({"from": [1, 2]}, None, "from"),
        ({"from_": 1}, None, "from_"),
        ({"last_event_id": 1}, None, "last_event_id"),
        ({}, "x", "Last-Event-ID"),
        ({}, "-4", "Last-Event-ID"),
        ({}, "A-4", "Last-Event-ID"),
        ({"worker_id": "x"}, None, "worker_id"),
        ({"entity": "group"}, None, "entity"),
        ({"new_status": ["LOST", "GONE"]}, None, "new_status"),
        ({"wait": 1}, None, "wait"),
    ],
)
async def test_invalid_parameter_is_400_and_named(
    parameters: dict[str, Any], last_id: str | None, parameter: str, rows: Rows, run_app: Any
) -> None:
    await rows.transitions(3)
    async with run_app() as http:
        headers = {"last-event-id": last_id} if last_id else {}
        response = await http.get("/status/events", params=parameters, headers=headers)
        assert (response.status_code, response.json()["parameter"]) == (400, parameter)
        assert response.headers["content-type"] == "application/problem+json"


async def test_what_retention_dropped_is_410_and_the_oldest_is_named(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.transitions(10)
    # As when a day ended between two transactions that committed in the other order.
    await rows.connection.execute("DELETE FROM transitions WHERE revision < 4 OR revision = 5")
    for begin, oldest in ((0, 4), (2, 4), (4, 6)):
        response = await http.get("/status/events", params={"from": begin})
        assert (response.status_code, response.json()["oldest_revision"]) == (410, oldest)
        assert response.headers["content-type"] == "application/problem+json"
    reader = Reader(**{"from": 3})
    assert [event.revision async for event in reader.read(http)] == [4], "it ends before the gap"
    with pytest.raises(httpx.HTTPStatusError, match="410"):
        await take(reader, http, 1)
    assert [event.revision for event in await take(Reader(**{"from": 5}), http, 5)] == [
        6,
        7,
        8,
        9,
        10,
    ]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"worker_id": 1}, {1, 3, 5}),
        ({"worker_id": [1, 2]}, {1, 2, 3, 4, 5}),
        ({"group": "eu"}, {1, 3, 5}),
        ({"group": ["eu", "us"]}, {1, 2, 3, 4, 5}),
        ({"entity": "game_server_instance"}, {3, 4, 6}),
        ({"new_status": ["LOST", "CRASHED"]}, {4, 5}),
        ({"group": "eu", "new_status": "LOST"}, {5}),
        ({"worker_id": 1, "entity": "worker", "new_status": "RUNNING"}, {1}),
    ],
)
async def test_filters_hold_for_history_and_for_what_happens_now(
    filters: dict[str, Any], expected: set[int], rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1, labels={"group": "eu"})
    await rows.worker(2, labels={"group": "us"})
    await rows.worker(3)
    await rows.server(11, worker_id=1)
    await rows.server(12, worker_id=2)
    sent = [
        ("worker", 1, "RUNNING"),
        ("worker", 2, "RUNNING"),
        ("game_server_instance", 11, "RUNNING"),
        ("game_server_instance", 12, "CRASHED"),
        ("worker", 1, "LOST"),
        ("game_server_instance", 99, "RUNNING"),
        ("worker", 3, "RUNNING"),
    ]
    live, history = Reader(**filters), Reader(**{"from": 0}, **filters)
    sent_live = asyncio.create_task(take(live, http, len(expected)))
    await live.began.wait()
    for entity, entity_id, status in sent:
        await rows.transition(entity, entity_id, new_status=status)
    assert {event.revision for event in await take(history, http, len(expected))} == expected
    assert {event.revision for event in await sent_live} == expected


async def test_quiet_stream_comments_and_moves_its_resume_position(
    rows: Rows, counting: CountingDatabase, eventually: Eventually
) -> None:
    filters = {"new_statuses": frozenset({StatusType.LOST})}
    async with feeding(counting) as feed:
        client = Client(stream(feed, filters=filters, comment_seconds=0.1))
        await eventually(lambda: client.parser.comments > 1)
        assert revision_of(client.parser.last_id) == 0
        await rows.transitions(50)
        await eventually(lambda: revision_of(client.parser.last_id) == 50)
        assert client.events == []
        await rows.transition("worker", 1, new_status="LOST")
        await eventually(lambda: client.revisions == [51])
        client.leaves.set()
        await client.running


async def test_an_empty_group_is_that_of_the_workers_without_one(
    rows: Rows, counting: CountingDatabase, eventually: Eventually
) -> None:
    await rows.worker(1, labels={"group": "a"})
    await rows.worker(2)
    await rows.server(31, worker_id=2)
    for entity, of in (
        ("worker", 1),
        ("worker", 2),
        ("game_server_instance", 31),
        ("game_server_instance", 99),
    ):
        await rows.transition(entity, of)
    async with feeding(counting) as feed:
        client = Client(stream(feed, 0, filters={"groups": frozenset({""})}, comment_seconds=0.1))
        await eventually(lambda: revision_of(client.parser.last_id) == 4)
        assert client.revisions == [2, 3]


async def test_one_reading_that_fails_does_not_hold_up_who_resumes(
    rows: Rows, counting: CountingDatabase, eventually: Eventually
) -> None:
    """Nothing happens any more that would wake it, and its next comment is far off."""
    await rows.transitions(2_500)
    async with feeding(counting) as feed:
        client = Client(stream(feed, 0, comment_seconds=3600))
        client.takes.clear()
        await eventually(lambda: counting.readings >= 2)
        counting.failures = 1
        client.takes.set()
        await eventually(lambda: client.revisions == list(range(1, 2_501)))
        assert counting.failures == 0


async def test_slow_reader_learns_where_to_resume(
    rows: Rows, counting: CountingDatabase, eventually: Eventually
) -> None:
    async with feeding(counting) as feed:
        slow, fast = Client(stream(feed)), Client(stream(feed))
        await eventually(lambda: slow.is_open and fast.is_open)
        slow.takes.clear()
        piece, total = KEPT // 2, 3 * (KEPT // 2)
        for last in range(piece, total + 1, piece):
            await rows.transitions(piece)
            await eventually(lambda: fast.revisions == list(range(1, last + 1)))
        slow.takes.set()
        await eventually(lambda: slow.has_end)
        overrun = slow.events[-1]
        assert overrun.kind == "overrun"
        assert overrun.data == {"from": overrun.id}
        assert slow.parser.last_id == overrun.id
        assert overrun.revision < total - KEPT
        assert slow.running.done()
        again = Client(stream(feed, overrun.revision, epoch=overrun.id.partition("-")[0]))
        await eventually(lambda: slow.revisions + again.revisions == list(range(1, total + 1)))
        assert not fast.has_end


async def test_reader_that_takes_nothing_for_long_is_dropped(
    rows: Rows, counting: CountingDatabase, eventually: Eventually
) -> None:
    async with feeding(counting, most_watchers=1) as feed:
        client = Client(stream(feed, stalled_seconds=0.2))
        await eventually(lambda: client.is_open)
        client.takes.clear()
        await rows.transition("worker", 1)
        await client.running
        other = Client(stream(feed))
        await eventually(lambda: other.is_open)


async def test_a_thousand_who_watch_cost_the_database_what_one_costs(
    rows: Rows, counting: CountingDatabase, eventually: Eventually
) -> None:
    async with feeding(counting) as feed:
        for more in (1, 999):
            clients = [Client(stream(feed)) for _ in range(more)]
            await eventually(lambda: all(client.is_open for client in clients))
            before, begun = counting.readings, time.monotonic()
            await rows.transitions(100)
            await eventually(lambda: all(len(client.revisions) == 100 for client in clients))
            assert counting.readings - before <= (time.monotonic() - begun) / POLL_SECONDS + 2


async def test_database_is_not_read_while_nobody_watches(
    rows: Rows, counting: CountingDatabase, eventually: Eventually
) -> None:
    async with feeding(counting) as feed:
        for begun in (0, 5):
            client = Client(stream(feed))
            await eventually(lambda: client.is_open)
            await rows.transitions(5)
            await eventually(lambda: client.revisions == list(range(begun + 1, begun + 6)))
            client.leaves.set()
            await client.running
            await asyncio.sleep(2 * POLL_SECONDS)
            before = counting.readings
            await asyncio.sleep(5 * POLL_SECONDS)
            assert counting.readings == before
        await rows.transitions(5)
        client = Client(stream(feed, 10))
        await eventually(lambda: client.revisions == list(range(11, 16)))


async def test_streams_are_bounded_and_free_their_place(
    rows: Rows, start_api: StartApi, eventually: Eventually
) -> None:
    """A stream that ends makes room for the next."""
    api = await start_api(event_streams=2)
    async with httpx.AsyncClient(base_url=api.url, timeout=20) as http:
        async with http.stream("GET", "/status/events"), http.stream("GET", "/status/events"):
            for path in ("/status/events", "/status/changes"):
                response = await http.get(path)
                assert response.status_code == 503
                assert int(response.headers["retry-after"]) > 0
                assert response.headers["content-type"] == "application/problem+json"
            assert (await http.get("/status/workers")).status_code == 200

        async def has_room() -> bool:
            async with http.stream("GET", "/status/events") as response:
                return response.status_code == 200

        await eventually(has_room)


async def test_setting_limits_connections_not_the_shell(
    start_api: StartApi,
) -> None:
    """A low `ulimit -n` of the shell is raised at the start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        api = await start_api()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(api.pid, resource.RLIMIT_NOFILE) == (hard, hard)


async def test_a_token_is_wanted_where_there_are_tokens(rows: Rows, start_api: StartApi) -> None:
    api = await start_api(api_tokens="a-token")
    async with httpx.AsyncClient(base_url=api.url) as http:
        assert (await http.get("/status/events")).status_code == 401
        assert (await http.get("/status/changes")).status_code == 401
        async with http.stream(
            "GET", "/status/events", headers={"authorization": "Bearer a-token"}
        ) as response:
            assert response.status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_ends_open_streams_at_once_and_in_order(
    workers: int, rows: Rows, start_api: StartApi
) -> None:
    api = await start_api(workers=workers)
    ended: list[str] = []

    async def watch() -> None:
        async with http.stream("GET", "/status/events") as response:
            async for text in response.aiter_text():
                begun.release()
                ended.append(text)

    begun = asyncio.Semaphore(0)
    async with httpx.AsyncClient(
        base_url=api.url, limits=httpx.Limits(max_connections=None), timeout=20
    ) as http:
        watching = [asyncio.create_task(watch()) for _ in range(20)]
        for _ in watching:
            await begun.acquire()
        # Before its server would lose patience, and cut all of them off, after 10 s.
        stopping = asyncio.create_task(asyncio.to_thread(api.stop, within_seconds=9))
        await asyncio.gather(*watching)
        assert await stopping == 0


async def test_sigterm_answers_who_waits_for_changes(
    rows: Rows, start_api: StartApi, eventually: Eventually
) -> None:
    api = await start_api()
    async with httpx.AsyncClient(base_url=api.url, timeout=120) as http:
        polling = asyncio.create_task(http.get("/status/changes?wait=60"))

        async def waits() -> bool:
            lines = (await http.get("/metrics")).text.splitlines()
            return any(
                "requests_in_progress" in line and "changes" in line and line.endswith(" 1.0")
                for line in lines
            )

        await eventually(waits)
        stopping = asyncio.create_task(asyncio.to_thread(api.stop, within_seconds=9))
        assert (await polling).json()["items"] == []
        assert await stopping == 0


async def test_a_connection_that_is_cut_is_noticed(
    rows: Rows, start_api: StartApi, eventually: Eventually
) -> None:
    api = await start_api(event_streams=1)
    parts = urlsplit(api.url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"GET /status/events HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")

    async def has_room() -> bool:
        async with (
            httpx.AsyncClient(base_url=api.url) as http,
            http.stream("GET", "/status/events") as response,
        ):
            return response.status_code == 200

    await eventually(has_room)


async def test_the_database_unavailable_is_503_before_a_stream_begins(run_app: Any) -> None:
    async with run_app(database_url="postgresql://nobody@127.0.0.1:1/nowhere") as http:
        for path in ("/status/events", "/status/changes?wait=60"):
            response = await http.get(path)
            assert response.status_code == 503
            assert json.loads(response.content)["title"] == "Service Unavailable"
