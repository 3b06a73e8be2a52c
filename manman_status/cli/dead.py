"""The dead-letter queue by command: look at letters without taking them, and send again those that
can be understood now."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import aio_pika
import msgspec
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity
from cyclopts import App, Parameter, validators

from manman_status.cancellation import within
from manman_status.cli.broker import connected
from manman_status.cli.flags import RabbitmqUrl
from manman_status.errors import CommandFailed, SettingsError
from manman_status.reporter.alarms import alarm_of, held_back
from manman_status.reporter.carrier import CLOSE_WITHIN_SECONDS
from manman_status.reporter.connection import ANSWER_WITHIN_SECONDS, CONFIRM_WITHIN_SECONDS
from manman_status.settings import Settings, load_settings
from manman_status.wire.reasons import printable

if TYPE_CHECKING:
    from aio_pika import Connection
    from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

app = App(name="dead")

MOST = 10_000
"""Most letters that one command looks at, the oldest first. It holds all of them back meanwhile: a
quorum queue puts returned messages behind those that were never taken, so only looking at
everything leaves the order as it was."""

NO_MORE_AFTER_SECONDS = 2.0

GIVEN_BY_DEATH = frozenset(
    {
        "x-manman-error",
        "x-manman-queue",
        "x-manman-exchange",
        "x-manman-routing-key",
        "x-manman-repeats",
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-delivery-count",
    }
)
"""Headers that the processor or the broker gave to a dead letter: it is sent again without them."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead letter. Its texts came from outside: print them through `printable`."""

    id: str
    at: datetime | None
    error: str
    queue: str
    exchange: str | None
    routing_key: str
    bytes: int


@app.command(name="list")
def list_letters(
    *,
    limit: Annotated[
        int, Parameter(validator=validators.Number(gte=1), help="How many to show.")
    ] = 100,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="As a JSON array.")
    ] = False,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """List dead letters, oldest first; they stay where they are."""
    letters = asyncio.run(all_letters(settings_with(rabbitmq_url)))
    shown = letters[:limit]
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    else:
        print_table(shown)
        print(
            f"{len(shown)} of {len(letters)}"
            if len(letters) < MOST
            else f"{len(shown)} of {MOST} or more"
        )


@app.command
def show(
    letter_id: Annotated[str, Parameter(name="ID")], /, *, rabbitmq_url: RabbitmqUrl = None
) -> None:
    """Show one dead letter with its body."""
    letter, body = asyncio.run(one_letter(settings_with(rabbitmq_url), letter_id))
    for name, value in msgspec.structs.asdict(letter).items():
        print(f"{name}: {printable(str(value))}")
    print()
    print(printable(body.decode("utf-8", "backslashreplace"), lines=True))


