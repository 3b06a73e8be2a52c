"""The inbound queues of all dialects, as data: how messages come into each, and how they are read.

ManMan's own dialect has two kinds of queue, since heartbeats may be dropped and lifecycle events
may not: each event says its place in the order. V2's messages do not, so all of them share one
queue.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from manman_status.wire import inbound, manman_v2
from manman_status.wire.control import CANARY_KEYS, CanaryKind
from manman_status.wire.inbound import Admit, Decoded
from manman_status.wire.topology import HEARTBEAT_KEYS, LIFECYCLE_KEYS, V2_KEYS, Topology


class Decode(Protocol):
    """Decodes one message, and never raises."""

    def __call__(
        self,
        body: bytes,
        admit: Admit | None = None,
        *,
        routing_key: str = "",
        content_encoding: str | None = None,
        content_type: str | None = None,
    ) -> Decoded: ...


class Entrance(msgspec.Struct, frozen=True, kw_only=True):
    """The way into an inbound queue: the exchange, the keys that are bound, and the key by which a
    canary takes one of these bindings. `is_transient`: it holds heartbeats alone. `checks_keys`:
    its decoder compares body and routing key itself."""

    kind: CanaryKind
    exchange: str
    keys: tuple[str, ...]
    canary_key: str
    decode: Decode
    is_transient: bool = False
    checks_keys: bool = False


def entrance_of(topology: Topology, queue: str) -> Entrance:
    if queue == topology.v2:
        return Entrance(
            kind="manman-v2",
            exchange=topology.v2_exchange,
            keys=V2_KEYS,
            canary_key=manman_v2.CANARY_KEY,
            decode=manman_v2.decode,
            checks_keys=True,
        )
    is_transient = topology.holds_heartbeats(queue)
    kind: CanaryKind = "heartbeats" if is_transient else "lifecycle"
    return Entrance(
        kind=kind,
        exchange=topology.inbound_exchange,
        keys=HEARTBEAT_KEYS if is_transient else LIFECYCLE_KEYS,
        canary_key=CANARY_KEYS[kind],
        decode=inbound.decode,
        is_transient=is_transient,
    )


def inbound_exchanges(topology: Topology) -> list[str]:
    """The exchanges that the dialects' senders publish to, each once."""
    exchanges = (entrance_of(topology, queue).exchange for queue in topology.queues(1))
    return [*dict.fromkeys(exchanges)]
