"""AMQP 1.0 bodies, as RabbitMQ hands them to AMQP 0-9-1 consumers such as this program.

A `data` section arrives as its plain bytes. An `amqp-value` or `amqp-sequence` section arrives as
it was encoded, from RabbitMQ 3's plugin and from RabbitMQ 4 alike. Text or binary in it is the JSON
that was sent; a map or a list stands for the JSON object or array of the same content.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from manman_status.errors import PoisonMessage

AMQP_VALUE = b"\x00\x53\x77"
AMQP_SEQUENCE = b"\x00\x53\x76"
DEEPEST = 32

CONSTANTS: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0}
FORMS = (
    ("B", 0x50, 0x52, 0x53),
    ("b", 0x51, 0x54, 0x55),
    ("?", 0x56),
    ("H", 0x60),
    ("h", 0x61),
    ("I", 0x70),
    ("i", 0x71),
    ("f", 0x72),
    ("Q", 0x80),
    ("q", 0x81, 0x83),
    ("d", 0x82),
)
FIXED = {code: struct.Struct(f">{form}") for form, *codes in FORMS for code in codes}
"""Unsigned and signed integers, floats, and times in ms since the epoch, by their format code."""
BINARY, TEXTS, LISTS, MAPS, ARRAYS = (
    (0xA0, 0xB0),
    (0xA1, 0xB1, 0xA3, 0xB3),
    (0xC0, 0xD0),
    (0xC1, 0xD1),
    (0xE0, 0xF0),
)
EMPTY_LIST = 0x45
DESCRIBED = 0x00


def is_amqp_1_0(body: bytes) -> bool:
    return body.startswith((AMQP_VALUE, AMQP_SEQUENCE))


def json_of(body: bytes) -> bytes:
    """Render the JSON of a body for which `is_amqp_1_0` holds. Raises PoisonMessage, naming the
    section."""
    section = "amqp-value" if body.startswith(AMQP_VALUE) else "amqp-sequence"
    try:
        content = _content(body)
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise PoisonMessage(
            f"an AMQP 1.0 {section} section that cannot be read", found=f"{error}:"
        ) from None
    match content:
        case bytes():
            return content
        case str():
            return content.encode()
        case _:
            return msgspec.json.encode(content)


def _content(body: bytes) -> Any:
    """Read an amqp-value's one value, or the elements of all amqp-sequence sections."""
    reader = _Reader(body)
    if body.startswith(AMQP_VALUE):
        value = reader.read_section()
        if not reader.is_at_end():
            raise ValueError("bytes after its end")
        return value
    elements: list[Any] = []
    while not reader.is_at_end():
        section = reader.read_section()
        if not isinstance(section, list):
            raise ValueError("no list")  # noqa: TRY004 - of what was sent, not of this program's types
        elements += section
    return elements


class _Reader:
    """A reader of encoded values, one after the other. Raises ValueError or struct.error for bytes
    that encode none."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def is_at_end(self) -> bool:
        return self._at >= len(self._data)

    def read_section(self) -> Any:
        self._take(len(AMQP_VALUE))
        return self._value(0)

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("cut off")
        self._at += count
        return taken

    def _size(self, code: int) -> int:
        """Read a size or a count: one byte for the short form of a type, four for the long one."""
        width = 4 if code & 0x10 else 1
        return int.from_bytes(self._take(width))

    def _value(self, depth: int) -> Any:
        return self._of_type(self._take(1)[0], depth)

    def _of_type(self, code: int, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError("nested too deeply")
        if code in CONSTANTS:
            return CONSTANTS[code]
        if code == DESCRIBED:
            self._value(depth + 1)
            return self._value(depth + 1)
        if code in FIXED:
            form = FIXED[code]
            return form.unpack(self._take(form.size))[0]
        if code in (*BINARY, *TEXTS):
            content = self._take(self._size(code))
            return content if code in BINARY and depth == 0 else content.decode()
        return self._compound(code, depth + 1)

    def _compound(self, code: int, depth: int) -> Any:
        if code == EMPTY_LIST:
            return []
        if code not in (*LISTS, *MAPS, *ARRAYS):
            raise ValueError(f"type 0x{code:02x}")
        self._size(code)
        count = self._size(code)
        if code in ARRAYS:
            element = self._take(1)[0]
            if element in CONSTANTS or element == EMPTY_LIST:
                raise ValueError(
                    "an array of constants"
                )  # some bytes could stand for billions of them
            return [self._of_type(element, depth) for _ in range(count)]
        values = [self._value(depth) for _ in range(count)]
        if code in LISTS:
            return values
        if count % 2 or not all(isinstance(key, str) for key in values[::2]):
            raise ValueError("a map whose keys are not text")
        return dict(zip(values[::2], values[1::2], strict=True))
