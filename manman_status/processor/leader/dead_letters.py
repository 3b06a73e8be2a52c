"""Dead letters: safe in the database first, on the broker's queue after that.

A message that nobody can understand is stored in the transaction that stores its batch, so one
acknowledgement settles the whole batch: every message of it is committed, as rows or as letters.
The leader moves the letters to the dead-letter queue and removes each once the broker has confirmed
it. So a queue that is missing, full or unreachable costs nothing but waiting, and holds up no good
message. A letter may reach the queue twice, under one id.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.processor.statistics import Statistics
from manman_status.store.dead_letters import oldest_letters, read_outbox, remove_letters

LONGEST_BODY_BYTES = 1024 * 1024
"""A longer body breaks the contract: a letter keeps its beginning."""
KEPT_OF_LONGER_BYTES = 64 * 1024
LONGEST_HEADERS_BYTES = 32 * 1024
"""All headers of a message travel in one AMQP frame of 128 KiB: longer ones, and our own beside
them, might not fit."""
AT_ONCE = 200
AT_ONCE_BYTES = 8 * 1024 * 1024
POLL_SECONDS = 0.5
HOUR_SECONDS = 3_600.0
MOST_SENDERS = 10_000


class Letter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event that was refused, with all that is needed to look at it and to send it again.

    `repeats` counts the letters of the same cause and sender that were only counted since the one
    before.
    """

    body: bytes
    error: str
    queue: str
    exchange: str | None
    routing_key: str
    headers: dict[str, Any] = {}
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    type: str | None = None
    app_id: str | None = None
    traceparent: str | None = None
    repeats: int = 0


_decode = msgspec.msgpack.Decoder(Letter).decode


def pack(letter: Letter) -> tuple[uuid.UUID, bytes]:
    """The letter's id and its bytes. Headers that cannot be written down are left out."""
    if len(letter.body) > LONGEST_BODY_BYTES:
        letter = msgspec.structs.replace(
            letter,
            body=letter.body[:KEPT_OF_LONGER_BYTES],
            error=f"{letter.error} (this is the beginning of {len(letter.body)} bytes)",
        )
    try:
        fits = len(msgspec.msgpack.encode(letter.headers)) <= LONGEST_HEADERS_BYTES
    except Exception:  # noqa: BLE001 - a stranger's headers may hold anything, nested as deep as they like
        fits = False
    return uuid.uuid4(), msgspec.msgpack.encode(
        letter if fits else msgspec.structs.replace(letter, headers={})
    )


class Sampler:
    """Decides which dead letters of one queue are kept whole, and which are only counted.

    Kept in an hour are `of_one` letters for one cause and sender, and `in_all` letters or
    `in_all_bytes` altogether: a faulty version of a worker, or an attacker, fills neither the queue
    nor the disk.
    """

    def __init__(self, *, of_one: int, in_all: int, in_all_bytes: int) -> None:
        self._of_one = of_one
        self._in_all = in_all
        self._in_all_bytes = in_all_bytes
        self._hour_ends = float("-inf")
        self._kept: dict[tuple[str, str], int] = {}
        self._counted: dict[tuple[str, str], int] = {}
        self._letters = 0
        self._bytes = 0

    def keep(self, cause: str, sender: str, size: int, *, now: float) -> int | None:
        """Count one letter of so many bytes. None when it is only counted; else the number that was
        only counted since the last that was kept. `now` is in seconds, of a clock that never goes
        back."""
        if now >= self._hour_ends:
            self._hour_ends = now + HOUR_SECONDS
            self._kept.clear()
            self._letters = self._bytes = 0
        key = (cause, sender)
        if key not in self._kept and len(self._kept) >= MOST_SENDERS:
            key = (cause, "")
        full = self._letters >= self._in_all or self._bytes + size > self._in_all_bytes
        if full or self._kept.get(key, 0) >= self._of_one:
            if key in self._counted or len(self._counted) < MOST_SENDERS:
                self._counted[key] = self._counted.get(key, 0) + 1
            return None
        self._kept[key] = self._kept.get(key, 0) + 1
        self._letters += 1
        self._bytes += size
        return self._counted.pop(key, 0)


class DeadLetterRelay(LeaderTask):
    """Moves letters from the outbox to the dead-letter queue. A letter is removed without a check
    of the lease: it is confirmed, whichever processor removes it."""

    failure_event = "dead_letters_not_moved"
    recovery_event = "dead_letters_move_again"

    def __init__(
        self,
        leadership: Leadership,
        send: Callable[[uuid.UUID, Letter], Awaitable[None]],
        statistics: Statistics,
    ) -> None:
        super().__init__(leadership)
        self._send = send
        self._statistics = statistics

    def stand_by(self) -> None:
        self._statistics.dead_letters_unsent = None

    def failure_fields(self) -> dict[str, object]:
        return {
            "waiting": self._statistics.dead_letters_unsent,
            "meaning": "they are safe in the database and are sent when the queue takes them",
        }

    async def round(self, term: Term) -> float:
        """Send the oldest letters and remove those that are confirmed. Raises BrokerUnavailable."""
        async with term.connection() as connection:
            self._statistics.dead_letters_unsent = (await read_outbox(connection)).letters
            if not self._statistics.dead_letters_unsent:
                return POLL_SECONDS
            packed = await oldest_letters(connection, limit=AT_ONCE, max_bytes=AT_ONCE_BYTES)
        answers = await asyncio.gather(
            *(self._send(letter_id, _decode(letter)) for letter_id, letter in packed),
            return_exceptions=True,
        )
        sent = [
            letter_id
            for (letter_id, _), answer in zip(packed, answers, strict=True)
            if answer is None
        ]
        if sent:
            async with term.connection() as connection:
                await remove_letters(connection, sent)
            self._statistics.dead_letters_unsent -= len(sent)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return 0