@app.command
def replay(
    letter_id: Annotated[str | None, Parameter(name="ID", help="The one to send.")] = None,
    /,
    *,
    everything: Annotated[
        bool, Parameter(name="--all", negative="", help="Send all of them.")
    ] = False,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Send dead letters again, by the exchange and routing key they came by.

    A letter leaves the dead-letter queue once another queue has taken it, not before.
    """
    if everything == (letter_id is not None):
        raise SettingsError(["dead replay wants one ID, or --all"])
    sent, refused = asyncio.run(
        send_again(settings_with(rabbitmq_url), None if everything else letter_id)
    )
    if refused:
        raise CommandFailed(f"{sent} sent, {len(refused)} stay, the first because {refused[0]}")
    print(f"{sent} sent")


def settings_with(rabbitmq_url: str | None) -> Settings:
    return load_settings(needs=("rabbitmq_url",), rabbitmq_url=rabbitmq_url)


async def all_letters(settings: Settings) -> list[DeadLetter]:
    async with (
        connected(settings) as connection,
        held(connection, settings.dead_letter_queue) as messages,
    ):
        return [letter_of(message) for message in messages]


async def one_letter(settings: Settings, letter_id: str) -> tuple[DeadLetter, bytes]:
    async with (
        connected(settings) as connection,
        held(connection, settings.dead_letter_queue) as messages,
    ):
        for message in messages:
            letter = letter_of(message)
            if letter.id == letter_id:
                return letter, message.body
    raise CommandFailed(f"no dead letter has the ID {letter_id}")


async def send_again(settings: Settings, letter_id: str | None) -> tuple[int, list[str]]:
    """Send the first letter with that ID, or all. Returns how many were sent, and why each of the
    others was not."""
    sent = 0
    refused: list[str] = []
    async with (
        connected(settings) as connection,
        held(connection, settings.dead_letter_queue) as messages,
    ):
        for message in messages:
            letter = letter_of(message)
            if letter_id not in {None, letter.id}:
                continue
            try:
                await publish_again(connection, message)
            except (CommandFailed, AMQPError, TimeoutError) as error:
                if alarm := await alarm_of(connection):
                    raise held_back(alarm) from error
                refused.append(printable(f"{letter.id}: {error}"))
            else:
                await message.ack()
                sent += 1
            if letter_id is not None:
                break
    if letter_id is not None and not sent and not refused:
        raise CommandFailed(f"no dead letter has the ID {letter_id}")
    return sent, refused


@asynccontextmanager
async def held(
    connection: Connection, queue_name: str
) -> AsyncIterator[list[AbstractIncomingMessage]]:
    """Hold the letters in the queue, oldest first. At the end those not acknowledged go back, in
    their order."""
    channel = await within(ANSWER_WITHIN_SECONDS, connection.channel())
    try:
        queue = await within(ANSWER_WITHIN_SECONDS, channel.get_queue(queue_name))
    except ChannelNotFoundEntity as error:
        raise CommandFailed(
            f"there is no queue {queue_name}: the processor declares it when it starts"
        ) from error
    waiting = min(queue.declaration_result.message_count or 0, MOST)
    await within(ANSWER_WITHIN_SECONDS, channel.set_qos(prefetch_count=max(waiting, 1)))
    messages = await taken(queue, waiting)
    try:
        yield messages
    finally:
        kept = [message for message in messages if not message.processed]
        if kept:
            # One nack for all of them: returned one by one, a quorum queue mixes them.
            await within(CLOSE_WITHIN_SECONDS, kept[-1].nack(multiple=True))
        with suppress(
            TimeoutError
        ):  # during an alarm RabbitMQ reads nothing more from a connection that has published
            await within(CLOSE_WITHIN_SECONDS, channel.close())


async def taken(queue: AbstractQueue, count: int) -> list[AbstractIncomingMessage]:
    """Take the first `count` messages, or fewer when no more come: another reader may hold some."""
    messages: list[AbstractIncomingMessage] = []
    async with queue.iterator() as incoming:
        with suppress(TimeoutError):
            while len(messages) < count:
                async with asyncio.timeout(NO_MORE_AFTER_SECONDS):
                    messages.append(await anext(incoming))
    return messages


async def publish_again(connection: Connection, message: AbstractIncomingMessage) -> None:
    """Publish a letter again, and return when a queue has taken it. It uses a channel of its own,
    as a missing exchange closes the channel."""
    letter = letter_of(message)
    if letter.exchange is None:
        raise CommandFailed("it does not say which exchange it came by")
    again = aio_pika.Message(
        message.body,
        headers={
            name: value for name, value in message.headers.items() if name not in GIVEN_BY_DEATH
        },
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=message.message_id,
        timestamp=message.timestamp,
        type=message.type,
        app_id=message.app_id,
    )
    async with connection.channel(on_return_raises=True) as channel:
        exchange = (
            await channel.get_exchange(letter.exchange, ensure=False)
            if letter.exchange
            else channel.default_exchange
        )
        await exchange.publish(
            again, letter.routing_key, mandatory=True, timeout=CONFIRM_WITHIN_SECONDS
        )


def letter_of(message: AbstractIncomingMessage) -> DeadLetter:
    """Read a letter from the processor's headers, else from those of a broker that no longer
    delivers it."""
    headers = message.headers
    death = newest_death(headers)
    routing_keys = death.get("routing-keys")
    routing_key = (
        routing_keys[0] if isinstance(routing_keys, list) and routing_keys else message.routing_key
    )
    at = message.timestamp or death.get("time")
    exchange = headers.get("x-manman-exchange", death.get("exchange"))
    return DeadLetter(
        id=message.message_id or hashlib.sha256(message.body).hexdigest()[:32],
        at=at if isinstance(at, datetime) else None,
        error=str(headers.get("x-manman-error", death.get("reason", "unknown"))),
        queue=str(headers.get("x-manman-queue", death.get("queue", ""))),
        exchange=None if exchange is None else str(exchange),
        routing_key=str(headers.get("x-manman-routing-key", routing_key)),
        bytes=len(message.body),
    )


def newest_death(headers: Mapping[str, Any]) -> dict[str, Any]:
    deaths = headers.get("x-death")
    newest = deaths[0] if isinstance(deaths, list) and deaths else None
    return newest if isinstance(newest, dict) else {}


def print_table(letters: list[DeadLetter]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("ID", "at", "routing key", "why", box=None)
    table.columns[0].no_wrap = True
    for letter in letters:
        at = letter.at.strftime("%Y-%m-%d %H:%M:%SZ") if letter.at else ""
        cells = (letter.id, at, letter.routing_key, letter.error)
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in cells))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
