"""The tokens that open the api, known by their digests alone, and the cookies that stand for one.

A cookie is the time at which it ends and an HMAC of that time, whose key is the token's digest: all
processes of all apis with this token know it without a common store, it ends by itself, and whoever
gets hold of it has no token.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections import Counter
from collections.abc import Iterable

LONGEST = 4096
COOKIE_VALUE = re.compile(rb"([0-9]{1,12})\.([0-9a-f]{64})")


class Tokens:
    """`for_metrics`: these open `/metrics` and nothing else."""

    def __init__(self, tokens: Iterable[str], *, for_metrics: Iterable[str] = ()) -> None:
        self._digests = [_digest(token.encode()) for token in tokens]
        self._metrics_digests = [_digest(token.encode()) for token in for_metrics]

    @property
    def are_needed(self) -> bool:
        """False if there are no tokens: then everyone may read."""
        return bool(self._digests or self._metrics_digests)

    def accept(self, token: bytes, *, for_metrics: bool = False) -> bool:
        if len(token) > LONGEST:
            return False
        accepted = [*self._digests, *self._metrics_digests] if for_metrics else self._digests
        # Digests have one length, and all are compared: the time taken shows nothing about any
        # token.
        found = [hmac.compare_digest(_digest(token), digest) for digest in accepted]
        return any(found)

    def cookie(self, token: bytes, *, seconds: int) -> str:
        """Its value, good for so long."""
        until = b"%d" % (time.time() + seconds)
        return f"{until.decode()}.{_seal(_digest(token), until)}"

    def accept_cookie(self, value: bytes) -> bool:
        if not (match := COOKIE_VALUE.fullmatch(value)) or int(match[1]) < time.time():
            return False
        found = [
            hmac.compare_digest(_seal(digest, match[1]).encode(), match[2])
            for digest in self._digests
        ]
        return any(found)


class SignInLimit:
    """Wrong tokens within a minute: so many of one address, and so many in all. Of each process by
    itself."""

    def __init__(self, *, of_one: int = 10, of_all: int = 100) -> None:
        self._of_one = of_one
        self._of_all = of_all
        self._minute = 0
        self._failed = Counter[str]()

    def allows(self, address: str) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._failed.clear()
        return self._failed[address] < self._of_one and self._failed.total() < self._of_all

    def failed(self, address: str) -> None:
        self._failed[address] += 1


def _seal(digest: bytes, until: bytes) -> str:
    return hmac.new(digest, b"cookie until " + until, hashlib.sha256).hexdigest()


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
