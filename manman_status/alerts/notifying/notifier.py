"""Notify people and programs of alerts: each channel by itself, at least once.

A channel that fails is tried again, less and less often, and keeps no other waiting. Changes that
happen meanwhile go into its next message, which says how things are then, not each step.

No transaction is open while a channel is waited for. An alert is marked only after the channel has
taken it, in pieces, and a mark that fails is tried again instead of the message: only a leader that
ends in between leaves a message to be sent twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Protocol

import structlog

from manman_status.alerts.notifying.due import News, due_notification
from manman_status.alerts.notifying.notifications import (
    BROKER,
    mark_notified,
    read_for_people,
    read_promised,
)
from manman_status.alerts.silences import read_silences
from manman_status.backoff import Backoff
from manman_status.domain.alert import AlertState, NotifiedAlert
from manman_status.errors import BrokerUnavailable, ManManStatusError, describe
from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.store.pool import DATABASE_ERRORS
from manman_status.wire.outbound import Publish, alert_message

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 5.0
"""The pause when nothing wakes us: silences end, reminders are due and other processors store
acknowledgements without a signal."""
LONGEST_BACKOFF_SECONDS = 300.0
ALERTS_AT_ONCE = 200
ROWS_AT_ONCE = 1_000
"""The rows of one statement: it takes far less time than the database gives a hanging
transaction."""
LONGEST_ROUND_SECONDS = 5.0
"""The time for which alerts are sent one by one before they are read again."""


class NotTaken(ManManStatusError):  # noqa: N818
    """{reason}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason=reason)


class Channel(Protocol):
    """A place where people are notified. Marks are kept under its `name`, which stays the same as
    long as the place does."""

    name: str
    remind_seconds: float
    per_hour: int

    def wants(self, alert: NotifiedAlert) -> bool: ...

    async def notify(self, news: Sequence[tuple[News, NotifiedAlert]]) -> list[NotifiedAlert]:
        """Send one message, and return the alerts it covers. Raises NotTaken: then it may have
        arrived all the same."""


class Counts(Protocol):
    """The counter of notifications by channel and outcome, `sent` or `failed`."""

    def add_channel(self, channel: str) -> None: ...

    def count_notification(self, channel: str, outcome: str) -> None: ...


class Notifier(LeaderTask):
    """Notifies one channel, and does so at once when alerts that have changed wake it."""

    failure_event = "notification_failed"
    faults = (NotTaken, BrokerUnavailable, *DATABASE_ERRORS)
    longest_backoff_seconds = LONGEST_BACKOFF_SECONDS

    def __init__(self, leadership: Leadership, counts: Counts, channel: str) -> None:
        super().__init__(leadership)
        self.channel = channel
        self._counts = counts
        counts.add_channel(channel)

    async def round(self, term: Term) -> float:
        try:
            # A task that rests for longer is taken for stuck.
            return min(await self._notify(term), LONGEST_BACKOFF_SECONDS)
        except (NotTaken, BrokerUnavailable):
            self._counts.count_notification(self.channel, "failed")
            raise

    def failure_fields(self) -> dict[str, object]:
        return {"channel": self.channel}

    async def _notify(self, term: Term) -> float:
        """Send what is due; the seconds until there may be more, if nothing wakes us."""
        raise NotImplementedError

    async def _mark(self, term: Term, sent: Sequence[NotifiedAlert]) -> None:
        """Mark all of them, trying again until it is done. Raises LeaseLost."""
        self._counts.count_notification(self.channel, "sent")
        for first in range(0, len(sent), ROWS_AT_ONCE):
            await self._mark_piece(term, sent[first : first + ROWS_AT_ONCE])

    async def _mark_piece(self, term: Term, sent: Sequence[NotifiedAlert]) -> None:
        backoff = Backoff()
        while True:
            try:
                async with term.transaction() as connection:
                    await mark_notified(connection, self.channel, sent)
            except DATABASE_ERRORS as error:
                pause = backoff.failed()
                if backoff.is_worth_saying:
                    log.warning(
                        "notification_not_marked", channel=self.channel, error=describe(error)
                    )
                await asyncio.sleep(pause)
            else:
                return


class BrokerNotifier(Notifier):
    """Publishes every change of every alert, silenced or part of another or not: listeners decide
    for themselves."""

    def __init__(self, leadership: Leadership, counts: Counts, publish: Publish) -> None:
        super().__init__(leadership, counts, BROKER)
        self._publish = publish

    async def _notify(self, term: Term) -> float:
        async with term.transaction() as connection:
            silences = await read_silences(connection)
            promised = await read_promised(connection, self.channel, silences, limit=ALERTS_AT_ONCE)
        for alert in promised:
            await self._publish(alert_message(alert))
        if promised:
            await self._mark(term, promised)
        return 0 if len(promised) == ALERTS_AT_ONCE else LOOK_EVERY_SECONDS


class ChannelNotifier(Notifier):
    """Sends all news in one message, `wait_seconds` after the first of them."""

    def __init__(
        self,
        leadership: Leadership,
        counts: Counts,
        channel: Channel,
        *,
        wait_seconds: float,
    ) -> None:
        super().__init__(leadership, counts, channel.name)
        self._to = channel
        self._wait_seconds = wait_seconds
        self._sent_at: deque[float] = deque(maxlen=channel.per_hour)
        self._is_amid_burst = False

    async def _notify(self, term: Term) -> float:
        news, now = await self._read_news(term)
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
            sent = await self._to.notify(news)
            if not self._is_amid_burst:  # several messages for the same news count once
                self._sent_at.append(monotonic())
            await self._mark(term, sent)
            log.info("notification_sent", channel=self.channel, alerts=len(sent), first=sent[0].key)
            ids = {alert.alert_id for alert in sent}
            news = [(what, alert) for what, alert in news if alert.alert_id not in ids]
            # News that came while several messages were sent belong to them.
            self._is_amid_burst = bool(news) or self._is_amid_burst
        return 0 if self._is_amid_burst else LOOK_EVERY_SECONDS

    async def _read_news(
        self, term: Term
    ) -> tuple[list[tuple[News, NotifiedAlert]], datetime | None]:
        """All news for this channel, and the database's time; None without any alert."""
        news: list[tuple[News, NotifiedAlert]] = []
        now, after = None, 0
        async with term.connection() as connection:
            async with term.transaction(connection):
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
                    # A channel that was notified gets the end, whatever the alert was last.
                    is_wanted = alert.state is AlertState.RESOLVED or self._to.wants(alert)
                    if is_wanted and (
                        what := due_notification(alert, now, remind_seconds=self._to.remind_seconds)
                    ):
                        news.append((what, alert))
                if len(found) < ROWS_AT_ONCE:
                    return news, now
                after = found[-1][0].alert_id

    def _burst_lasts(self, news: Sequence[tuple[News, NotifiedAlert]], now: datetime) -> float:
        """The seconds in which more alerts may come that belong to these."""
        first = min(alert.since for _, alert in news)
        return (first + timedelta(seconds=self._wait_seconds) - now).total_seconds()

    def _limit_lasts(self) -> float:
        """The seconds for which this channel is at its limit of messages an hour."""
        if len(self._sent_at) < self._to.per_hour:
            return 0
        return self._sent_at[0] + 3600 - monotonic()
