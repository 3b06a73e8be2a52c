"""Signing canaries, so that only a processor of this database can send one that counts."""

from __future__ import annotations

import hmac
from datetime import datetime

import msgspec

from manman_status.wire.control import CanaryKind, CanarySent, canary_mac, control_message


class Seal:
    """Signs and checks canaries with the secret of the database. Without it every canary is
    false."""

    def __init__(self) -> None:
        self._secret: bytes | None = None

    def use(self, secret: bytes) -> None:
        self._secret = secret

    def signed_canary(
        self, kind: CanaryKind, processor_id: str, sent_at: datetime, clock_steps: int
    ) -> bytes:
        """Make a canary's message. Without the secret it has no signature, and no processor
        believes it."""
        canary = CanarySent(sent_at, processor_id, clock_steps=clock_steps)
        return control_message(msgspec.structs.replace(canary, mac=self._mac(kind, canary)))

    def is_true(self, kind: CanaryKind, canary: CanarySent) -> bool:
        """True when a processor sent this canary through a queue of this kind."""
        mac = self._mac(kind, canary)
        return bool(mac) and hmac.compare_digest(mac.encode(), canary.mac.encode())

    def _mac(self, kind: CanaryKind, canary: CanarySent) -> str:
        return "" if self._secret is None else canary_mac(self._secret, kind, canary)
