"""Reasons: what is wrong with a message, in words that are short, printable and safe to make.

A message may hold anything: arrays nested so deeply that `repr` fails, megabytes of text, control
characters. So every rendering of a value goes through `shown`, and every reason through `bounded`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from manman_status.errors import PoisonMessage

LONGEST_REASON = 500
LONGEST_VALUE = 40
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""The exceptions that msgspec raises for bytes that it cannot read."""


def shown(value: Any) -> str:
    """Show a value of a message within a sentence. Arrays and objects are named, never rendered."""
    match value:
        case list() | dict():
            return "an array" if isinstance(value, list) else "an object"
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case int() if value.bit_length() > 64:
            return "a number of more than 64 bits"
        case str() if len(value) > LONGEST_VALUE:
            return repr(value[:LONGEST_VALUE] + "…")
        case _:
            return repr(value)


def printable(text: str, *, lines: bool = False) -> str:
    """Return text that cannot drive a terminal or turn its text round; on one line, unless `lines`
    may stay."""
    text = text if lines else text.replace("\n", " ")
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def bounded(reason: str) -> str:
    return printable(reason if len(reason) <= LONGEST_REASON else reason[:LONGEST_REASON] + "…")


def unreadable(error: Exception, *, at: str = "") -> PoisonMessage:
    """Describe why a message, or one field `at` a place of it, is unreadable."""
    match error:
        case PoisonMessage():
            return error
        case UnicodeDecodeError():
            return PoisonMessage("not UTF-8", at=at)
        case RecursionError():
            return PoisonMessage("nested too deeply", at=at)
        case msgspec.ValidationError():
            problem, has_path, path = str(error).partition("`$")  # msgspec does not name the root
            return (
                PoisonMessage(f"{problem}`{at or '$'}{path}")
                if has_path
                else PoisonMessage(problem, at=at)
            )
        case msgspec.DecodeError():
            return PoisonMessage("not JSON", at=at, found=f"{error}:")
        case _:
            return PoisonMessage(f"{type(error).__name__} while it was read", at=at)
