"""Free ports of 127.0.0.1, below the range that systems use for outgoing connections."""

from __future__ import annotations

import random
import socket

PORTS = range(20_000, 32_768)


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def is_open(port: int) -> bool:
    """True when a connection to the port is accepted."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port(preferred: int | None = None) -> int:
    """The preferred port when it is free, else any."""
    if preferred is not None and is_free(preferred):
        return preferred
    # At random, so that two test runs at once rarely meet.
    return next(port for port in random.sample(PORTS, len(PORTS)) if is_free(port))
