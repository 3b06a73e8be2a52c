"""Control messages about alerts, taken within a batch as any other message: stored with it, and
only once. A message that changes nothing is not logged, so that repeats do not fill the log."""

from __future__ import annotations

from typing import assert_never

import structlog

from manman_status.alerts.judging.rows import acknowledge_alert
from manman_status.alerts.silences import add_silence, end_silence
from manman_status.store.pool import Connection
from manman_status.wire.control import AlertAcknowledged, SilenceEnded, SilenceRequested

log = structlog.get_logger()


async def take_alert_message(
    connection: Connection, message: SilenceRequested | SilenceEnded | AlertAcknowledged
) -> None:
    match message:
        case SilenceRequested():
            is_new = await add_silence(
                connection,
                message.silence_id,
                seconds=message.seconds,
                by=message.by,
                why=message.why,
                group=message.group,
                worker_id=message.worker_id,
                rule=message.rule,
                labels=message.labels,
            )
            if is_new:
                log.info(
                    "alerts_silenced",
                    silence_id=message.silence_id,
                    seconds=message.seconds,
                    by=message.by,
                )
        case SilenceEnded():
            if await end_silence(connection, message.silence_id):
                log.info("silence_ended", silence_id=message.silence_id)
        case AlertAcknowledged():
            if await acknowledge_alert(
                connection, message.alert_id, by=message.by, why=message.why
            ):
                log.info("alert_acknowledged", alert_id=message.alert_id, by=message.by)
        case _:
            assert_never(message)
