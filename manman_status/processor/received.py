"""One message as the AMQP library's own channel delivers it.

The layers above that channel, aio-pika's and FastStream's, make two more objects and one more task
of each message. In a queue of heartbeats that costs more than to decode and merge them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel, DeliveredMessage
    from pamqp.commands import Basic


class Received(msgspec.Struct):
    """`channel` is the one that delivered it: it counts the deliveries, and takes the acknowledgement."""

    body: bytes
    delivery_tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    properties: Basic.Properties
    channel: AbstractChannel
    is_acknowledged: bool = False

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.properties.headers or {}

    async def acknowledge(self, *, multiple: bool) -> None:
        """Acknowledge it, and with `multiple` all that the channel delivered before it.

        Returns when that is written. Raises ChannelInvalidStateError when the channel is closed.
        """
        await self.channel.basic_ack(self.delivery_tag, multiple=multiple)
        self.is_acknowledged = True


def received(message: DeliveredMessage) -> Received:
    delivery: Any = message.delivery  # Basic.Deliver: messages that are consumed have no other
    return Received(
        message.body,
        delivery.delivery_tag,
        delivery.redelivered,
        delivery.exchange,
        delivery.routing_key,
        message.header.properties,
        message.channel,
    )
