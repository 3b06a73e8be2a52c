"""The names on the broker, as data. `processor/broker/declare.py` declares them; senders need the
exchanges' names only."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta

HEARTBEAT_KEYS = ("worker.*.heartbeat",)
LIFECYCLE_KEYS = (
    "worker.*.lifecycle",
    "game_server_instance.*.lifecycle",
    "worker.*.status",
    "game_server_instance.*.status",
)
V2_KEYS = ("status.session.*", "*.host.*")
"""Keys of ManMan V2's sessions, and of what its hosts report: `status.host.7`, `health.host.7`. The
canary comes by the second, which is bound last: V2's own processor takes `health.#` and would
complain of a canary that came by that."""
MANMAN: Final = "manman"
MANMAN_V2: Final = "manman-v2"
DIALECTS = (MANMAN, MANMAN_V2)
MOST_PARTITIONS = 64
DROPPED_KEY = "heartbeats.dropped"
"""Routing key of dropped heartbeats, on the control exchange."""
DROPPED_TTL_SECONDS = 15
"""The time for which the broker keeps the sign that it dropped heartbeats."""
HEARTBEAT_MAX_BYTES = 256 * 1024 * 1024

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255)]
HeartbeatKeys: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(
        description="manman: patterns of the routing keys of heartbeats, separated by commas, with"
        " a * where the id stands. The first is the canaries' too. This program's own senders use"
        " the default.",
        extra_json_schema={"type": "string"},
    ),
]
LifecycleKeys: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(
        description="manman: such patterns of all else. With `MANMAN_STATUS_BODY_MUST_MATCH_KEY` a"
        " key begins `worker.<id>` or `game_server_instance.<id>`.",
        extra_json_schema={"type": "string"},
    ),
]
Dialects: TypeAlias = Annotated[
    tuple[str, ...],
    Meta(
        description="The systems whose messages are read, separated by commas: manman (workers,"
        " this program's reporter and commands), manman-v2 (hosts of ManMan V2: docs/manman-v2.md)."
        " The processor that starts last decides.",
        extra_json_schema={"type": "string", "pattern": "^manman(-v2)?([, ]+manman(-v2)?)*$"},
    ),
]


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """The names and limits on the broker. All of them are settings: `Settings` is a `Topology`.

    Queues are numbered: their names begin with `heartbeat_queue` and `lifecycle_queue`. Versions
    that had one queue of each, without a number and without a single active consumer, called it by
    that name.
    """

    inbound_exchange: Annotated[Name, Meta(description="Exchange that workers publish to.")] = (
        "internal_service_events"
    )
    heartbeat_keys: HeartbeatKeys = HEARTBEAT_KEYS
    lifecycle_keys: LifecycleKeys = LIFECYCLE_KEYS
    dialects: Dialects = (MANMAN,)
    v2_exchange: Annotated[
        Name, Meta(description="manman-v2: exchange that its hosts publish to.")
    ] = "manman"
    v2_queue: Annotated[
        Name,
        Meta(
            description="manman-v2: the name of the queue for all that its hosts publish begins"
            " with this: .0 follows."
        ),
    ] = "manman.status.v2"
    outbound_exchange: Annotated[
        Name, Meta(description="Exchange that state changes are republished to.")
    ] = "external_service_events"
    control_exchange: Annotated[
        Name,
        Meta(
            description="Exchange for operators' commands (`silence`, `alerts ack`,"
            " `guard release`). Workers need no right to it."
        ),
    ] = "manman.status.control"
    dead_letter_exchange: Annotated[
        Name, Meta(description="Exchange for messages that cannot be understood.")
    ] = "manman.status.dead"
    dead_letter_queue: Annotated[
        Name, Meta(description="Queue for messages that cannot be understood.")
    ] = "manman.status.dead"
    heartbeat_queue: Annotated[
        Name,
        Meta(
            description="The names of the queues for heartbeats begin with this: .0, .1 … follow."
        ),
    ] = "manman.status.heartbeats"
    lifecycle_queue: Annotated[
        Name,
        Meta(
            description="The name of the queue for everything that must not be lost begins with"
            " this: .0 follows."
        ),
    ] = "manman.status.lifecycle"
    dropped_queue: Annotated[
        Name, Meta(description="Queue in which RabbitMQ notes that it dropped heartbeats.")
    ] = "manman.status.dropped"
    hash_exchange: Annotated[
        Name,
        Meta(
            description="Exchange that spreads heartbeats over their queues when there are several."
        ),
    ] = "manman.status.heartbeats"
    heartbeat_ttl_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=86_400,
            description="Heartbeats older than this are dropped, in seconds. RabbitMQ refuses a"
            " change of this or of the next two while the queue exists.",
        ),
    ] = 60
    heartbeat_max_length: Annotated[
        int,
        Meta(
            ge=1_000,
            le=100_000_000,
            description="Most heartbeats in a queue. Beyond that the oldest are dropped.",
        ),
    ] = 200_000
    lifecycle_delivery_limit: Annotated[
        int,
        Meta(
            ge=5,
            le=1_000_000,
            description="Failed deliveries of one lifecycle message until it becomes a dead"
            " letter.",
        ),
    ] = 100

    def queues(self, partitions: int) -> list[str]:
        """The queues that are read when heartbeats are spread over so many: the heartbeat queues,
        then the lifecycle queue, then that of another dialect."""
        queues = [f"{self.heartbeat_queue}.{number}" for number in range(partitions)]
        queues = [*queues, self.lifecycle] if MANMAN in self.dialects else []
        return [*queues, self.v2] if MANMAN_V2 in self.dialects else queues

    @property
    def lifecycle(self) -> str:
        """The one lifecycle queue: its messages keep their order."""
        return f"{self.lifecycle_queue}.0"

    @property
    def v2(self) -> str:
        """The one queue for ManMan V2: heartbeats and all else keep their order."""
        return f"{self.v2_queue}.0"

    @property
    def control_queue(self) -> str:
        """The queue for what operators send."""
        return self.lifecycle if MANMAN in self.dialects else self.v2

    def partition_of(self, queue: str) -> int | None:
        """The number of this heartbeat queue; None for any other queue."""
        number = queue.removeprefix(f"{self.heartbeat_queue}.")
        return int(number) if number != queue and number.isdecimal() else None

    def holds_heartbeats(self, queue: str) -> bool:
        return queue == self.heartbeat_queue or self.partition_of(queue) is not None

    @property
    def heartbeat_arguments(self) -> dict[str, Any]:
        """Arguments of a transient queue: an old heartbeat is worth nothing, so it expires, and a
        full queue drops its oldest. Both reach the dropped queue."""
        return {
            "x-single-active-consumer": True,
            "x-dead-letter-exchange": self.control_exchange,
            "x-dead-letter-routing-key": DROPPED_KEY,
            "x-message-ttl": self.heartbeat_ttl_seconds * 1000,
            "x-max-length": self.heartbeat_max_length,
            "x-max-length-bytes": HEARTBEAT_MAX_BYTES,
            "x-overflow": "drop-head",
        }

    @property
    def lifecycle_arguments(self) -> dict[str, Any]:
        """Arguments of a durable queue: a message that exceeds the delivery limit reaches the
        dead-letter queue at least once."""
        return {
            "x-single-active-consumer": True,
            "x-dead-letter-exchange": self.dead_letter_exchange,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": self.lifecycle_delivery_limit,
        }

    @property
    def dropped_arguments(self) -> dict[str, Any]:
        """Arguments of a queue that keeps one message: a sign that heartbeats were dropped lately.
        It is only counted, never consumed: a consumer that hung with it would hide it from all
        others."""
        return {
            "x-max-length": 1,
            "x-overflow": "drop-head",
            "x-message-ttl": DROPPED_TTL_SECONDS * 1000,
        }

    @property
    def dead_letter_arguments(self) -> dict[str, Any]:
        """Arguments of the dead-letter queue. To look at a letter is a delivery too, and RabbitMQ 4
        would drop it at the twentieth."""
        return {"x-delivery-limit": 1_000_000_000}


def worker_heartbeat_key(worker_id: int) -> str:
    return f"worker.{worker_id}.heartbeat"


def worker_lifecycle_key(worker_id: int) -> str:
    return f"worker.{worker_id}.lifecycle"


def instance_lifecycle_key(instance_id: int) -> str:
    return f"game_server_instance.{instance_id}.lifecycle"
