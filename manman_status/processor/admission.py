"""The right to say something: by the exchange and routing key of a delivery, and by the processors'
signature.

RabbitMQ decides who may publish to which exchange and, with topic permissions, by which routing
keys. Both come with each delivery and cannot be forged, unlike anything in the body. So the body is
compared with them here: docs/trust.md.
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias, assert_never

import msgspec
import structlog

from manman_status.backoff import OnceAMinute
from manman_status.domain.events import (
    Heartbeat,
    ReportedEvent,
    ServerStarted,
    ServerStatusReported,
    ServerStopped,
    WorkerStatusReported,
    WorkerStopped,
)
from manman_status.errors import PoisonMessage
from manman_status.processor.seal import Seal
from manman_status.wire.control import CONTROL_KEYS, CanaryKind, CanarySent
from manman_status.wire.inbound import Admit, Meaning

log = structlog.get_logger()

Subject: TypeAlias = tuple[str, int]
"""The entity and the id that a routing key begins with."""


class Admission:
    """Decides for each event of one queue whether its sender may say it."""

    def __init__(
        self,
        seal: Seal,
        *,
        queue: str,
        kind: CanaryKind,
        control_exchange: str,
        body_must_match_key: bool,
    ) -> None:
        self._seal = seal
        self._queue = queue
        self._kind = kind
        self._control_exchange = control_exchange
        self._body_must_match_key = body_must_match_key
        self._warning = OnceAMinute()

    def by(self, exchange: str, routing_key: str) -> Admit:
        """The rule for what one message says."""
        return partial(self._admit, exchange, routing_key)

    def _admit(self, exchange: str, routing_key: str, meaning: Meaning) -> Meaning | None:
        if isinstance(meaning, CanarySent):
            return self._true_canary(meaning, routing_key)
        key = CONTROL_KEYS.get(type(meaning))  # type: ignore[arg-type]
        if key is not None:
            self._check_control(exchange, routing_key, key)
        elif exchange == self._control_exchange:
            raise PoisonMessage(f"the exchange {exchange} takes control messages only")
        elif self._body_must_match_key:
            check_key(meaning, routing_key)  # type: ignore[arg-type]
        return meaning

    def _true_canary(self, canary: CanarySent, routing_key: str) -> CanarySent | None:
        """The canary, or None if it is false. A false one is no dead letter: a processor of the
        version before sends canaries without a MAC, and no canary is worth sending again."""
        if self._seal.is_true(self._kind, canary):
            return msgspec.structs.replace(canary, came_by=routing_key)
        if self._warning.is_due():
            log.warning(
                "false_canary_ignored",
                queue=self._queue,
                processor_id=canary.processor_id[:100],
                problem="the MAC is wrong" if canary.mac else "it has no MAC",
                meaning=(
                    "an older processor still runs, or somebody forges canaries; it proves nothing"
                ),
            )
        return None

    def _check_control(self, exchange: str, routing_key: str, key: str) -> None:
        if exchange != self._control_exchange:
            raise PoisonMessage(
                f"a control message is taken from the exchange {self._control_exchange} only"
            )
        if routing_key != key:
            raise PoisonMessage(f"this control message is taken with the routing key {key} only")


def check_key(event: ReportedEvent, routing_key: str) -> None:
    """Raise PoisonMessage unless the routing key names what the event is about."""
    entity, _, rest = routing_key.partition(".")
    named = rest.partition(".")[0]
    match event:
        case Heartbeat() | WorkerStopped() | WorkerStatusReported():
            subjects = [("worker", event.worker_id)]
        case ServerStopped(worker_id=None) | ServerStatusReported():
            subjects = [("game_server_instance", event.instance_id)]
        case ServerStarted() | ServerStopped():
            assert event.worker_id is not None
            subjects = [("game_server_instance", event.instance_id), ("worker", event.worker_id)]
        case _:
            assert_never(event)
    if not any(entity == kind and named == str(number) for kind, number in subjects):
        about = " and ".join(f"{kind} {number}" for kind, number in subjects)
        raise PoisonMessage(
            f"the event is about {about}, the routing key is not: body_must_match_key is on"
        )
