"""Silences as rows, and which alerts one covers. The caller owns the transaction."""

from __future__ import annotations

from manman_status.store.pool import Connection

ADD = """
INSERT INTO silences (silence_id, created_at, ends_at, created_by, why, group_name, worker_id, rule, labels)
VALUES ($1, now(), now() + make_interval(secs => $2), $3, $4, $5, $6, $7, $8)
    ON CONFLICT (silence_id) DO NOTHING
"""


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
    """From now on, by the database's clock. False when there is one of this id already: then nothing changes."""
    done = await connection.execute(ADD, silence_id, seconds, by, why, group, worker_id, rule, labels)
    return done.endswith(" 1")


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
