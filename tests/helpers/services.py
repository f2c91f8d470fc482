"""Servers on this machine for tests: connections to it, and nowhere else, are allowed while one is open."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

_CONNECT, _LOOK_UP, _CREATE = socket.socket.connect, socket.getaddrinfo, socket.create_connection


def allow_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo `no_network` for 127.0.0.1 alone."""

    def connect(own: socket.socket, address: Any) -> None:
        assert isinstance(address, str) or address[0] == "127.0.0.1", f"a connection was asked for: {address}"
        _CONNECT(own, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", _LOOK_UP)
    monkeypatch.setattr(socket, "create_connection", _CREATE)


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler, Any], None]) -> Iterator[str]:
    """The address of a server that hands each request with its JSON to `answer`; None where one only asks (GET)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, None)

        def do_POST(self) -> None:
            answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(handler: BaseHTTPRequestHandler, content: Any, status: int = 200) -> None:
    """Answer with JSON, or with bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
