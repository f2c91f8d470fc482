"""Text that a program garbled on the way is found, and text that only looks unusual is not."""

from __future__ import annotations

from typing import Any

import pytest

from likelier.data.audit import audit_records
from likelier.data.audit.findings import Finding
from likelier.data.formats import convert
from likelier.data.sources import read_rows


def garbled(*texts: str, plain: int = 0) -> Finding | None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"ask {one}", "chosen": text, "rejected": "no"} for one, text in enumerate(texts)
    ]
    rows += [{"prompt": f"say {one}", "chosen": f"yes {one}", "rejected": "no"} for one in range(plain)]
    return audit_records(convert(read_rows(rows)).records).finding("garbled-text")


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("salt &amp; pepper", "&amp;"),
        ("it&#39;s", "&#39;"),
        ("it’s".encode().decode("cp1252"), "â€™"),
        ("café".encode().decode("latin-1"), "Ã©"),
        ("20 °C".encode().decode("cp1252"), "Â°"),
        ("so \ufffd it", "\ufffd"),
    ],
)
def test_what_programs_leave_behind_is_found(text: str, mark: str) -> None:
    found = garbled(text, "fine")
    assert found is not None and found.count == 1 and found.severity == "warning"
    assert found.details["marks"] == {mark: 1} and f"{mark} in 1 rows" in found.summary


@pytest.mark.parametrize(
    "text", ["café à la crème", "ÂGE, SÃO PAULO", "你好，世界 “ok” – so…", "R&D; a & b", "É â ð 😀", "x&y;z"]
)
def test_unusual_text_is_no_garbled_text(text: str) -> None:
    assert garbled(text, "fine") is None


def test_a_few_rows_of_many_are_told_and_messages_are_looked_into() -> None:
    few = garbled("a &lt; b", plain=200)
    assert few is not None and (few.count, few.severity) == (1, "info")
    talk = {"prompt": [{"role": "user", "content": "a &gt; b"}], "completion": "yes", "label": True}
    found = audit_records(convert(read_rows([talk])).records).finding("garbled-text")
    assert found is not None and found.count == 1
