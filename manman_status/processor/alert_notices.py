"""A person's word about alerts, workers and server instances, taken within a batch as any other
message: stored with it, and only once. What changes nothing is not logged: whoever repeats it must
not fill the log."""

from __future__ import annotations

from typing import assert_never

import structlog

from manman_status.domain.rows import Transition
from manman_status.store.alerts import acknowledge_alert
from manman_status.store.forgetting import forget_instance, forget_worker
from manman_status.store.pool import Connection
from manman_status.store.silences import add_silence, end_silence
from manman_status.wire.control import (
    AlertAcknowledged,
    ForgetRequested,
    SilenceEnded,
    SilenceRequested,
)

log = structlog.get_logger()


async def take_alert_notice(
    connection: Connection, notice: SilenceRequested | SilenceEnded | AlertAcknowledged
) -> None:
    match notice:
        case SilenceRequested():
            is_new = await add_silence(
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
            if is_new:
                log.info(
                    "alerts_silenced",
                    silence_id=notice.silence_id,
                    seconds=notice.seconds,
                    by=notice.by,
                )
        case SilenceEnded():
            if await end_silence(connection, notice.silence_id):
                log.info("silence_ended", silence_id=notice.silence_id)
        case AlertAcknowledged():
            if await acknowledge_alert(connection, notice.alert_id, by=notice.by, why=notice.why):
                log.info("alert_acknowledged", alert_id=notice.alert_id, by=notice.by)
        case _:
            assert_never(notice)


async def take_forget(connection: Connection, notice: ForgetRequested) -> list[Transition]:
    """The ends of what had none."""
    evidence = {name: value for name in ("by", "why") if (value := getattr(notice, name))}
    if notice.worker_id is not None:
        ends = await forget_worker(connection, notice.worker_id, evidence)
    else:
        assert notice.instance_id is not None
        ends = await forget_instance(connection, notice.instance_id, evidence)
    if ends is None:
        return []
    log.info("forgotten", worker_id=notice.worker_id, instance_id=notice.instance_id, by=notice.by)
    return ends
