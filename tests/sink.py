"""Where notifications arrive in tests: an HTTP server that keeps what it is sent, and may refuse or
hang."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest


class Sink:
    """`messages` are the JSON bodies it took. `refuses` answers 503; `hangs` answers nothing while
    it is set."""

    def __init__(self):
        self.messages = []
        self.attempts = 0
        self.refuses = False
        self.hangs = threading.Event()
        self.free = threading.Event()
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
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

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self):
        """As apprise has it."""
        return f"json://127.0.0.1:{self._server.server_port}/alerts"

    @property
    def pager_url(self):
        """As apprise has a pager of its own host, which resolves what it was told."""
        return f"goalert://127.0.0.1:{self._server.server_port}/{uuid4()}?action=map"

    @property
    def titles(self):
        return [message["title"] for message in self.messages]

    def close(self):
        self.free.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def start_sink():
    sinks = []

    def start():
        sinks.append(Sink())
        return sinks[-1]

    yield start
    for sink in sinks:
        sink.close()


@pytest.fixture
def sink(start_sink):
    return start_sink()
