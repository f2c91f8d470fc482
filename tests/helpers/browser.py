"""A headless Chromium that the tests drive through pipes, by the DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE = 120.0  # seconds for one answer, on a busy machine
_FLAGS = (
    "--headless",
    "--no-sandbox",  # it opens our own file only, and as root in a container there is no sandbox
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Page:
    """An open page, what it asked for and what its console said."""

    send: Any
    events: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, script: str) -> Any:
        """The value of an expression in the page (Chromium's own channel: no page's policy forbids it)."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def looks(self, width: int, *, dark: bool = False) -> None:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path) -> None:
        """The whole page."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(found["data"]))

    def of(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event["method"] == method]

    @property
    def requests(self) -> list[str]:
        return [event["request"]["url"] for event in self.of("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[str]:
        """Errors, warnings and messages of any kind."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event) for kind in kinds for event in self.of(kind)]


class _Pipe:
    """Messages that end in a zero byte, on the two ends that Chromium expects as its files 3 and 4."""

    def __init__(self, profile: Path) -> None:
        theirs_in, self._out = self._ends()
        self._in, theirs_out = self._ends()

        def place() -> None:
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        browser = find_browser()
        assert browser is not None
        self.process = subprocess.Popen(
            [browser, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place,
            pass_fds=(3, 4),
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._rest = b""
        self._number = 0

    @staticmethod
    def _ends() -> tuple[int, int]:
        """A pipe whose files have numbers that stand in nobody's way."""
        ends = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 32) for end in ends]
        for end in ends:
            os.close(end)
        return high[0], high[1]

    def message(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError(f"chromium says nothing (exit code {self.process.poll()})")
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def ask(self, events: list[dict[str, Any]], method: str, session: str | None, params: dict[str, Any]) -> Any:
        self._number += 1
        named = {"id": self._number, "method": method, "params": params}
        os.write(self._out, json.dumps(named | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self.message()).get("id") != self._number:
            events.append(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self._in)
        os.close(self._out)


@contextmanager
def opened(file: Path, folder: Path) -> Iterator[Page]:
    """The file in a browser whose profile lies in `folder`, loaded."""
    pipe = _Pipe(folder / "profile")
    events: list[dict[str, Any]] = []
    try:
        target = pipe.ask(events, "Target.createTarget", None, {"url": "about:blank"})["targetId"]
        attached = pipe.ask(events, "Target.attachToTarget", None, {"targetId": target, "flatten": True})
        session = attached["sessionId"]
        page = Page(lambda method, **params: pipe.ask(events, method, session, params), events)
        for room in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{room}.enable")
        page.send("Page.navigate", url=file.as_uri())
        while not page.of("Page.loadEventFired"):
            events.append(pipe.message())
        yield page
    finally:
        pipe.close()
