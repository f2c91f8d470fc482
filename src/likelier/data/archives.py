"""Packed files, read with care: one of a few kilobytes can hold more than any memory, and was then made to."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

from likelier.utils.errors import DataError

MOST_TIMES, HARMLESS = 100, 2**28  # how many times its size a file may unpack to, beyond so many bytes


def open_gzip(path: Path) -> io.BufferedReader:
    """The unpacked bytes. Reading on raises `DataError` where they become suspiciously many."""
    return io.BufferedReader(_Unpacked(path), 2**16)


def check_zip(path: Path) -> None:
    """Raises `DataError` for a zip file (a workbook is one) that would unpack to suspiciously much.

    A file that is no zip passes: who reads it says so. What is unpacked is never more than the file declares.
    """
    try:
        with zipfile.ZipFile(path) as held:
            size = sum(entry.file_size for entry in held.infolist())
    except (OSError, zipfile.BadZipFile):
        return
    _check(path, size, path.stat().st_size)


def _check(path: Path, unpacked: int, packed: int) -> None:
    if unpacked > HARMLESS and unpacked > MOST_TIMES * packed:
        raise DataError(
            f"{path}: it unpacks to over {MOST_TIMES} times its {packed:,} bytes, as a file does that was made to fill "
            "the memory; if it is meant to be so, unpack it and name the unpacked file"
        )


class _Unpacked(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        self._path, self._packed, self._unpacked = path, path.stat().st_size, 0
        self._stream = gzip.open(path)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._stream.readinto(buffer)
        self._unpacked += count
        _check(self._path, self._unpacked, self._packed)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
