"""SQL of the dead-letter outbox: letters that are safe here until the broker has taken them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime

import msgspec

from manman_status.store.pool import Connection

PUT = (
    "INSERT INTO dead_letter_outbox (letter_id, letter) SELECT * FROM unnest($1::uuid[],"
    " $2::bytea[])"
)


async def put_letters(connection: Connection, letters: Sequence[tuple[uuid.UUID, bytes]]) -> None:
    """Keep these; each is an id and the letter as bytes."""
    if letters:
        ids, bodies = zip(*letters, strict=True)
        await connection.execute(PUT, ids, bodies)


OLDEST = """
SELECT letter_id, letter
  FROM (
        SELECT letter_id, letter, at, sum(octet_length(letter)) OVER (ORDER BY at, letter_id) AS
            bytes_so_far
          FROM (SELECT letter_id, letter, at FROM dead_letter_outbox ORDER BY at, letter_id LIMIT
              $1) AS oldest
       ) AS measured
 WHERE bytes_so_far - octet_length(letter) < $2
 ORDER BY at, letter_id
"""


async def oldest_letters(
    connection: Connection, *, limit: int, max_bytes: int
) -> list[tuple[uuid.UUID, bytes]]:
    """The oldest letters, at most `limit` and about `max_bytes` of them, but at least one if there
    is any."""
    return [
        (row["letter_id"], row["letter"])
        for row in await connection.fetch(OLDEST, limit, max_bytes)
    ]


REMOVE = "DELETE FROM dead_letter_outbox WHERE letter_id = ANY($1::uuid[])"


async def remove_letters(connection: Connection, letter_ids: Sequence[uuid.UUID]) -> None:
    """Forget these: the broker has confirmed them."""
    await connection.execute(REMOVE, letter_ids)


class Outbox(msgspec.Struct, frozen=True):
    letters: int
    oldest_at: datetime | None


WAITING = "SELECT count(*) AS letters, min(at) AS oldest_at FROM dead_letter_outbox"


async def read_outbox(connection: Connection) -> Outbox:
    """The number of letters that the broker has not taken yet, and since when the oldest waits."""
    row = await connection.fetchrow(WAITING)
    assert row is not None
    return Outbox(**row)
