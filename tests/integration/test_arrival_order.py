"""StatusInfo keeps its order: each status of an entity is stored and published again, in the order
in which it came, and so dated that a strict consumer takes every one."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import pytest

from tests.kinds import Eventually, FetchRows, StartRole

LIVES = 60
LIFE = ("CREATED", "INITIALIZING", "RUNNING", "COMPLETE")
ENTITIES = [
    (kind, 100 + number)
    for number in range(LIVES // 2)
    for kind in ("worker", "game_server_instance")
]
EVERY_LIFE = {f"{kind}.{identifier}.status": list(LIFE) for kind, identifier in ENTITIES}

PROCESSORS = [1, 2, 3]
FRESH = timedelta(minutes=5)

DATES = {
    "rising": (0, 1, 2, 3),
    "equal": (0, 0, 0, 0),
    "going back": (3, 2, 1, 0),
    "mixed by threads": (1, 0, 3, 2),
    "far ahead": (3_600_000, 3_600_000, 3_600_001, 3_600_000),
}
"""ms by which each status of a life is dated after the first one, as clocks and threads of a client
may do it."""


def life(kind: Any, identifier: Any, offsets: Any = DATES["rising"]) -> list[Any]:
    """The messages of one life, with the key that each has."""
    begun_at = datetime.now(UTC)
    return [
        (
            f"{kind}.{identifier}.status",
            {
                "entity_type": kind,
                "identifier": str(identifier),
                "as_of": (begun_at + timedelta(milliseconds=offset)).isoformat(),
                "status_type": status,
            },
        )
        for status, offset in zip(LIFE, offsets, strict=True)
    ]


class PlainClient:
    """Publishes as ManMan's workers do: one message after another on one channel. Its consumer of
    the changes is as strict as ManMan's: of each entity it takes CREATED first, then only what is
    dated after what it has, and nothing older than `FRESH`. `arrived` is what it took, in its
    order: `(routing key, status)`."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._newest: dict[Any, datetime] = {}
        self.arrived: list[Any] = []

    async def listen(self) -> None:
        exchange = await self._channel.declare_exchange(
            "external_service_events", "topic", durable=True
        )
        queue = await self._channel.declare_queue("outside", durable=True)
        for key in ("worker.*.status", "game_server_instance.*.status"):
            await queue.bind(exchange, key)
        await queue.consume(self._take, no_ack=True)

    async def _take(self, message: Any) -> None:
        change, key = json.loads(message.body), message.routing_key
        status, as_of = change["status_type"], datetime.fromisoformat(change["as_of"])
        newest = self._newest.get(key)
        is_news = status == "CREATED" if newest is None else as_of > newest
        if is_news and datetime.now(UTC) - as_of <= FRESH:
            self._newest[key] = as_of
            self.arrived.append((key, status))

    async def send(self, messages: Any) -> None:
        exchange = await self._channel.get_exchange("internal_service_events", ensure=False)
        for key, body in messages:
            message = aio_pika.Message(
                json.dumps(body).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT
            )
            await exchange.publish(message, routing_key=key)

    @property
    def by_entity(self) -> Any:
        of_each = defaultdict(list)
        for key, status in self.arrived:
            of_each[key].append(status)
        return dict(of_each)


@pytest.fixture
async def client(broker: str) -> AsyncIterator[Any]:
    async with await aio_pika.connect(broker) as connection:
        client = PlainClient(await connection.channel(publisher_confirms=False))
        await client.listen()
        yield client


async def stored(rows: FetchRows) -> Any:
    """The statuses of each entity in the order of their revisions, by the key that they are
    published with."""
    of_each = defaultdict(list)
    for row in await rows(
        "SELECT entity, entity_id, new_status FROM transitions ORDER BY revision"
    ):
        of_each[f"{row['entity']}.{row['entity_id']}.status"].append(row["new_status"])
    return dict(of_each)


@pytest.mark.parametrize("dates", DATES)
@pytest.mark.parametrize("processors", PROCESSORS)
async def test_every_status_is_published_again_in_order(
    processors: Any,
    dates: Any,
    start_processor: StartRole,
    client: Any,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    """Also when its date is not after that of the status before it; and once more sent, it changes
    nothing."""
    for _ in range(processors):
        await start_processor()
    lives = [life(*entity, DATES[dates]) for entity in ENTITIES]
    for messages in lives:
        await client.send(messages)
    await eventually(lambda: len(client.arrived) >= LIVES * len(LIFE))
    assert client.by_entity == EVERY_LIFE
    await client.send([*itertools.chain(*lives), *life("worker", 1)])
    await eventually(lambda: client.by_entity.get("worker.1.status") == list(LIFE))
    assert await stored(rows) == client.by_entity == EVERY_LIFE | {"worker.1.status": list(LIFE)}


@pytest.mark.parametrize("processors", PROCESSORS)
async def test_no_status_is_swallowed_when_processors_are_killed(
    processors: Any,
    start_processor: StartRole,
    client: Any,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    """Kill each once, in the middle of its work, and start another in its place."""
    running = [await start_processor() for _ in range(processors)]
    for number, role in enumerate(running):
        entities = ENTITIES[number::processors]
        middle = len(entities) // 2
        before = len(client.arrived)
        await client.send(itertools.chain(*(life(*entity) for entity in entities[:middle])))
        await eventually(lambda: len(client.arrived) > before)
        role.kill()
        await client.send(itertools.chain(*(life(*entity) for entity in entities[middle:])))
        await start_processor()
    await eventually(lambda: len(client.arrived) >= LIVES * len(LIFE))
    assert client.by_entity == EVERY_LIFE
    assert await stored(rows) == EVERY_LIFE
