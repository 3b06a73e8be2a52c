"""Close connections beyond the bound at once, and answer `/livez` even then.

At its bound the server stops accepting, so connections wait in the kernel's queue: probes too, and
an orchestrator would restart a process that is merely full. A thread looks after that queue. It
accepts what has waited while the server was full, answers `/livez` when the event loop turns,
everything else with 503, and closes. A client that sends no request within a second gets no answer,
and of these there are few at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

LOOK_EVERY_SECONDS = 0.1
LOOP_TURNS_WITHIN_SECONDS = 2.0
MOST_AT_ONCE = 4096
MOST_SILENT = 512
REQUEST_WITHIN_SECONDS = 1.0
WAITING = struct.Struct("=24xI")
"""`tcpi_unacked` of Linux' `tcp_info`: of a listening socket, the length of its queue."""
REQUEST_BYTES = 64 * 1024
"""The whole request is read: with something unread the kernel would reset the connection, and our
answer be lost."""
OPEN_FILES = Path("/proc/self/fd")
ALIVE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\nconnection:"
    b" close\r\n\r\nok\n"
)
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection:"
    b" close\r\n\r\n"
)


@contextmanager
def overflow_closed(most_connections: int) -> Iterator[None]:
    """Close what overflows, in the process that listens, whose event loop is running. Nothing is
    done on other systems than Linux: they do not say how many connections wait."""
    if sys.platform != "linux":
        yield
        return
    ended = threading.Event()
    overflow = Overflow(most_connections, asyncio.get_running_loop())
    thread = threading.Thread(target=overflow.look, args=[ended], name="overflow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


class Overflow:
    def __init__(self, most_connections: int, loop: asyncio.AbstractEventLoop) -> None:
        self._most_connections = most_connections
        self._loop = loop
        self._silent: deque[tuple[float, socket.socket]] = deque(maxlen=MOST_SILENT)
        """Clients that have not sent their request, with the time until which they may. Of too many
        the oldest are closed: nothing refers to them any more."""

    def look(self, ended: threading.Event) -> None:
        descriptor: int | None = None
        waited = False
        while not ended.wait(LOOK_EVERY_SECONDS):
            if descriptor is None:
                descriptor = next((each for each in _descriptors() if _listens(each)), None)
            elif not _listens(descriptor):  # the server has closed it
                return
            else:
                with _borrowed(descriptor) as listener:
                    waits = _waiting(listener) > 0
                    if waits and waited and len(_descriptors()) >= self._most_connections:
                        self._accept_those_that_wait(listener)
                waited = waits
                self._answer()

    def _accept_those_that_wait(self, listener: socket.socket) -> None:
        until = monotonic() + REQUEST_WITHIN_SECONDS
        with suppress(OSError):  # none waits any more, or there are no descriptors left
            for _ in range(MOST_AT_ONCE):
                client, _ = listener.accept()
                client.setblocking(False)
                self._silent.append((until, client))
                if len(self._silent) == MOST_SILENT:
                    self._answer()

    def _answer(self) -> None:
        """Answer and close those that have sent a request, and close those that have taken too long
        over it."""
        if not self._silent:
            return
        alive, now = ALIVE if self._loop_turns() else FULL, monotonic()
        for _ in range(len(self._silent)):
            until, client = self._silent.popleft()
            try:
                request = client.recv(REQUEST_BYTES)
                client.send(alive if request.startswith(b"GET /livez ") else FULL)
                client.shutdown(socket.SHUT_WR)
            except BlockingIOError:
                if now < until:
                    self._silent.append((until, client))
                    continue
            except OSError:
                pass
            client.close()

    def _loop_turns(self) -> bool:
        turn = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop)
        try:
            turn.result(LOOP_TURNS_WITHIN_SECONDS)
        except TimeoutError:
            return False
        return True


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """The server's own socket, which it keeps; it stays the server's to close."""
    borrowed = socket.socket(fileno=descriptor)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _listens(descriptor: int) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with _borrowed(descriptor) as found:
            return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _descriptors() -> list[int]:
    return [int(path.name) for path in OPEN_FILES.iterdir()]


def _waiting(listener: socket.socket) -> int:
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
        return int(WAITING.unpack_from(info)[0])
    except (OSError, struct.error):
        return 0
