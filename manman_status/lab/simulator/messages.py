"""Reports as the fleet hands them on: with what a worker says by them, for whoever keeps the
truth."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from manman_status.reporter.messages import Report


class Said(StrEnum):
    BEGUN = "begun"
    BEAT = "beat"
    ENDED = "ended"
    SERVER_BEGUN = "server_begun"
    SERVER_ENDED = "server_ended"


SIGNS_OF_LIFE = frozenset({Said.BEGUN, Said.BEAT})


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """`life` counts the worker's incarnations, `number` all its messages; both from 1."""

    report: Report
    said: Said
    worker_id: int
    life: int
    number: int
    instance_id: int = 0
    exit_code: int = 0
