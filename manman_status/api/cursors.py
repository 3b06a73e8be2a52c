"""Cursors of lists. A cursor is refused unless it is ours, unaltered, and of the same list with the
same filters."""

from __future__ import annotations

import base64
import hashlib
import struct
from typing import Any

import msgspec

from manman_status.api.errors import InvalidParameter
from manman_status.api.parameters import LARGEST_ID

VERSION = 1
LAYOUT = struct.Struct(">BQ7s")
FROM_THE_START = 0


def write_cursor(kind: str, filters: msgspec.Struct, last_id: int) -> str:
    return base64.urlsafe_b64encode(
        LAYOUT.pack(VERSION, last_id, _checksum(kind, filters, last_id))
    )[:-2].decode()


def read_cursor(cursor: str | None, kind: str, filters: msgspec.Struct) -> int:
    """The id after which to go on. Raises InvalidParameter for a cursor of another list, or altered
    in any bit."""
    if cursor is None:
        return FROM_THE_START
    try:
        _, last_id, _ = LAYOUT.unpack(base64.urlsafe_b64decode(f"{cursor}=="))
    except (ValueError, struct.error):
        last_id = FROM_THE_START
    if last_id > LARGEST_ID:
        last_id = FROM_THE_START
    # Written again it must be the same to the last letter: base64 alone forgives a few.
    if write_cursor(kind, filters, last_id) != cursor or last_id == FROM_THE_START:
        raise InvalidParameter("cursor", "not a cursor of this list with these filters")
    return int(last_id)


def _checksum(kind: str, filters: Any, last_id: int) -> bytes:
    covered = msgspec.json.encode((VERSION, kind, filters, last_id), order="sorted")
    return hashlib.blake2b(covered, digest_size=7).digest()
