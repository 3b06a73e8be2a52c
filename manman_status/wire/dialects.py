"""The inbound queues of all dialects, as data: how messages come into each, and how they are read.

ManMan's own dialect has two kinds of queue, since heartbeats may be dropped and lifecycle events
may not: each event says its place in the order. V2's messages do not, so all of them share one
queue.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from manman_status.wire import inbound, manman_v2
from manman_status.wire.control import CanaryKind, canary_key
from manman_status.wire.inbound import Admit, Decoded
from manman_status.wire.topology import V2_KEYS, Topology


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
    """The way into an inbound queue: the exchange, the keys that are bound, and the one of them by
    whose binding a canary comes. `is_transient`: it holds heartbeats alone. `checks_keys`: its
    decoder compares body and routing key itself."""

    kind: CanaryKind
    exchange: str
    keys: tuple[str, ...]
    proven_key: str
    decode: Decode
    is_transient: bool = False
    checks_keys: bool = False

    @property
    def canary_key(self) -> str:
        return canary_key(self.proven_key)


def entrance_of(topology: Topology, queue: str) -> Entrance:
    if queue == topology.v2:
        return Entrance(
            kind="manman-v2",
            exchange=topology.v2_exchange,
            keys=V2_KEYS,
            proven_key=V2_KEYS[-1],
            decode=manman_v2.decode,
            checks_keys=True,
        )
    is_transient = topology.holds_heartbeats(queue)
    keys = topology.heartbeat_keys if is_transient else topology.lifecycle_keys
    return Entrance(
        kind="heartbeats" if is_transient else "lifecycle",
        exchange=topology.inbound_exchange,
        keys=keys,
        proven_key=keys[0],
        decode=inbound.decode,
        is_transient=is_transient,
    )


def inbound_exchanges(topology: Topology) -> list[str]:
    """The exchanges that the dialects' senders publish to, each once."""
    exchanges = (entrance_of(topology, queue).exchange for queue in topology.queues(1))
    return [*dict.fromkeys(exchanges)]
