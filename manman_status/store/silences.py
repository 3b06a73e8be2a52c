"""Silences as rows, and which alerts one covers. The caller owns the transaction.

Of one alert `SILENCED_BY` asks in SQL: it goes through all that last, so it is for a page of
alerts. Whoever looks at all alerts reads all silences, and asks `Silences`.
"""

from __future__ import annotations

from manman_status.domain.alerts.silences import Silence, Silences
from manman_status.errors import ManManStatusError
from manman_status.store.pool import Connection

LASTING_AT_ONCE = 5_000


class TooManySilences(ManManStatusError):  # noqa: N818
    """there are {limit} silences that last, and no more are taken: end some, or let one cover
    more"""

    def __init__(self) -> None:
        super().__init__(limit=LASTING_AT_ONCE)


ADD = """
INSERT INTO silences (silence_id, created_at, ends_at, created_by, why, group_name, worker_id, rule,
    labels)
SELECT $1, now(), now() + make_interval(secs => $2), $3, $4, $5, $6, $7, $8
 WHERE (SELECT count(*) FROM silences WHERE ends_at > now()) < $9
    ON CONFLICT (silence_id) DO NOTHING
"""
KNOWN = "SELECT EXISTS (SELECT FROM silences WHERE silence_id = $1)"


async def add_silence(
    connection: Connection,
    silence_id: str,
    *,
    seconds: float,
    by: str,
    why: str,
    group: str | None,
    worker_id: int | None,
    rule: str | None,
    labels: dict[str, str],
) -> bool:
    """From now on, by the database's clock. False when there is one of this id already: then
    nothing changes. Raises TooManySilences when as many last as may."""
    done = await connection.execute(
        ADD, silence_id, seconds, by, why, group, worker_id, rule, labels, LASTING_AT_ONCE
    )
    if done.endswith(" 1"):
        return True
    if not await connection.fetchval(KNOWN, silence_id):
        raise TooManySilences
    return False


LASTING = """
SELECT silence_id, group_name, worker_id, rule, labels FROM silences WHERE ends_at > now() ORDER BY
    ends_at DESC
"""


async def read_silences(connection: Connection) -> Silences:
    """All that last."""
    return Silences([Silence(*row) for row in await connection.fetch(LASTING)])


END = "UPDATE silences SET ends_at = now() WHERE silence_id = $1 AND ends_at > now()"


async def end_silence(connection: Connection, silence_id: str) -> bool:
    """False when there is none that lasts."""
    return (await connection.execute(END, silence_id)).endswith(" 1")


FORGET = "DELETE FROM silences WHERE ends_at < now() - make_interval(days => $1)"


async def forget_silences(connection: Connection, *, retention_days: int) -> int:
    return int((await connection.execute(FORGET, retention_days)).rpartition(" ")[2])


COVERS = """(s.group_name IS NULL OR s.group_name = a.group_name)
       AND (s.worker_id IS NULL OR s.worker_id = a.worker_id)
       AND (s.rule IS NULL OR s.rule = a.rule)
       AND a.labels @> s.labels"""
"""Whether the silence `s`, while it lasts, covers the alert `a`."""
SILENCED_BY = f"""(
    SELECT s.silence_id FROM silences s
     WHERE s.ends_at > now() AND {COVERS}
     ORDER BY s.ends_at DESC LIMIT 1
)"""  # noqa: S608 - constants alone
"""Of the alert `a`: the silence that covers it longest, or null."""
