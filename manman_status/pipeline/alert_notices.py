"""A person's word about alerts, taken within a batch as any other message: stored with it, and only once."""

from __future__ import annotations

from typing import assert_never

import structlog

from manman_status.store.alerts import acknowledge_alert
from manman_status.store.pool import Connection
from manman_status.store.silences import add_silence, end_silence
from manman_status.wire.notices import AlertAcknowledged, SilenceAsked, SilenceEnded

log = structlog.get_logger()


async def take_alert_notice(connection: Connection, notice: SilenceAsked | SilenceEnded | AlertAcknowledged) -> None:
    match notice:
        case SilenceAsked():
            await add_silence(
                connection,
                notice.silence_id,
                seconds=notice.seconds,
                by=notice.by,
                why=notice.why,
                group=notice.group,
                worker_id=notice.worker_id,
                rule=notice.rule,
                labels=notice.labels,
            )
            log.info("alerts_silenced", silence_id=notice.silence_id, seconds=notice.seconds, by=notice.by)
        case SilenceEnded():
            ended = await end_silence(connection, notice.silence_id)
            log.info("silence_ended", silence_id=notice.silence_id, lasted=ended)
        case AlertAcknowledged():
            taken = await acknowledge_alert(connection, notice.alert_id, by=notice.by, why=notice.why)
            log.info("alert_acknowledged", alert_id=notice.alert_id, by=notice.by, was_open=taken)
        case _:
            assert_never(notice)
