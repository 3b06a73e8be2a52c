"""Signing canaries, so that only a processor of this database can send one that counts."""

from __future__ import annotations

import hmac
from datetime import datetime

import msgspec

from manman_status.wire.notices import CanarySent, canary_mac


class Seal:
    """Signs and checks canaries with the secret of the database. Without it every canary is false."""

    def __init__(self) -> None:
        self._secret: bytes | None = None

    def use(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, queue: str, processor_id: str, sent_at: datetime) -> str:
        """Empty without the secret: then nobody believes the canary."""
        return "" if self._secret is None else canary_mac(self._secret, queue, processor_id, sent_at)

    def is_true(self, queue: str, canary: CanarySent) -> bool:
        """True when a processor sent this canary through this queue."""
        mac = self.sign(queue, canary.processor_id, canary.sent_at)
        return bool(mac) and hmac.compare_digest(mac.encode(), canary.mac.encode())

    def own_canary(self, queue: str, processor_id: str, sent_at: datetime) -> bytes:
        """The body of a canary for the processor's own `queue`."""
        return msgspec.json.encode((sent_at, self.sign(queue, processor_id, sent_at)))

    def open_own_canary(self, queue: str, processor_id: str, body: bytes) -> datetime | None:
        """When our own canary was sent; None for what somebody else put into our own `queue`."""
        try:
            sent_at, mac = msgspec.json.decode(body, type=tuple[datetime, str])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return sent_at if self.is_true(queue, CanarySent(sent_at, processor_id, mac)) else None
