"""JSON to and from a server that the user named: the one place where a connection is opened but the hub's client."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from threading import Timer
from typing import Any
from urllib.parse import SplitResult, urlsplit

from likelier.utils.errors import ConfigError, LikelierError, whole_reason
from likelier.utils.redaction import without_secrets
from likelier.utils.strict_json import BrokenJson, parse_json

_BUSY = (429, 502, 503, 504)  # worth another try
_LARGEST = 64 * 1024 * 1024  # bytes of an answer


class ServiceError(LikelierError):
    """A server that the user named is not there, too slow, or answers with an error, whose `status` it then has."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def check_url(url: str) -> SplitResult:
    """The parts of an address. Raises `ConfigError` for what is none, and for a password in it."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        parts, known = None, False
    if parts is None or not known:
        raise ConfigError(f"{without_secrets(url)!r} is no address of a server; give http://HOST:PORT/PATH")
    if parts.username or parts.password:
        raise ConfigError(f"{without_secrets(url)!r} holds a user or password, which is not sent; leave it out")
    return parts


def post_json(url: str, content: Any, *, timeout: float, tries: int = 3, pause: float = 0.5) -> Any:
    """What the server answers to `content`, both JSON. For the rest see `asked`."""
    return _parsed(asked(url, content, timeout=timeout, tries=tries, pause=pause), url)


def get_json(url: str, *, timeout: float, tries: int = 3, pause: float = 0.5) -> Any:
    """What the server tells as JSON. For the rest see `asked`."""
    return _parsed(asked(url, timeout=timeout, tries=tries, pause=pause), url)


def asked(url: str, content: Any = None, *, timeout: float, tries: int = 3, pause: float = 0.5) -> bytes:
    """What the server answers to `content` as JSON (POST), or to nothing (GET).

    Each try takes at most `timeout` seconds as a whole. A server that is not there, too slow or busy (429, 502, 503,
    504) is asked up to `tries` times, after `pause` seconds, and after twice as many each time.

    Raises `ServiceError`, which names the server and what it did.
    """
    parts, body = check_url(url), None
    if content is not None:
        body = json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")
    reason, status = "", None
    for number in range(tries):
        if number:
            time.sleep(pause * 2 ** (number - 1))
        try:
            status, found = _answer(parts, body, timeout)
        except TimeoutError:
            reason, status = f"no answer within {timeout:g} seconds", None
            continue
        except (OSError, HTTPException) as error:
            reason, status = f"{type(error).__name__}: {whole_reason(error)}", None
            continue
        if status == 200:
            return found
        head = " ".join(found[:300].decode("utf-8", "replace").split())
        reason = f"it answered {status}: {head}"
        if status not in _BUSY:
            raise ServiceError(f"{without_secrets(url)}: {reason}", status)
    raise ServiceError(f"{without_secrets(url)}: {reason} (tried {tries} times)", status)


def _parsed(found: bytes, url: str) -> Any:
    try:
        return parse_json(found)
    except BrokenJson as error:
        raise ServiceError(f"{without_secrets(url)} answered with something else than JSON: {error}") from error


def _answer(parts: SplitResult, body: bytes | None, timeout: float) -> tuple[int, bytes]:
    assert parts.hostname is not None
    kind: Any = HTTPConnection if parts.scheme == "http" else HTTPSConnection
    secure = {} if parts.scheme == "http" else {"context": ssl.create_default_context()}
    server = kind(parts.hostname, parts.port, timeout=timeout, **secure)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        began = time.monotonic()
        server.connect()
        with _cut_off(server.sock, timeout - (time.monotonic() - began)):
            if body is None:
                server.request("GET", path)
            else:
                server.request("POST", path, body, {"Content-Type": "application/json"})
            answer = server.getresponse()
            found = answer.read(_LARGEST + 1)
        if len(found) > _LARGEST:
            raise HTTPException(f"an answer of more than {_LARGEST} bytes")
        return answer.status, found
    finally:
        server.close()


@contextmanager
def _cut_off(connected: Any, seconds: float) -> Iterator[None]:
    """Raises `TimeoutError` after so many seconds, also where a byte comes now and then."""
    over = False

    def end() -> None:
        nonlocal over
        over = True
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = Timer(max(seconds, 0.0), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, HTTPException) as error:
        if over:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
    if over:
        raise TimeoutError
