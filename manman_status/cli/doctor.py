"""What is wrong, and what to do about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, NamedTuple

from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity
from cyclopts import Parameter

from manman_status.cli.broker import connected, virtual_host
from manman_status.cli.flags import DatabaseUrl, RabbitmqUrl, Role
from manman_status.cli.tables import numbered, printable
from manman_status.errors import BrokerUnavailable, CommandFailed, SchemaBehind, SettingsError
from manman_status.settings import Settings, load_settings, redacted, variable

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection

    from manman_status.store.pool import Connection

NOT_THERE = "is not there: the processor declares it when it starts"


class Finding(NamedTuple):
    subject: str
    is_well: bool
    text: str


def well(subject: str, text: str) -> Finding:
    return Finding(subject, is_well=True, text=text)


def wrong(subject: str, text: str) -> Finding:
    return Finding(subject, is_well=False, text=text)


def doctor(
    *,
    role: Annotated[
        Role | None,
        Parameter(
            env_var=variable("role"),
            show_env_var=False,
            help=f"Look only at what this role needs. [{variable('role')}]",
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    rabbitmq_url: RabbitmqUrl = None,
) -> None:
    """Say what is wrong, one line each, with what to do. Changes nothing."""
    try:
        settings = load_settings(database_url=database_url, rabbitmq_url=rabbitmq_url)
    except SettingsError as error:
        findings = [wrong("settings", problem) for problem in error.problems]
    else:
        findings = [well("settings", "understood"), *asyncio.run(examine(settings, role))]
    print_findings(findings)
    problems = sum(not finding.is_well for finding in findings)
    if problems:
        raise CommandFailed(numbered(problems, "problem"))


def print_findings(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    for subject, is_well, text in findings:
        verdict = Text("ok     ", "green") if is_well else Text("problem", "bold red")
        console.print(Text.assemble(verdict, f"  {subject:<10}  {printable(text)}"))


async def examine(settings: Settings, role: Role | None) -> list[Finding]:
    if role == "api":
        return await examine_database(settings, "database_read_url" if settings.database_read_url else "database_url")
    database, broker = await asyncio.gather(
        examine_database(settings, "database_url", writing=True), examine_broker(settings)
    )
    return database + broker + examine_channels(settings)


async def examine_database(settings: Settings, name: str, *, writing: bool = False) -> list[Finding]:
    import asyncpg

    from manman_status.store.pool import DATABASE_ERRORS

    url = getattr(settings, name)
    if not url:
        return [wrong("database", f"{variable(name)} is not set")]
    try:
        async with asyncio.timeout(settings.database_timeout_seconds):
            connection = await asyncpg.connect(url)
            try:
                return await examine_schema(connection, redacted(url), writing=writing)
            finally:
                connection.terminate()
    except DATABASE_ERRORS as error:
        cause = str(error) or f"no answer within {settings.database_timeout_seconds:g} s"
        return [
            wrong(
                "database",
                f"{redacted(url)}: {cause}; see that it runs, and {variable(name)}",
            )
        ]


async def examine_schema(connection: Connection, url: str, *, writing: bool) -> list[Finding]:
    from manman_status.store.checkup import look_at_server, missing_privileges
    from manman_status.store.pool import require_schema

    server = await look_at_server(connection)
    place = f"PostgreSQL {server.version} at {url}"
    if writing and server.read_only:
        database = wrong("database", f"{place} takes no writes: name the primary, not a standby")
    else:
        database = well("database", place)
    try:
        await require_schema(connection)
    except SchemaBehind as error:
        return [database, wrong("schema", str(error))]
    missing = await missing_privileges(connection, writing=writing)
    privileges = (
        wrong("privileges", f"{server.user} lacks {', '.join(missing)}: GRANT them")
        if missing
        else well("privileges", f"{server.user} may do what it must")
    )
    return [database, well("schema", "as this program needs it"), privileges]


async def examine_broker(settings: Settings) -> list[Finding]:
    if not settings.rabbitmq_url:
        return [wrong("broker", f"{variable('rabbitmq_url')} is not set")]
    place = f"{redacted(settings.rabbitmq_url)}, virtual host {virtual_host(settings)}"
    try:
        async with connected(settings) as connection:
            exchanges = (settings.inbound_exchange, settings.outbound_exchange, settings.dead_letter_exchange)
            queues = (settings.heartbeat_queue, settings.lifecycle_queue)
            return [
                well("broker", f"{broker_version(connection)} at {place}"),
                *[await examine_exchange(connection, name) for name in exchanges],
                *[await examine_queue(connection, name) for name in queues],
                await examine_queue(connection, settings.dead_letter_queue, is_dead_letters=True),
            ]
    except BrokerUnavailable as error:
        cause = error.fields["cause"]
        return [wrong("broker", f"{place}: {cause}; see that it runs, and {variable('rabbitmq_url')}")]
    except CommandFailed as error:
        return [wrong("broker", f"{place}: {error}")]


def examine_channels(settings: Settings) -> list[Finding]:
    """Nothing is sent."""
    if not settings.notify_urls and not settings.notify_routes_file:
        return []
    from manman_status.processor.channels import open_channels

    try:
        channels = open_channels(settings)
    except SettingsError as error:
        return [wrong("channel", problem) for problem in error.problems]
    return [
        well("channel", f"{each.name}: {each.service}; `manman-status alerts test` sends to it") for each in channels
    ]


def broker_version(connection: AbstractConnection) -> str:
    properties = connection.transport.connection.server_properties if connection.transport else {}
    return f"RabbitMQ {properties.get('version', '')!s}"


async def examine_exchange(connection: AbstractConnection, name: str) -> Finding:
    # A channel for each question: the answer "not there" closes it.
    try:
        async with connection.channel() as channel:
            await channel.get_exchange(name)
    except ChannelNotFoundEntity:
        return wrong("exchange", f"{name} {NOT_THERE}")
    except ChannelClosed as error:
        return wrong("exchange", f"{name}: {error}")
    return well("exchange", name)


async def examine_queue(connection: AbstractConnection, name: str, *, is_dead_letters: bool = False) -> Finding:
    try:
        async with connection.channel() as channel:
            found = (await channel.get_queue(name)).declaration_result
    except ChannelNotFoundEntity:
        return wrong("queue", f"{name} {NOT_THERE}")
    except ChannelClosed as error:
        return wrong("queue", f"{name}: {error}")
    depth = f"{name}: {numbered(found.message_count or 0, 'message')}"
    if is_dead_letters:
        # Some in it are no fault of this installation, but worth a look.
        return well("queue", f"{depth}, see `manman-status dead list`" if found.message_count else depth)
    if not found.consumer_count:
        return wrong("queue", f"{depth} and no consumer: start a processor")
    return well("queue", f"{depth}, {numbered(found.consumer_count, 'consumer')}")
