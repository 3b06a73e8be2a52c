"""The wrapping of a message's JSON: compression, AMQP 1.0 sections, a byte order mark."""

from __future__ import annotations

import codecs
import zlib

from manman_status.errors import PoisonMessage
from manman_status.wire.amqp_1_0 import is_amqp_1_0, json_of

MAX_BODY_BYTES = 1024 * 1024

COMPRESSED = (b"\x1f\x8b", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")
"""The first bytes of gzip and zlib, with which no JSON begins. So `content_encoding` may be missing
or wrong."""
EITHER_FORMAT = zlib.MAX_WBITS | 32


def unpack(body: bytes) -> bytes:
    """Return the JSON in a body, of at most MAX_BODY_BYTES. Raises PoisonMessage."""
    if len(body) > MAX_BODY_BYTES:
        raise PoisonMessage(
            f"a body has at most {MAX_BODY_BYTES} bytes", found=f"body of {len(body)} bytes:"
        )
    if body.startswith(COMPRESSED):
        body = _decompress(body)
    if is_amqp_1_0(body):
        body = json_of(body)
        if len(body) > MAX_BODY_BYTES:
            raise PoisonMessage(f"an AMQP 1.0 body of more than {MAX_BODY_BYTES} bytes as JSON")
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body:
        raise PoisonMessage("empty body")
    return body


def _decompress(body: bytes) -> bytes:
    """Decompress a body, to at most one byte beyond the limit. Raises PoisonMessage."""
    decompressor = zlib.decompressobj(EITHER_FORMAT)
    try:
        content = decompressor.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error as error:
        raise PoisonMessage("compressed, but not readable", found=f"{error}:") from None
    if len(content) > MAX_BODY_BYTES:
        raise PoisonMessage(f"a compressed body of more than {MAX_BODY_BYTES} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise PoisonMessage("a compressed body that does not end where it should")
    return content
