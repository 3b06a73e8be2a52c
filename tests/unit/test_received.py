"""A processor reads the bytes and frames that RabbitMQ sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from aiormq.abc import AbstractChannel
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from manman_status.processor.broker.received import TAG, Deliveries
from manman_status.processor.flow import Flow
from manman_status.wire.properties import Deliver


class Channel:
    """Has the one attribute of aiormq's channel that is replaced."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Any] = asyncio.Queue()


def delivery(tag: Any, body: Any, *, consumer: Any = TAG, piece: int = 4) -> Iterator[Any]:
    """The frames of one message."""
    yield Basic.Deliver(
        consumer, tag, redelivered=tag % 2 == 0, exchange="x", routing_key=f"worker.{tag}.heartbeat"
    )
    yield ContentHeader(body_size=len(body), properties=Basic.Properties(headers={"n": tag}))
    for start in range(0, len(body), piece):
        yield ContentBody(body[start : start + piece])


words = st.text(max_size=30).map(str.encode)


@given(
    tag=st.integers(1, 2**63 - 1), redelivered=st.booleans(), texts=st.tuples(words, words, words)
)
def test_a_delivery_is_read_as_pamqp_reads_it(tag: Any, redelivered: Any, texts: Any) -> None:
    consumer, exchange, key = (bytes([len(text)]) + text for text in texts)
    frame = consumer + tag.to_bytes(8) + bytes([redelivered]) + exchange + key
    ours, theirs = Deliver(), Basic.Deliver()
    for each in (ours, theirs):
        each.unmarshal(frame)
    for name in ("consumer_tag", "delivery_tag", "redelivered", "exchange", "routing_key"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.delivery_tag, ours.routing_key) == (tag, texts[2].decode())


async def put_all(frames: Any) -> tuple[Any, Any]:
    channel = Channel()
    taken: list[Any] = []
    deliveries = Deliveries(cast("AbstractChannel", channel), taken.append)
    for frame in frames:
        await deliveries.put((0, frame))
    return taken, [channel.frames.get_nowait()[1] for _ in range(channel.frames.qsize())]


async def test_messages_are_put_together_in_their_order() -> None:
    bodies = [b"", b"one", b"of several frames"]
    frames = [frame for tag, body in enumerate(bodies, start=1) for frame in delivery(tag, body)]
    taken, passed_on = await put_all(frames)
    assert [(each.delivery_tag, each.body) for each in taken] == list(enumerate(bodies, start=1))
    assert [each.redelivered for each in taken] == [False, True, False]
    assert taken[1].routing_key == "worker.2.heartbeat"
    assert taken[1].headers == {"n": 2}
    assert passed_on == []


async def test_all_else_goes_on_to_the_channel() -> None:
    others = [
        Basic.QosOk(),
        *delivery(1, b"of another consumer", consumer="own"),
        Basic.CancelOk(consumer_tag=TAG),
    ]
    taken, passed_on = await put_all([*others, *delivery(2, b"mine")])
    assert [each.body for each in taken] == [b"mine"]
    assert passed_on == others


async def test_a_frame_within_a_delivery_ends_the_connection() -> None:
    first, *_ = delivery(1, b"body")
    with pytest.raises(ValueError, match="within a delivery"):
        await put_all([first, Basic.QosOk()])


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=20),
    sizes=st.lists(st.integers(1, 400), max_size=40),
)
async def test_the_stream_is_read_as_it_was_sent(pieces: Any, sizes: Any) -> None:
    """It may come, and be read, in pieces of any size."""
    stream = asyncio.StreamReader()
    reader = Flow().reader(stream)
    for piece in pieces:
        stream.feed_data(piece)
    stream.feed_eof()
    sent = b"".join(pieces)
    for size in sizes:
        if size > len(sent):
            with pytest.raises(asyncio.IncompleteReadError):
                await reader.readexactly(size)
            break
        assert await reader.readexactly(size) == sent[:size]
        sent = sent[size:]
    assert reader.at_eof() == (not sent)


async def test_nothing_is_read_without_room() -> None:
    stream, flow = asyncio.StreamReader(), Flow(most_bytes=10)
    reader = flow.reader(stream)
    stream.feed_data(b"abc")
    assert await reader.readexactly(1) == b"a"
    flow.take(11)
    reading = asyncio.ensure_future(reader.readexactly(1))
    await asyncio.sleep(0)
    assert not reading.done()
    flow.settle(11)
    assert await reading == b"b"
