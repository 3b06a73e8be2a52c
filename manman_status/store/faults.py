"""Faults of the database, in words for people."""

from __future__ import annotations

import ssl

import asyncpg

from manman_status.errors import describe

CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "login refused"),
    (asyncpg.InvalidCatalogNameError, "no such database"),
    (asyncpg.InsufficientPrivilegeError, "a privilege is missing"),
    (asyncpg.TooManyConnectionsError, "no connection is free"),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "takes no writes: a standby, or default_transaction_read_only is on",
    ),
    (asyncpg.TargetServerAttributeNotMatched, "not what target_session_attrs asks for"),
    (ssl.SSLError, "TLS failed"),
)


def plain(error: BaseException) -> str:
    """Describe for people, in one line, what is wrong with the database and where to look."""
    words = " ".join(str(error).split())
    if (
        isinstance(error, ConnectionError) and "rejected SSL upgrade" in words
    ):  # asyncpg's words, in English always
        return f"TLS refused: the server offers none, but sslmode asks for it: {words}"
    for kind, cause in CAUSES:
        if isinstance(error, kind):
            return f"{cause}: {words}"
    if isinstance(error, TimeoutError) and not words:
        return "no answer in time"
    return words or describe(error)
