"""What a test of the fast tier may not do: train, start a process or a browser, serve a network."""

import sys
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

_PROCESSES = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}
_FORBIDDEN = dict.fromkeys(_PROCESSES, "starts a process") | {"socket.bind": "serves a network"}


class Guard:
    """Ends a test that does what its tier forbids, while `test` is set to the test's name.

    Python's audit events see a process or a server whoever asks for it (but for those of multiprocessing, which raise
    none), a hook of all optimizers sees a training step. They stay for good and wake with the name, so that what
    fixtures of any scope do for a test is seen as well.
    """

    def __init__(self) -> None:
        self.test: str | None = None
        sys.addaudithook(self._heard)
        register_optimizer_step_pre_hook(self._stepped)
        start = BaseProcess.start

        def heard_start(process: BaseProcess) -> None:
            self._heard("os.fork", ())
            start(process)

        BaseProcess.start = heard_start

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.test is not None and event in _FORBIDDEN:
            self._end(f"{_FORBIDDEN[event]} ({event} {arguments[:1]})")

    def _stepped(self, *_: Any) -> None:
        if self.test is not None:
            self._end("trains")

    def _end(self, done: str) -> None:
        """Raises what no `except Exception` of the product can swallow."""
        pytest.fail(f"{self.test} {done}: a test that does so is marked with pytest.mark.slow")


GUARD = Guard()
