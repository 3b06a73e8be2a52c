"""People and programs are told of alerts: each channel by itself, at least once, and marked only
after it has taken it.

A channel that fails is tried again, less and less often, and keeps no other waiting. What happens
meanwhile goes into its next message: it is told how things are then, not each step.

No transaction is open while a channel is waited for. What a channel has taken is marked in pieces,
and a mark that fails is tried again instead of the message: only a leader that ends in between
leaves a message to be sent twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Final, Protocol

import structlog

from manman_status.backoff import Backoff
from manman_status.domain.alerts.alert import AlertState
from manman_status.domain.alerts.telling import News, ToldAlert, news_of
from manman_status.errors import BrokerUnavailable, ManManStatusError, describe
from manman_status.leadership import LEASE, Leadership
from manman_status.processor.statistics import Statistics
from manman_status.store.leases import LeaseLost, check_lease
from manman_status.store.notifications import mark_told, read_for_people, read_promised
from manman_status.store.pool import DATABASE_ERRORS, Pool
from manman_status.store.silences import read_silences
from manman_status.wire.outbound import Publish, alert_message

log = structlog.get_logger()

BROKER: Final = "broker"
"""The channel of whoever listens on the outbound exchange."""
LOOK_EVERY_SECONDS = 5.0
"""For what nobody wakes us for: silences that end, reminders that are due, another processor's
acknowledgements."""
LONGEST_BACKOFF_SECONDS = 300.0
ALERTS_AT_ONCE = 200
ROWS_AT_ONCE = 1_000
"""Read or marked in one statement: far less than the time after which the database ends what hangs
in a transaction."""
LONGEST_ROUND_SECONDS = 5.0
"""How long alerts are sent one by one before it is looked again which of them are still news."""


class NotTaken(ManManStatusError):  # noqa: N818
    """{reason}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason=reason)


class Channel(Protocol):
    """Where people are told. `name` is what the marks are kept under: it stays the same as long as
    the place does."""

    name: str
    remind_seconds: float
    per_hour: int

    def wants(self, alert: ToldAlert) -> bool: ...

    async def tell(self, news: Sequence[tuple[News, ToldAlert]]) -> list[ToldAlert]:
        """Returns once a message was taken, with what was told by it. Raises NotTaken: then it may
        have been told all the same."""


