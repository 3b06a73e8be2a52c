"""Silences as rows, and which alerts one covers. The caller owns the transaction.

`Silences` finds the one that covers an alert without looking at each: there may be thousands of
both. For a page of alerts, `reading.py` does the same in SQL.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.alert import Subject
from manman_status.errors import ManManStatusError

if TYPE_CHECKING:
    from manman_status.store.pool import Connection


class Silence(msgspec.Struct, frozen=True):
    """Covers the alerts that match all that is given. A `group` of "" is the workers without
    one."""

    silence_id: str
    group: str | None = None
    worker_id: int | None = None
    rule: str | None = None
    labels: Mapping[str, str] = {}

    def covers(self, rule: str, subject: Subject) -> bool:
        return (
            self.group in {None, subject.group}
            and self.worker_id in {None, subject.worker_id}
            and self.rule in {None, rule}
            and self.labels.items() <= subject.labels.items()
        )


class Silences:
    """Lasting silences; of those that cover the same alerts only the longest is kept.

    `lasting`: silences that have not ended, those that end last first."""

    def __init__(self, lasting: Iterable[Silence]) -> None:
        different: dict[Hashable, tuple[int, Silence]] = {}
        for order, silence in enumerate(lasting):
            what = (
                silence.group,
                silence.worker_id,
                silence.rule,
                frozenset(silence.labels.items()),
            )
            different.setdefault(what, (order, silence))
        numbers = Counter(
            label for _, silence in different.values() for label in silence.labels.items()
        )
        self._by_place: defaultdict[Hashable, list[tuple[int, Silence]]] = defaultdict(list)
        for order, silence in different.values():
            self._by_place[_place(silence, numbers)].append((order, silence))

    def covering(self, rule: str, subject: Subject) -> str | None:
        """The id of the silence that covers this longest; None when none does."""
        found = [
            first
            for place in _places(rule, subject)
            if (first := self._first(place, rule, subject))
        ]
        return min(found)[1] if found else None

    def _first(self, place: Hashable, rule: str, subject: Subject) -> tuple[int, str] | None:
        return next(
            (
                (order, each.silence_id)
                for order, each in self._by_place.get(place, ())
                if each.covers(rule, subject)
            ),
            None,
        )


def _place(silence: Silence, numbers: Mapping[tuple[str, str], int]) -> Hashable:
    """One property that an alert must have to be covered; of several labels the one that the fewest
    silences name."""
    if silence.worker_id is not None:
        return "worker", silence.worker_id
    if silence.labels:
        return "label", min(silence.labels.items(), key=lambda label: (numbers[label], label))
    if silence.group is not None:
        return "group", silence.group
    return "rule", silence.rule


def _places(rule: str, subject: Subject) -> Iterator[Hashable]:
    yield "worker", subject.worker_id
    yield "group", subject.group
    yield "rule", rule
    yield "rule", None
    for label in subject.labels.items():
        yield "label", label


LASTING_AT_ONCE = 5_000


class TooManySilences(ManManStatusError):  # noqa: N818
    """there are {limit} silences that last, and no more are taken: end some, or let one cover
    more"""

    def __init__(self) -> None:
        super().__init__(limit=LASTING_AT_ONCE)


ADD = """
INSERT INTO silences (
    silence_id, created_at, ends_at, created_by, why, group_name, worker_id, rule, labels
)
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
    """Add a silence that begins now, by the database's clock. False, and nothing changes, when
    there is one with this id already. Raises TooManySilences at the limit of lasting ones."""
    done = await connection.execute(
        ADD, silence_id, seconds, by, why, group, worker_id, rule, labels, LASTING_AT_ONCE
    )
    if done.endswith(" 1"):
        return True
    if not await connection.fetchval(KNOWN, silence_id):
        raise TooManySilences
    return False


LASTING = """
SELECT silence_id, group_name, worker_id, rule, labels FROM silences
 WHERE ends_at > now()
 ORDER BY ends_at DESC
"""


async def read_silences(connection: Connection) -> Silences:
    """Read all lasting silences."""
    return Silences([Silence(*row) for row in await connection.fetch(LASTING)])


END = "UPDATE silences SET ends_at = now() WHERE silence_id = $1 AND ends_at > now()"


async def end_silence(connection: Connection, silence_id: str) -> bool:
    """End it now; False when no such silence lasts."""
    return (await connection.execute(END, silence_id)).endswith(" 1")


FORGET = "DELETE FROM silences WHERE ends_at < now() - make_interval(days => $1)"


async def forget_silences(connection: Connection, *, retention_days: int) -> int:
    return int((await connection.execute(FORGET, retention_days)).rpartition(" ")[2])
