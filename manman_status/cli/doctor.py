"""Checks of database, broker and channels, each with a remedy."""

from __future__ import annotations

import asyncio
import shlex
from contextlib import suppress
from itertools import chain, count
from typing import TYPE_CHECKING, Annotated, NamedTuple

from aio_pika.exceptions import AMQPError, ChannelClosed, ChannelNotFoundEntity
from cyclopts import Parameter
from yarl import URL

from manman_status.cancellation import within
from manman_status.cli.broker import connected, virtual_host
from manman_status.cli.flags import DatabaseUrl, RabbitmqUrl, Role
from manman_status.cli.rights import (
    allowed_control_keys,
    may_report_any_worker,
    missing_for_processor,
)
from manman_status.cli.tables import numbered
from manman_status.errors import (
    BrokerRefuses,
    BrokerUnavailable,
    CommandFailed,
    PluginMissing,
    SchemaBehind,
    SettingsError,
)
from manman_status.reporter.alarms import alarm_of
from manman_status.reporter.carrier import Unroutable
from manman_status.reporter.connection import ANSWER_WITHIN_SECONDS, open_publisher
from manman_status.reporter.messages import Report
from manman_status.settings import Reading, Settings, read_settings, redacted, variable
from manman_status.wire.dialects import inbound_exchanges
from manman_status.wire.reasons import printable
from manman_status.wire.topology import MANMAN, Topology

if TYPE_CHECKING:
    from aio_pika import Connection
    from pamqp.commands import Queue

    from manman_status.store.pool import Connection as DatabaseConnection
    from manman_status.store.pool import Pool

RUNNING_SECONDS = 15.0
"""The age of the last report of a processor that runs, at most."""
SERVERS: dict[Role | None, tuple[str, ...]] = {
    "api": ("database_url",),
    "bridge": ("database_url", "rabbitmq_url", "manman_database_url"),
}
"""The servers of a role that has not just the two, which ManMan's own variables may name too."""
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
        reading = read_settings(
            seeks=SERVERS.get(role, ("database_url", "rabbitmq_url")),
            database_url=database_url,
            rabbitmq_url=rabbitmq_url,
        )
    except SettingsError as error:
        findings = [wrong("settings", problem) for problem in error.problems]
    else:
        findings = [*examine_reading(reading), *asyncio.run(examine(reading.settings, role))]
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


def examine_reading(reading: Reading) -> list[Finding]:
    """Name the variables of others that count, and those that do not. Never their values."""
    findings = [well("settings", "understood")]
    findings += [well("settings", text) for text in reading.described_sources()]
    if reading.ignored:
        findings.append(well("settings", f"ignored: {', '.join(reading.ignored)}"))
    return findings


async def examine(settings: Settings, role: Role | None) -> list[Finding]:
    if role == "api":
        return await examine_database(
            settings, "database_read_url" if settings.database_read_url else "database_url"
        )
    database, broker, manman = await asyncio.gather(
        examine_database(settings, "database_url", writing=True),
        examine_broker(settings),
        examine_manman(settings),
    )
    return database + broker + manman + examine_channels(settings)


async def examine_database(
    settings: Settings, name: str, *, writing: bool = False
) -> list[Finding]:
    from manman_status.store.faults import plain
    from manman_status.store.pool import CONNECTION_ERRORS, DATABASE_ERRORS, create_pool, opened

    url = getattr(settings, name)
    if not url:
        return [wrong("database", f"{variable(name)} is not set")]
    patience = settings.database_timeout_seconds
    # As the role connects, so that what it cannot have is found here.
    pool = create_pool(
        url,
        application="manman-status doctor",
        size=1,
        timeout_seconds=patience,
        read_only=not writing,
    )
    try:
        async with opened(pool, close_within_seconds=0.5):
            async with asyncio.timeout(patience), pool.acquire() as connection:
                findings = await examine_schema(connection, redacted(url), writing=writing)
            if all(
                finding.is_well
                for finding in findings
                if finding.subject in {"schema", "privileges"}
            ):
                findings += await examine_counts(pool, patience)
            return findings
    except DATABASE_ERRORS as error:
        cause = (
            f"no answer within {patience:g} s" if isinstance(error, TimeoutError) else plain(error)
        )
        remedy = (
            f"see that it runs, and {variable(name)}"
            if isinstance(error, CONNECTION_ERRORS)
            else variable(name)
        )
        return [wrong("database", f"{redacted(url)}: {cause}; {remedy}")]


