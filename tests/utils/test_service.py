"""A server that the user named: what it answers, and every way in which it does not."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any

import pytest

from likelier.utils.errors import ConfigError
from likelier.utils.service import ServiceError, check_url, post_json
from tests.helpers.services import allow_this_machine, reply, serving

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def this_machine(no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_this_machine(monkeypatch)


def test_json_goes_there_and_comes_back() -> None:
    asked = []

    def answer(handler: BaseHTTPRequestHandler, content: Any) -> None:
        asked.append((handler.path, content))
        reply(handler, {"told": content["x"]})

    with serving(answer) as url:
        assert post_json(f"{url}?a=1", {"x": "é\udc00"}, timeout=60) == {"told": "é\udc00"}
    assert asked == [("/score?a=1", {"x": "é\udc00"})]


def test_one_that_is_busy_is_asked_again() -> None:
    states = [503, 429, 200]
    with serving(lambda handler, content: reply(handler, [1], states.pop(0))) as url:
        assert post_json(url, {}, timeout=60, pause=0) == [1]
    assert states == []


@pytest.mark.parametrize(
    ("status", "body", "words", "tries"),
    [
        (400, b"no such\ncolumn", "score: it answered 400: no such column", 1),
        (503, b"later", r"score: it answered 503: later \(tried 3 times\)", 3),
        (302, b"", "score: it answered 302", 1),
        (200, b"<html>", "answered with something else than JSON: broken JSON at line 1", 1),
    ],
)
def test_what_it_answers_instead_is_told(status: int, body: bytes, words: str, tries: int) -> None:
    asked = []

    def answer(handler: BaseHTTPRequestHandler, content: Any) -> None:
        asked.append(content)
        reply(handler, body, status)

    with serving(answer) as url, pytest.raises(ServiceError, match=words):
        post_json(url, {}, timeout=60, pause=0)
    assert len(asked) == tries


def test_one_that_is_not_there_is_named() -> None:
    with serving(reply) as url:
        pass
    with pytest.raises(ServiceError, match=rf"{url}: ConnectionRefusedError: .* \(tried 2 times\)"):
        post_json(url, {}, timeout=60, tries=2, pause=0)


def test_one_that_hangs_is_left() -> None:
    over = Event()
    with serving(lambda handler, content: over.wait(60) and None) as url:
        with pytest.raises(ServiceError, match=rf"{url}: no answer within 0.2 seconds \(tried 2 times\)"):
            post_json(url, {}, timeout=0.2, tries=2, pause=0)
        over.set()


def test_one_that_sends_a_byte_now_and_then_is_left_too() -> None:
    over = Event()

    def drip(handler: BaseHTTPRequestHandler, content: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not over.wait(0.01):
            handler.wfile.write(b" ")

    with serving(drip) as url:
        with pytest.raises(ServiceError, match=r"no answer within 0\.5 seconds"):
            post_json(url, {}, timeout=0.5, tries=1)
        over.set()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://", "no address"),
        ("ftp://host", "no address"),
        ("http://host:port/", "no address"),
        ("http://me:secret@host/", "holds a user or password"),
    ],
)
def test_an_address_that_is_none(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as told:
        check_url(url)
    assert "secret" not in str(told.value)
