"""A file that answers are added to: whole rows only, gone on with after an interruption, never mixed."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from likelier.online.answers.rows import Made
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, writing
from likelier.utils.files import is_stream, local
from likelier.utils.outputs import check_output
from likelier.utils.strict_json import BrokenJson, encodable, parse_json

_ANEW = "name another --output, or give --overwrite to begin anew"
_IN_WORDS = ("model",)  # how a model was named, which may have moved: its weights decide


class AnswerFile:
    """Answers as JSON lines at `output`, which need not be there. Nothing is made or changed before `open`.

    Raises `ConfigError` for a file of something else, or one that cannot be added to; `mend` says what to do then.
    """

    def __init__(self, output: str, *, inputs: Sequence[str] = (), overwrite: bool = False, mend: str = _ANEW) -> None:
        self.path, self.output = local(output), output
        if is_stream(self.path) or self.path.is_dir():
            kind = "a folder" if self.path.is_dir() else "a pipe or a device"
            raise ConfigError(f"{output} is {kind}, and answers are added to a file; name one that ends in .jsonl")
        self._anew, self._mend = overwrite, mend
        self._whole = 0  # bytes of whole rows
        self.there: set[tuple[int, int]] = set()
        self._first: dict[str, Any] | None = None
        if self.path.exists() and not self.path.is_symlink() and not overwrite:
            self._look(inputs)
        else:
            check_output(output, inputs=inputs, overwrite=overwrite)
        self._stream: Any = None

    def _look(self, inputs: Sequence[str]) -> None:
        """See which answers are there."""
        for number, line in enumerate(self._lines(), 1):
            row = self._row(line)
            if row is None:
                check_output(self.output, inputs=inputs)  # which says where it is the data
                raise ConfigError(f"{self.output}:{number} is no row of likelier sample; {self._mend}")
            self._first = self._first or row
            if row["sampled"] != self._first["sampled"]:
                raise ConfigError(f"{self.output}:{number}: made otherwise than the first row; {self._mend}")
            self.there.add((row["prompt_number"], row["answer_number"]))
            self._whole += len(line)
        if self._first is None and self.path.stat().st_size:
            check_output(self.output, inputs=inputs)

    def _lines(self) -> Iterator[bytes]:
        """The whole lines; half a one at the end is not among them."""
        with writing(self.output), open(self.path, "rb") as stream:
            yield from (line for line in stream if line.endswith(b"\n"))

    @staticmethod
    def _row(line: bytes) -> dict[str, Any] | None:
        try:
            row = parse_json(line)
        except BrokenJson:
            return None
        numbers = isinstance(row, dict) and all(
            type(row.get(name)) is int for name in ("prompt_number", "answer_number")
        )
        return row if numbers and isinstance(row.get("sampled"), dict) else None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every answer that is there."""
        yield from (parse_json(line) for line in self._lines())

    def require(self, made: Made) -> None:
        """Raises `ConfigError` where the answers that are there were made otherwise."""
        if self._first is None:
            return
        before, now = self._first["sampled"], made.as_json()
        others = [name for name in now if name not in _IN_WORDS and before.get(name) != now[name]]
        if others:
            words = "; ".join(_difference(name, before.get(name), now[name]) for name in others)
            raise ConfigError(f"{self.output} holds answers made otherwise: {words}. Say the same, or {self._mend}")

    def open(self) -> None:
        """Take the file, and cut off half a row at its end. Raises `ConfigError` where another process has it."""
        with writing(self.output):
            if self._anew and self.path.is_symlink():  # it is replaced, and what it leads to is left
                self.path.unlink()
            self._stream = open(self.path, "ab", buffering=0)
            try:
                fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._stream.close()
                self._stream = None
                raise ConfigError(f"{self.output} is written by another process; wait, or name another") from None
            size = os.fstat(self._stream.fileno()).st_size
            if self._anew:
                self._stream.truncate(0)
            elif size > self._whole:
                say(f"{self.output}: half a row at the end ({size - self._whole} bytes) is cut off")
                self._stream.truncate(self._whole)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, and have them on disk. Raises `ConfigError` where they do not fit, and then leaves none of them."""
        content = "".join(encodable(json.dumps(row, ensure_ascii=False, allow_nan=False)) + "\n" for row in rows)
        with writing(self.output, mend="make room, and go on with the same command"):
            before, left = os.fstat(self._stream.fileno()).st_size, memoryview(content.encode())
            try:
                while left:
                    left = left[self._stream.write(left) :]
                os.fsync(self._stream.fileno())
            except OSError:
                self._stream.truncate(before)
                raise
        self.there.update((row["prompt_number"], row["answer_number"]) for row in rows)

    def close(self) -> None:
        """Let the file go; one in which nothing stands is removed."""
        if self._stream is not None:
            is_empty = not os.fstat(self._stream.fileno()).st_size
            self._stream.close()
            if is_empty:
                self.path.unlink(missing_ok=True)


def _difference(name: str, before: Any, now: Any) -> str:
    if name in ("weights", "data"):
        return {"weights": "by a model of other weights", "data": "of other prompts, columns or templates"}[name]
    return f"{name} {before}, now {now}"