async def examine_schema(
    connection: DatabaseConnection, url: str, *, writing: bool
) -> list[Finding]:
    from manman_status.store.checkup import look_at_server, missing_privileges
    from manman_status.store.pool import require_schema
    from manman_status.store.session import is_pooled

    server = await look_at_server(connection)
    place = f"PostgreSQL {server.version} at {url}"
    if is_pooled(connection):
        place += ", through a pooler: without prepared statements"
    if writing and server.read_only:
        database = wrong(
            "database",
            f"{place} takes no writes: name the primary, not a standby, and see"
            " default_transaction_read_only",
        )
    elif writing and not server.keeps_commits:
        database = wrong(
            "database",
            f"{place} has synchronous_commit off: a crash of it loses events that workers were told"
            " are safe",
        )
    elif server.encoding != "UTF8":
        database = wrong(
            "database",
            f"{place} has the encoding {server.encoding}: names that it cannot hold are refused;"
            " use UTF8",
        )
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
    return [
        database,
        well("schema", "as this program needs it"),
        privileges,
        *await examine_thresholds(connection),
        *await examine_bridges(connection),
        *await examine_outbox(connection, missing),
        *await examine_unwatched(connection, missing),
    ]


async def examine_thresholds(connection: DatabaseConnection) -> list[Finding]:
    """Find processors whose settings are not the thresholds that count."""
    from manman_status.store.thresholds import disagreeing_processors

    processors = await disagreeing_processors(connection, within_seconds=RUNNING_SECONDS)
    if not processors:
        return []
    return [
        wrong(
            "thresholds",
            f"processors {', '.join(processors)} have other settings than the leader, whose count:"
            f" give all processors the same {variable('minimum_timeout_seconds')},"
            f" {variable('default_interval_seconds')}, {variable('recovery_grace_seconds')},"
            f" {variable('degraded_after_seconds')} and {variable('blind_after_seconds')}",
        )
    ]


async def examine_bridges(connection: DatabaseConnection) -> list[Finding]:
    """Find bridges for which the observation waits."""
    from manman_status.store.bridges import bridges_behind

    return [
        wrong(
            "bridge",
            f"bridge {name!r} is behind, and nobody's silence counts until it goes on: see that it"
            " runs, and its log; if it is gone for good, run"
            f" `manman-status bridge remove {shlex.quote(name)}`",
        )
        for name in await bridges_behind(connection, by_seconds=RUNNING_SECONDS)
    ]


async def examine_manman(settings: Settings) -> list[Finding]:
    """See that ManMan's database can be read, as a bridge reads it."""
    from manman_status.bridge.manman import ReadsStandby, read_look, write_privileges
    from manman_status.store.faults import plain
    from manman_status.store.pool import DATABASE_ERRORS, create_pool, opened

    if not settings.manman_database_url:
        return []
    place = redacted(settings.manman_database_url)
    patience = settings.database_timeout_seconds
    pool = create_pool(
        settings.manman_database_url,
        application="manman-status doctor",
        size=1,
        timeout_seconds=patience,
    )
    try:
        async with (
            opened(pool, close_within_seconds=0.5),
            asyncio.timeout(patience),
            pool.acquire() as connection,
        ):
            look = await read_look(connection, None)
            may_write = not settings.write_status_info or await write_privileges(connection)
    except ReadsStandby as error:
        return [wrong("manman", f"{place}: {error}")]
    except DATABASE_ERRORS as error:
        return [
            wrong(
                "manman",
                f"{place}: {plain(error)}; see {variable('manman_database_url')}, and that its user"
                " has USAGE on the schema manman, and SELECT on its workers and"
                " game_server_instances",
            )
        ]
    if not may_write:
        return [
            wrong(
                "manman",
                f"{place}: GRANT INSERT on manman.status_info, and USAGE on its sequence, for"
                f" {variable('write_status_info')}",
            )
        ]
    return [well("manman", f"{place}: {numbered(len(look.workers), 'worker')} not ended")]


async def examine_counts(pool: Pool, patience: float) -> list[Finding]:
    """Compare the numbers that are kept of the fleet with its rows."""
    from asyncpg import QueryCanceledError

    from manman_status.store.counting import compare_counts

    try:
        async with asyncio.timeout(patience), pool.acquire() as connection:
            wrong_ones = await compare_counts(connection)
    except (TimeoutError, QueryCanceledError):
        return [well("counts", f"not compared: to count all rows takes longer than {patience:g} s")]
    if not wrong_ones:
        return [well("counts", "the numbers kept of the fleet are those of its rows")]
    first = wrong_ones[0]
    example = f"{first.entity} {first.status or 'without a heartbeat'}"
    example += f" in group {first.group_name}" if first.group_name else ""
    return [
        wrong(
            "counts",
            f"the numbers kept of the fleet are wrong in {numbered(len(wrong_ones), 'case')},"
            f" first {example}: {first.kept} instead of {first.counted}. /status/system, /metrics"
            " and the page show them; run `manman-status migrate --recount`",
        )
    ]


