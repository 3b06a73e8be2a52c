"""Sockets in a forked child: what is written there would reach the broker in the middle of the
parent's messages, and the parent's death would not end the connection as long as the child held
it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any


def let_go_of(number: int, local_address: Any) -> None:
    """Let go of the socket with this number and this address of its own.

    The number stays taken, by /dev/null: objects of the parent's that end in the child still close
    it.
    """
    with suppress(OSError):
        if _local_address(number) != local_address:
            return  # closed before the fork, and by now the number of something else
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, number, inheritable=False)
        os.close(nothing)


def _local_address(number: int) -> Any:
    with socket.socket(fileno=os.dup(number)) as copy:
        return copy.getsockname()
