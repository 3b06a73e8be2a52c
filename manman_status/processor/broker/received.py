"""Messages, taken from the frames of an AMQP channel.

The layers above the frames cost more than decoding and merging a heartbeat: aiormq makes a task of
each delivery, aio-pika a message and another task, and FastStream one more message. So the
deliveries of the shared queue are taken where aiormq's connection hands a channel its frames. All
other frames go on to the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel


class Received(msgspec.Struct):
    """A message that was read. `channel` delivered it: it numbers deliveries and takes
    acknowledgements."""

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

        Return when that is written. Raises ChannelInvalidStateError when the channel is closed.
        """
        await self.channel.basic_ack(self.delivery_tag, multiple=multiple)
        self.is_acknowledged = True


async def consume(channel: AbstractChannel, queue: str, take: Callable[[Received], None]) -> None:
    """Call `take` with each message of the queue, in their order, until the channel is closed."""
    channel.frames = deliveries = Deliveries(channel, take)  # type: ignore[assignment]
    await channel.basic_consume(queue, deliveries.refuse, consumer_tag=TAG)


TAG = "shared"
"""The tag of the consumer. A tag is known on its channel alone."""


class Deliveries:
    """A stand-in for `frames` of a channel, the queue from which it takes its frames.

    A delivery is a method frame, a header with the size of the body, and as many frames of the body
    as that takes. No other frame of the channel may come between them.
    """

    def __init__(self, channel: AbstractChannel, take: Callable[[Received], None]) -> None:
        self._channel = channel
        self._frames = channel.frames
        self._take = take
        self._delivery: Any = None  # Basic.Deliver, whose fields may be None for those who make one
        self._header: ContentHeader | None = None
        self._body = b""

    async def put(self, frame_with_weight: tuple[int, object]) -> None:
        frame = frame_with_weight[1]
        if self._delivery is None:
            if isinstance(frame, Basic.Deliver) and frame.consumer_tag == TAG:
                self._delivery = frame
            else:
                await self._frames.put(frame_with_weight)
            return
        if isinstance(frame, ContentBody) and self._header is not None:
            self._body = self._body + frame.value if self._body else frame.value
        elif isinstance(frame, ContentHeader):
            self._header = frame
        else:
            raise ValueError(f"{frame!r} within a delivery")  # ends the connection
        if len(self._body) >= self._header.body_size:
            delivery, header, body = self._delivery, self._header, self._body
            self._delivery, self._header, self._body = None, None, b""
            self._take(
                Received(
                    body,
                    delivery.delivery_tag,
                    delivery.redelivered,
                    delivery.exchange,
                    delivery.routing_key,
                    header.properties,
                    self._channel,
                )
            )

    @staticmethod
    async def refuse(message: object) -> None:
        raise AssertionError(f"{message!r} was not taken from the frames")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._frames, name)
