"""The one way to connect, for both roles, `migrate` and `doctor`: a URL that works for one works
for all.

What an administrator has set for the role, the database or the server must change nothing here:
isolation, time-outs, time zone. A connection of our own is given all of it once. Behind a pooler
(pgbouncer in transaction mode) a session is shared with strangers, and each transaction may run in
another one: nothing may be set in it, prepared in it or left in it. There every statement runs
within a transaction, which sets for itself what it needs. A pooler in session mode is treated
alike, since nothing distinguishes the two.

A pooler is found by the process id: PostgreSQL announces that of its own process, a pooler makes
one up.
"""

from __future__ import annotations

import functools
import ssl
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import asyncpg
import msgspec

from manman_status.database_url import DatabaseUrl, Place, parse_database_url
from manman_status.store.faults import plain

if TYPE_CHECKING:
    from asyncpg.connect_utils import SessionAttribute
    from asyncpg.prepared_stmt import PreparedStatement

    BaseConnection = asyncpg.Connection[asyncpg.Record]
else:
    BaseConnection = asyncpg.Connection

Method = TypeVar("Method", bound=Callable[..., Awaitable[Any]])

HUNG_AFTER_MS = 3_000
"""A process that hangs, or whose machine is gone, within a transaction must not keep its locks: the
server ends it."""

CANCELLED_BY_US_MS = 1_000
"""The server's time-out comes so much later than our own, and ends what our request to cancel did
not reach."""

READ_COMMITTED = " SET LOCAL transaction_isolation = 'read committed'; "

# By default PostgreSQL looks for tables in a schema that is named as the user, then in `public`.
# ManMan's own tables lie in the schema `manman`, and one of them is `workers`: to the user `manman`
# they would take the place of ours.
OURS_ARE_PUBLIC = """current_setting('search_path') = '"$user", public'
    AND to_regclass(quote_ident(current_user) || '.revision_counter') IS NULL
    AND coalesce(to_regclass('public.revision_counter'),
                 to_regclass(quote_ident(current_user) || '.workers')) IS NOT NULL"""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The purpose of a connection. `application` is shown by `pg_stat_activity`. A statement is
    cancelled after `statement_seconds`; None lets it take its time."""

    application: str
    connect_seconds: float
    statement_seconds: float | None
    is_read_only: bool = False
    idle_in_transaction_ms: int = HUNG_AFTER_MS

    @property
    def statement_ms(self) -> int:
        return (
            int(self.statement_seconds * 1000) + CANCELLED_BY_US_MS if self.statement_seconds else 0
        )

    def lasting(self) -> dict[str, str]:
        """The settings of a session that is ours alone. A server that is too old for a setting does
        without it."""
        return {
            "default_transaction_isolation": "read committed",
            "default_transaction_deferrable": "off",
            "idle_in_transaction_session_timeout": str(self.idle_in_transaction_ms),
            "idle_session_timeout": "0",
            "lock_timeout": "0",
            "search_path": "public",
            "statement_timeout": str(self.statement_ms),
            "transaction_timeout": "0",
        } | ({"default_transaction_read_only": "on"} if self.is_read_only else {})

    def within_transaction(self) -> str:
        """The settings of one transaction, as its first statements."""
        settings = {
            "idle_in_transaction_session_timeout": str(self.idle_in_transaction_ms),
            "lock_timeout": "0",
            "statement_timeout": str(self.statement_ms),
        } | ({"transaction_read_only": "on"} if self.is_read_only else {})
        return " ".join(
            [
                *(f"SET LOCAL {name} = {value};" for name, value in settings.items()),
                f"SELECT set_config('search_path', 'public', true) WHERE {OURS_ARE_PUBLIC};",
            ]
        )


def _in_transaction(method: Method) -> Method:
    @functools.wraps(method)
    async def call(self: Pooled, *args: Any, **kwargs: Any) -> Any:
        if self.is_in_transaction():
            return await method(self, *args, **kwargs)
        async with self.transaction():
            return await method(self, *args, **kwargs)

    return cast("Method", call)


class Pooled(BaseConnection):
    """A connection to a pooler, which gives us a session for one transaction at a time."""

    at_begin = ""
    """Runs with each BEGIN, in the same round trip."""

    fetch = _in_transaction(BaseConnection.fetch)
    fetchrow = _in_transaction(BaseConnection.fetchrow)
    fetchval = _in_transaction(BaseConnection.fetchval)
    set_type_codec = _in_transaction(BaseConnection.set_type_codec)
    _execute_in_transaction = _in_transaction(BaseConnection.execute)

    async def prepare(  # type: ignore[override]
        self, query: str, *, name: str | None = None, **options: Any
    ) -> PreparedStatement:
        """Only `migrate` prepares, within its one transaction. Its names must not meet those of
        others."""
        return await super().prepare(
            query, name=name or f"manman_status_{uuid.uuid4().hex}", **options
        )

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if query.startswith(
            "BEGIN"
        ):  # of asyncpg's own Transaction, which names an isolation that was requested
            isolation = "" if "ISOLATION" in query else READ_COMMITTED
            return await super().execute(query + isolation + self.at_begin, *args, **options)
        return await self._execute_in_transaction(query, *args, **options)


def is_pooled(connection: object) -> bool:
    """True when there is a pooler between, as far as one shows. Takes a pool's connections too."""
    return hasattr(connection, "at_begin")