async def examine_outbox(connection: DatabaseConnection, missing: list[str]) -> list[Finding]:
    """Find dead letters that wait in the database while the broker does not take them."""
    from manman_status.store.dead_letters import read_outbox

    if any("dead_letter_outbox" in privilege for privilege in missing):
        return []
    outbox = await read_outbox(connection)
    if not outbox.letters:
        return []
    waiting = (
        f"{numbered(outbox.letters, 'dead letter')} in the database since"
        f" {outbox.oldest_at:%Y-%m-%d %H:%M:%SZ}"
    )
    return [
        wrong(
            "letters",
            f"{waiting}: the dead-letter queue does not take them. See that a processor runs, and"
            " the queue",
        )
    ]


async def examine_unwatched(connection: DatabaseConnection, missing: list[str]) -> list[Finding]:
    """Find workers that report and never send a heartbeat."""
    from manman_status.domain.fleet import unwatched_text
    from manman_status.store.unwatched import count_unwatched

    if missing:
        return []
    number = await count_unwatched(connection)
    if not number:
        return [well("watched", "every worker that reports sends heartbeats")]
    return [
        wrong(
            "watched",
            f"{unwatched_text(number)}, so it is unknown whether they live, and they cannot be"
            " marked LOST. Run `manman-status bridge` beside ManMan's database, use the reporter"
            " (docs/report-from-python.md), or publish HEARTBEAT for each",
        )
    ]


async def examine_broker(settings: Settings) -> list[Finding]:
    if not settings.rabbitmq_url:
        return [wrong("broker", f"{variable('rabbitmq_url')} is not set")]
    place = f"{redacted(settings.rabbitmq_url)}, virtual host {virtual_host(settings)}"
    try:
        async with connected(settings) as connection:
            exchanges = (
                *inbound_exchanges(settings),
                settings.outbound_exchange,
                settings.control_exchange,
                settings.dead_letter_exchange,
            )
            topology: Topology = settings
            return [
                well("broker", f"{broker_version(connection)} at {place}"),
                *[await examine_exchange(connection, name) for name in exchanges],
                *[
                    await examine_queue(connection, name)
                    for name in topology.queues(settings.partitions)
                ],
                await examine_queue(connection, settings.dropped_queue, is_read=False),
                await examine_queue(connection, settings.dead_letter_queue, is_dead_letters=True),
                *await examine_leftovers(connection, topology, settings.partitions),
                *(await examine_plugin(settings) if settings.partitions > 1 else ()),
                # Both publish: after that, RabbitMQ reads nothing from this connection during an
                # alarm.
                *await examine_publishing(connection, settings),
            ]
    except BrokerRefuses as error:
        return [wrong("broker", f"{place}: {error}; see {variable('rabbitmq_url')}")]
    except BrokerUnavailable as error:
        cause = error.fields["cause"]
        return [
            wrong("broker", f"{place}: {cause}; see that it runs, and {variable('rabbitmq_url')}")
        ]


async def examine_rights(connection: Connection, settings: Settings) -> list[Finding]:
    """List the rights of this user of the broker. A missing one is a problem only for a
    processor."""
    topology: Topology = settings
    user = URL(settings.broker_url).user or "guest"
    reports = (
        "every worker"
        if await may_report_any_worker(connection, topology)
        else "no worker, or for some only"
    )
    keys = ", ".join(await allowed_control_keys(connection, topology)) or "none"
    missing = await missing_for_processor(connection, topology)
    return [
        well("rights", f"{user} may report for {reports}"),
        well("rights", f"{user} may send these control messages: {keys}"),
        (
            wrong(
                "rights",
                f"{user} may not run a processor, which has to {', '.join(missing)}: see"
                " docs/trust.md",
            )
            if missing
            else well(
                "rights",
                f"{user} may run a processor, if it may also read the queues, which cannot be seen",
            )
        ),
    ]


def examine_channels(settings: Settings) -> list[Finding]:
    """Check the channels without sending anything."""
    if not settings.notify_urls and not settings.notify_routes_file:
        return []
    from manman_status.alerts.channels import open_channels

    try:
        channels = open_channels(settings)
    except SettingsError as error:
        return [wrong("channel", problem) for problem in error.problems]
    return [
        well("channel", f"{each.name}: {each.service}; `manman-status alerts test` sends to it")
        for each in channels
    ]


