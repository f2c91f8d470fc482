"""JSON of files that anybody may have written: whatever is wrong with the text, it is one kind of error."""

from __future__ import annotations

import json
import re
from typing import Any


class BrokenJson(ValueError):
    """Text that is no JSON, or JSON that cannot be taken as it stands; `line` and `column` (from 1) where known."""

    def __init__(self, reason: str, line: int | None = None, column: int | None = None) -> None:
        at = "" if line is None else f" at line {line}, column {column}"
        super().__init__(f"broken JSON{at}: {reason}")
        self.reason, self.line, self.column = reason, line, column

    @property
    def within_line(self) -> str:
        """The message for a text of one line, whose number whoever read it knows."""
        return f"broken JSON{'' if self.column is None else f' at column {self.column}'}: {self.reason}"


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text holds.

    Raises `BrokenJson`, also for an object that has a name twice (of which one value would be lost), for values nested
    too deeply and for numbers too long to be read.
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except BrokenJson:  # of an object that has a name twice
        raise
    except json.JSONDecodeError as error:
        raise BrokenJson(error.msg, error.lineno, error.colno) from error
    except UnicodeDecodeError as error:
        raise BrokenJson(f"not UTF-8 text (byte {error.start + 1})") from error
    except RecursionError as error:
        raise BrokenJson("values are nested too deeply") from error
    except ValueError as error:  # Python reads no whole number of more than 4300 digits
        found = re.search(r"value has (\d+) digits", str(error))
        digits = found.group(1) if found else "thousands of"
        raise BrokenJson(f"a number is too long to be read ({digits} digits)") from error


def encodable(text: str) -> str:
    """JSON that UTF-8 can hold: what cannot (a byte of a file's name that is not UTF-8) becomes its escape, which reads
    as the same again.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise BrokenJson(f"the name {name!r} stands twice in one object; keep one")
            seen.add(name)
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