class Teller:
    """Tells one channel while we lead. `wake` says that alerts have changed."""

    def __init__(
        self, pool: Pool, leadership: Leadership, statistics: Statistics, channel: str
    ) -> None:
        self.channel = channel
        self._woken = asyncio.Event()
        self._pool = pool
        self._leadership = leadership
        self._statistics = statistics
        statistics.add_channel(channel)

    async def run(self) -> None:
        backoff = Backoff(longest_seconds=LONGEST_BACKOFF_SECONDS)
        while True:
            token = await self._leadership.wait()
            try:
                pause = await self._tell(token)
            except LeaseLost:
                self._leadership.lost()
            except (NotTaken, BrokerUnavailable, *DATABASE_ERRORS) as error:
                pause = backoff.failed()
                if isinstance(error, NotTaken | BrokerUnavailable):
                    self._statistics.count_notification(self.channel, "failed")
                if backoff.is_worth_saying:
                    log.warning("alerts_not_told", channel=self.channel, error=describe(error))
                await asyncio.sleep(pause)
            else:
                backoff = Backoff(longest_seconds=LONGEST_BACKOFF_SECONDS)
                await self._wait(pause)

    def wake(self) -> None:
        self._woken.set()

    async def _wait(self, pause: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._woken.wait()
        self._woken.clear()

    async def _tell(self, token: int) -> float:
        """Tell what is due; the seconds until there may be more, if nothing wakes us."""
        raise NotImplementedError

    async def _mark(self, token: int, told: Sequence[ToldAlert]) -> None:
        """Until all of them are marked. Raises LeaseLost."""
        self._statistics.count_notification(self.channel, "sent")
        for first in range(0, len(told), ROWS_AT_ONCE):
            await self._mark_piece(token, told[first : first + ROWS_AT_ONCE])

    async def _mark_piece(self, token: int, told: Sequence[ToldAlert]) -> None:
        backoff = Backoff()
        while True:
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    await check_lease(connection, LEASE, token)
                    await mark_told(connection, self.channel, told)
            except DATABASE_ERRORS as error:
                pause = backoff.failed()
                if backoff.is_worth_saying:
                    log.warning(
                        "notification_not_marked", channel=self.channel, error=describe(error)
                    )
                await asyncio.sleep(pause)
            else:
                return


class BrokerTeller(Teller):
    """Every change of every alert, silenced or part of another or not: what listens there decides
    for itself."""

    def __init__(
        self, pool: Pool, leadership: Leadership, statistics: Statistics, publish: Publish
    ) -> None:
        super().__init__(pool, leadership, statistics, BROKER)
        self._publish = publish

    async def _tell(self, token: int) -> float:
        async with self._pool.acquire() as connection:
            await check_lease(connection, LEASE, token)
            silences = await read_silences(connection)
            promised = await read_promised(connection, self.channel, silences, limit=ALERTS_AT_ONCE)
        for alert in promised:
            await self._publish(alert_message(alert))
        if promised:
            await self._mark(token, promised)
        return 0 if len(promised) == ALERTS_AT_ONCE else LOOK_EVERY_SECONDS


class ChannelTeller(Teller):
    """`wait_seconds` after the first of them, all that is news goes into one message."""

    def __init__(
        self,
        pool: Pool,
        leadership: Leadership,
        statistics: Statistics,
        channel: Channel,
        *,
        wait_seconds: float,
    ) -> None:
        super().__init__(pool, leadership, statistics, channel.name)
        self._to = channel
        self._wait_seconds = wait_seconds
        self._sent_at: deque[float] = deque(maxlen=channel.per_hour)
        self._is_amid_burst = False

    async def _tell(self, token: int) -> float:
        news, now = await self._read_news(token)
        if not news:
            self._is_amid_burst = False
            return LOOK_EVERY_SECONDS
        if not self._is_amid_burst:
            assert now is not None
            pause = max(self._burst_lasts(news, now), self._limit_lasts())
            if pause > 0:
                return pause
        until = monotonic() + LONGEST_ROUND_SECONDS
        while news and monotonic() < until:
            told = await self._to.tell(news)
            if not self._is_amid_burst:  # what takes several messages to be told counts once
                self._sent_at.append(monotonic())
            await self._mark(token, told)
            log.info("alerts_told", channel=self.channel, alerts=len(told), first=told[0].key)
            ids = {alert.alert_id for alert in told}
            news = [(what, alert) for what, alert in news if alert.alert_id not in ids]
            # What came while several messages were sent belongs to them.
            self._is_amid_burst = bool(news) or self._is_amid_burst
        return 0 if self._is_amid_burst else LOOK_EVERY_SECONDS

    async def _read_news(self, token: int) -> tuple[list[tuple[News, ToldAlert]], datetime | None]:
        """All that is news to this channel, and the database's time; none when there is nothing to
        say."""
        news: list[tuple[News, ToldAlert]] = []
        now, after = None, 0
        async with self._pool.acquire() as connection:
            await check_lease(connection, LEASE, token)
            silences = await read_silences(connection)
            while True:
                found = await read_for_people(
                    connection,
                    self.channel,
                    silences,
                    after=after,
                    limit=ROWS_AT_ONCE,
                    remind_seconds=self._to.remind_seconds,
                )
                for alert, now in found:
                    # What was told hears its end, whatever it was about last.
                    is_wanted = alert.state is AlertState.RESOLVED or self._to.wants(alert)
                    if is_wanted and (
                        what := news_of(alert, now, remind_seconds=self._to.remind_seconds)
                    ):
                        news.append((what, alert))
                if len(found) < ROWS_AT_ONCE:
                    return news, now
                after = found[-1][0].alert_id

    def _burst_lasts(self, news: Sequence[tuple[News, ToldAlert]], now: datetime) -> float:
        """How long more alerts may come that belong to these."""
        first = min(alert.since for _, alert in news)
        return (first + timedelta(seconds=self._wait_seconds) - now).total_seconds()

    def _limit_lasts(self) -> float:
        """How long this channel has had enough."""
        if len(self._sent_at) < self._to.per_hour:
            return 0
        return self._sent_at[0] + 3600 - monotonic()