def broker_version(connection: Connection) -> str:
    properties = connection.transport.connection.server_properties if connection.transport else {}
    return f"RabbitMQ {properties.get('version', '')!s}"


async def examine_publishing(connection: Connection, settings: Settings) -> list[Finding]:
    """Check that RabbitMQ takes messages, and if so what this user may do.

    Publishes two messages that no queue takes: RabbitMQ says that it holds back publishers only to
    a connection that publishes, and it may take that one's first message before.
    """
    is_ours = MANMAN in settings.dialects  # V2's exchange may be open to canaries alone
    exchange = settings.inbound_exchange if is_ours else settings.control_exchange
    try:
        async with open_publisher(connection, exchange=exchange) as publisher:
            for _ in range(2):
                with suppress(Unroutable):
                    await publisher.send(Report("manman-status.doctor", b"{}", durable=False))
    except BrokerUnavailable as error:
        if not isinstance(error, BrokerRefuses) or await alarm_of(connection):
            return [wrong("publishing", f"{error}; see `rabbitmq-diagnostics alarms`")]
        publishing = wrong("publishing", str(error))
    else:
        publishing = well("publishing", "RabbitMQ takes messages")
    return [
        publishing,
        *await within(3 * ANSWER_WITHIN_SECONDS, examine_rights(connection, settings)),
    ]


async def examine_exchange(connection: Connection, name: str) -> Finding:
    # A channel for each question: the answer "not there" closes it.
    async def look() -> None:
        async with connection.channel() as channel:
            await channel.get_exchange(name)

    try:
        await within(ANSWER_WITHIN_SECONDS, look())
    except ChannelNotFoundEntity:
        return wrong("exchange", f"{name} {NOT_THERE}")
    except ChannelClosed as error:
        return wrong("exchange", f"{name}: {error}")
    return well("exchange", name)


async def examine_leftovers(
    connection: Connection, topology: Topology, partitions: int
) -> list[Finding]:
    """Find queues of the version before, and of former partitions."""
    findings = []
    further = (f"{topology.heartbeat_queue}.{number}" for number in count(partitions))
    for name in chain((topology.heartbeat_queue, topology.lifecycle_queue), further):
        found = await look_at_queue(connection, name)
        if found is not None:
            holds = f"{name}: {numbered(found.message_count or 0, 'message')}"
            remedy = "a running processor empties and deletes it"
            if not found.consumer_count:
                remedy = (
                    "nobody reads it; start a processor, which empties and deletes it, or delete"
                    f" the queue {name}"
                )
            findings.append(
                wrong(
                    "leftover", f"{holds}, of an earlier version or number of partitions: {remedy}"
                )
            )
        elif topology.partition_of(name) is not None:
            break
    return findings


async def examine_plugin(settings: Settings) -> list[Finding]:
    """Check that heartbeats can be spread: declare an exchange that exists with the plugin's type.
    On a connection of its own, since RabbitMQ before version 4 closes the connection if it does not
    know the type."""
    try:
        async with connected(settings) as connection, connection.channel() as channel:
            await channel.declare_exchange("amq.topic", "x-consistent-hash", durable=True)
    except (AMQPError, BrokerUnavailable) as error:
        if "exchange type" in str(error):
            return [wrong("plugin", str(PluginMissing()))]
    return [well("plugin", "rabbitmq_consistent_hash_exchange is enabled")]


async def look_at_queue(connection: Connection, name: str) -> Queue.DeclareOk | None:
    """Declare the queue passively. Returns None if it does not exist; raises ChannelClosed."""

    async def look() -> Queue.DeclareOk:
        async with connection.channel() as channel:
            return (await channel.get_queue(name)).declaration_result

    try:
        return await within(ANSWER_WITHIN_SECONDS, look())
    except ChannelNotFoundEntity:
        return None


async def examine_queue(
    connection: Connection, name: str, *, is_read: bool = True, is_dead_letters: bool = False
) -> Finding:
    try:
        found = await look_at_queue(connection, name)
    except ChannelClosed as error:
        return wrong("queue", f"{name}: {error}")
    if found is None:
        return wrong("queue", f"{name} {NOT_THERE}")
    depth = f"{name}: {numbered(found.message_count or 0, 'message')}"
    if is_dead_letters:
        # Some in it are no fault of this installation, but worth a look.
        return well(
            "queue", f"{depth}, see `manman-status dead list`" if found.message_count else depth
        )
    if not found.consumer_count and is_read:
        return wrong("queue", f"{depth} and no consumer: start a processor")
    return well("queue", f"{depth}, {numbered(found.consumer_count or 0, 'consumer')}")
