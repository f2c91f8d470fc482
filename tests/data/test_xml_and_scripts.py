"""Records of XML files, and the script that an error shows where no map can help."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from likelier import DataSet, load_preferences
from likelier.cli.main import main
from likelier.data.columns import columns_of
from likelier.data.records import Pair
from likelier.data.sources import read_rows
from likelier.utils.errors import ConfigError, DataError

REVIEWS = """<?xml version="1.0"?>
<catalog made="today">
  <review id="1">
    <task lang="en">Name a <b>prime</b> &amp; say why.</task>
    <best>7 &lt; 9</best><worst>9</worst>
  </review>
  <review id="2"><task>Name a colour.</task><best><![CDATA[<red>]]></best><worst>loud</worst><tag>x</tag>
  <tag>y</tag></review>
</catalog>
"""


def write(folder: Path, text: str, name: str = "reviews.xml") -> str:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def rows(path: str, records: str | None = "catalog/review") -> list[Any]:
    columns = None if records is None else columns_of([f"records={records}"])
    return [row for _, row in read_rows(DataSet(path, columns=columns)).rows]


@pytest.mark.parametrize(("name", "records"), [("a.xml", "catalog/review"), ("a.xml.gz", "review")])
def test_every_element_of_a_path_is_a_row(tmp_path: Path, name: str, records: str) -> None:
    one, two = rows(write(tmp_path, REVIEWS, name), records)
    assert one == {"id": "1", "task": {"lang": "en", "text": "Name a prime & say why."}, "best": "7 < 9", "worst": "9"}
    assert two == {"id": "2", "task": "Name a colour.", "best": "<red>", "worst": "loud", "tag": ["x", "y"]}


def test_a_map_reads_xml_as_any_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, REVIEWS.replace(' lang="en"', ""))
    words = ["records=review", "prompt=task", "chosen=best", "rejected=worst"]
    data = load_preferences(path, columns=columns_of(words))
    assert [(pair.prompt, str(pair.source)) for pair in data.train if isinstance(pair, Pair)] == [
        ("Name a prime & say why.", f"{path}:3"),
        ("Name a colour.", f"{path}:7"),
    ]
    again = REVIEWS.replace(' lang="en"', "").partition("<review id")[2].partition("</review>")[0]
    twice = write(
        tmp_path, REVIEWS.replace(' lang="en"', "").replace("</catalog>", f"<review id{again}</review></catalog>")
    )
    clean = tmp_path / "clean.jsonl"
    main(["audit", twice, "--columns", *words, "--drop", "exact-duplicates", "--write", str(clean)])
    assert [json.loads(line)["id"] for line in clean.read_text().splitlines()] == ["1", "2"], capsys.readouterr()


@pytest.mark.parametrize("records", [None, "item"])
def test_which_element_is_a_row_is_asked_for(tmp_path: Path, records: str | None) -> None:
    with pytest.raises(DataError, match=r"catalog/review \(2 times\).*--columns records=catalog/review"):
        rows(write(tmp_path, REVIEWS), records)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><a><b>&z;</b></a>', ":1: the XML declares entities"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><b>&x;</b></a>', ":1: the XML declares entities"),
        (
            '<!DOCTYPE a SYSTEM "other.dtd"><a><b>&x;</b></a>',
            "the XML uses an entity|refers to another file|broken XML",
        ),
        ("<a>\n<b>&x;</b></a>", ":2: broken XML: undefined entity"),
        ("<a>\n<b></a>", ":2: broken XML: mismatched tag"),
        ("<b>" * 300, "more than 200 elements"),
    ],
)
def test_what_is_unsafe_or_broken_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows(write(tmp_path, text), "b")


def test_records_of_another_kind_of_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    with pytest.raises(ConfigError, match="records has no effect on"):
        load_preferences(path, columns=columns_of(["records=review"]))


# --- the script ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words", "expected"),
    [
        ({"chosen": "Ask\nAnswer: yes", "rejected": "Ask\nAnswer: no"}, [], ("Ask", "yes", "no")),
        ({"q": "Ask", "n": 1, "l": "yes", "r": "no"}, ["prompt=q", "first=l"], ("Ask", "yes", "no")),
    ],
)
def test_the_script_of_an_error_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], words: list[str], expected: tuple[str, ...]
) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError) as caught:
        load_preferences(path, columns=columns_of(words) if words else None)
    lines = str(caught.value).partition("a script makes rows of your own:\n")[2].splitlines()
    assert 5 <= len(lines) <= 12 and all(line.startswith("  ") or not line for line in lines)
    script = "\n".join(line[2:] for line in lines)
    monkeypatch.chdir(tmp_path)
    exec(script, {})
    made = json.loads((tmp_path / "pairs.jsonl").read_text())
    assert (made["prompt"], made["chosen"], made["rejected"]) == expected
