"""The receiver of notifications: an HTTP server that keeps requests, and may refuse or hang."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest


class Sink:
    """`messages` are the JSON bodies it took. `refuses` answers 503; `hangs` answers nothing while
    it is set."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.attempts = 0
        self.refuses = False
        self.hangs = threading.Event()
        self.free = threading.Event()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                sink.attempts += 1
                if sink.hangs.is_set():
                    sink.free.wait()
                if sink.refuses:
                    self.send_error(503)
                    return
                sink.messages.append(json.loads(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The URL as apprise writes it."""
        return f"json://127.0.0.1:{self._server.server_port}/alerts"

    @property
    def pager_url(self) -> str:
        """The URL of a pager of one's own, which resolves its incidents."""
        return f"goalert://127.0.0.1:{self._server.server_port}/{uuid4()}?action=map"

    @property
    def titles(self) -> list[Any]:
        return [message["title"] for message in self.messages]

    def close(self) -> None:
        self.free.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def start_sink() -> Iterator[Any]:
    sinks = []

    def start() -> Any:
        sinks.append(Sink())
        return sinks[-1]

    yield start
    for sink in sinks:
        sink.close()


@pytest.fixture
def sink(start_sink: Any) -> Any:
    return start_sink()