async def connect(url: str, session: Session) -> BaseConnection:
    """A connection in which everything is set. Raises what asyncpg raises; ConnectionError that
    names each host when there are several and none will do."""
    target = parse_database_url(url)
    if target.prepared_statements is not False:
        connection = await _connect(
            target, session, kind=asyncpg.Connection, statement_cache_size=100
        )
        try:
            if await _settle(
                connection, session, is_surely_ours=target.prepared_statements is True
            ):
                return connection
        except BaseException:
            connection.terminate()
            raise
        connection.terminate()
    pooled = await _connect(target, session, kind=Pooled, statement_cache_size=0)
    cast("Pooled", pooled).at_begin = session.within_transaction()
    return pooled


async def _settle(connection: BaseConnection, session: Session, *, is_surely_ours: bool) -> bool:
    """Set what lasts if the session is ours alone, and return whether it is. One round trip,
    nothing prepared."""
    wanted = ", ".join(f"('{name}', '{value}')" for name, value in session.lasting().items())
    condition = "" if is_surely_ours else f"pg_backend_pid() = {connection.get_server_pid()} AND "
    done = await connection.execute(
        f"SELECT set_config(name, value, false) FROM (VALUES {wanted}) AS wanted (name, value)"
        f" WHERE {condition}current_setting(name, true) IS NOT NULL"
        f" AND (name <> 'search_path' OR {OURS_ARE_PUBLIC})",
        timeout=session.connect_seconds,
    )
    return done != "SELECT 0"


async def _connect(
    target: DatabaseUrl, session: Session, *, kind: type[BaseConnection], statement_cache_size: int
) -> BaseConnection:
    """Connect to the first host that answers and is what was requested. Each of several hosts has
    its share of the time, so that one that swallows everything does not keep us from the next."""
    patience = session.connect_seconds
    if target.connect_seconds:
        patience = min(patience, target.connect_seconds * max(1, len(target.places)))
    arguments: dict[str, Any] = {
        "timeout": patience / max(1, len(target.places)),
        "command_timeout": session.statement_seconds,
        "connection_class": kind,
        "statement_cache_size": statement_cache_size,
        # Poolers know these two, and keep them for us.
        "server_settings": {
            "application_name": target.application_name or session.application,
            "timezone": "UTC",
        },
    }
    if target.trusts_system:
        arguments["ssl"] = ssl.create_default_context()
    wanted = target.session_attributes
    if wanted is None and target.places and not session.is_read_only:
        wanted = "read-write"
    if not target.places:
        return await asyncpg.connect(
            target.dsn, target_session_attrs=_attribute(wanted), **arguments
        )
    failures: list[str] = []
    for attribute in ("standby", "any") if wanted == "prefer-standby" else (wanted,):
        failures = []
        for place in target.places:
            try:
                return await asyncpg.connect(
                    target.dsn,
                    host=place.host,
                    port=place.port,
                    target_session_attrs=_attribute(attribute),
                    **arguments,
                )
            except asyncpg.InvalidAuthorizationSpecificationError:
                raise
            except (OSError, asyncpg.PostgresError, asyncpg.InternalClientError) as error:
                failures.append(f"{_shown(place)}: {plain(error)}")
    raise ConnectionError("; ".join(failures))


def _attribute(name: str | None) -> SessionAttribute | None:
    """The name is enough for asyncpg, not for its types."""
    return cast("SessionAttribute | None", name)


def _shown(place: Place) -> str:
    return f"[{place.host}]:{place.port}" if ":" in place.host else f"{place.host}:{place.port}"
