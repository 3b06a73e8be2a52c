"""A connection to the broker with our topology declared on it and its queues subscribed to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from aio_pika.exceptions import AMQPError, ChannelPreconditionFailed
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker
from faststream.rabbit.subscriber import RabbitSubscriber
from yarl import URL

from manman_status.backoff import Backoff
from manman_status.cancellation import cancel
from manman_status.errors import CommandFailed
from manman_status.pipeline.custody import Custody
from manman_status.processor.canaries import watch_own_queue
from manman_status.processor.declare import bind_queues, declare_exchanges, heartbeat_queue, lifecycle_queue, topic
from manman_status.processor.subscribers import channel_of, parse
from manman_status.wire.topology import Topology

log = structlog.get_logger()

BROKER_AWAY = (AMQPError, OSError, TimeoutError)
HEARTBEAT_SECONDS = 10
"""Of the AMQP connection: a processor that hangs is cut off after two or three, and what it holds is given again."""


def create_broker(url: str) -> RabbitBroker:
    return RabbitBroker(
        str(URL(url).update_query(name="manman-status processor", heartbeat=HEARTBEAT_SECONDS)),
        reconnect_interval=1.0,
        ack_policy=AckPolicy.MANUAL,
        app_id="manman-status",
        logger=None,
    )


async def open_broker(
    url: str, topology: Topology, processor_id: str, custody: Mapping[str, Custody], *, prefetch: Callable[[str], int]
) -> tuple[RabbitBroker, list[RabbitSubscriber]]:
    """Wait for the broker and declare our topology on it. The subscribers read nothing until they are iterated.

    `prefetch`: how many messages of a queue may be unacknowledged.
    """
    backoff = Backoff()
    while True:
        broker = create_broker(url)
        subscribers = []
        for queue in (heartbeat_queue(topology), lifecycle_queue(topology)):
            channel = Channel(prefetch_count=prefetch(queue.name))
            subscriber = broker.subscriber(
                queue, topic(topology.inbound_exchange), channel=channel, ack_policy=AckPolicy.MANUAL, parser=parse
            )
            subscribers.append(subscriber)
            watch_own_queue(broker, queue.name, processor_id, channel, custody[queue.name], channel_of)
        try:
            await broker.connect()
            await declare_exchanges(broker, topology)
            await broker.start()
            await bind_queues(broker, topology)
        except ChannelPreconditionFailed as error:
            await close_broker(broker)
            raise CommandFailed(
                f"a queue or exchange exists with other arguments: {error}. Delete it when it is empty, or name"
                " another in the settings"
            ) from None
        except BROKER_AWAY as error:
            await close_broker(broker)
            delay = backoff.failed()
            if backoff.is_worth_saying:
                log.warning("broker_away", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(delay)
        else:
            return broker, subscribers


async def close_broker(broker: RabbitBroker) -> None:
    """Within a second, or without the broker's word for it."""
    closing = asyncio.ensure_future(broker.stop())
    await asyncio.wait([closing], timeout=1)
    await cancel(closing)
    if not closing.cancelled() and (error := closing.exception()):
        log.debug("broker_close_failed", error=repr(error))
