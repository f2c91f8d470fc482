"""The audit as text, JSON and HTML, and the command that writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from likelier.cli import main as cli
from likelier.data.audit import audit_records
from likelier.data.audit.catalogue import CATALOGUE
from likelier.data.load import load_preferences
from likelier.insight.audit import as_html, as_text
from tests.helpers.audit_rows import UNUSABLE, clean_rows, pair, pairs, parts, row, seeded_rows, write
from tests.helpers.support import tiny_model, tiny_tokenizer

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7 * 7 }}"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = cli.main(["audit", *map(str, words)])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, int]]:
    """A file with defects, an evaluation file, and the counts."""
    folder = tmp_path_factory.mktemp("seeded")
    rows, expected, held_out = seeded_rows(600)
    return write(folder / "prefs.jsonl", rows), write(folder / "held.jsonl", held_out), expected


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return write(tmp_path / "clean.jsonl", clean_rows(200))


# --- reports -------------------------------------------------------------------------------------------------------


def test_json_has_stable_names(run: Run, seeded: tuple[Path, Path, dict[str, int]]) -> None:
    path, held, expected = seeded
    code, out, _ = run(path, "--eval-data", held, "--format", "json")
    audit = json.loads(out)
    assert code == 3
    assert {"rows", "usable", "findings", "statistics", "verdict", "severity", "file", "format", "kind"} == audit.keys()
    assert (audit["rows"], audit["usable"]) == (600, 600 - UNUSABLE)
    found = {finding["name"]: finding for finding in audit["findings"]}
    assert {name: found[name]["count"] for name in expected} == expected
    for finding in audit["findings"]:
        assert {"name", "count", "severity", "summary", "examples", "why", "mend", "details"} <= finding.keys()
        assert all(re.fullmatch(re.escape(str(path)) + r":\d+", place) for place in finding["examples"])
    assert {"characters", "prompts", "length_rule", "surface_rule", "noise"} <= audit["statistics"].keys()


def test_text_names_places_and_quotes_only_when_asked(run: Run, tmp_path: Path) -> None:
    rows = clean_rows(30)
    word = parts(rows[0])[0].split()[0]
    path = write(tmp_path / "twice.jsonl", [*rows, rows[0]])
    code, out, err = run(path)
    assert code == 0 and "exact-duplicates" in out and "twice.jsonl:31 goes with twice.jsonl:1" in out
    assert "verdict: Usable, but look first at exact-duplicates." in out
    assert word not in out and str(path) in out
    assert word in run(path, "--show").out
    assert "data: 31 pairs" in err
    assert all(line == line.rstrip() and len(line) <= 110 for line in out.splitlines())


def test_a_clean_file_says_so(run: Run, clean: Path) -> None:
    code, out, _ = run(clean, "--fail-on", "info")
    assert code == 0 and "verdict: Clean" in out


@pytest.mark.parametrize(("severity", "code"), [("info", 3), ("warning", 3), ("error", 0)])
def test_the_exit_code_is_for_the_named_severity(run: Run, tmp_path: Path, severity: str, code: int) -> None:
    rows = clean_rows(100)
    assert run(write(tmp_path / "f.jsonl", [*rows, rows[0]]), "--fail-on", severity).code == code


class _Page(HTMLParser):
    """What a browser would run or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def parsed(page: str) -> _Page:
    found = _Page()
    found.feed(page)
    return found


def evil_page() -> str:
    rows = pairs(80)
    rows += [pair(at, f"{EVIL} {at}", EVIL, "x") for at in (90, 90, 91)]
    rows += [pair(at, EVIL, "x", EVIL) for at in (92,)]
    return as_html(audit_records(rows, show=True, name=f"{EVIL}.jsonl", format=EVIL))


def test_markup_in_the_data_stays_text() -> None:
    page = evil_page()
    assert "&lt;script&gt;alert(1)" in page and "{{ 7 * 7 }}" in page
    found = parsed(page)
    assert not {"script", "img", "iframe", "object", "link", "base", "form"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on")]


def test_the_page_asks_for_nothing_outside(run: Run, seeded: tuple[Path, Path, dict[str, int]], tmp_path: Path) -> None:
    path, held, _ = seeded
    report = tmp_path / "deep" / "report.html"
    code, out, err = run(path, "--eval-data", held, "--format", "html", "--output", report)
    assert (code, out) == (3, "") and "Not ready" in err
    page = report.read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|//|url\((?!#)|@import|\bsrc=|\bhref=(?!\"#)", page.replace("<!doctype", ""))
    assert "contradictory-pairs" in page and "viewport" in page and "prefers-color-scheme: dark" in page
    assert page.count("<svg") == 1 and page.count('<article class="card"') == len(seeded[2]) + 1


def test_a_page_with_every_figure() -> None:
    rows = [pair(at, f"p {at}", "yes " * (at % 5 + 1), "no", (2, 1, 0)) for at in range(60)]
    audit = audit_records(rows, tokenizer=tiny_tokenizer(), max_length=12, name="every.jsonl")
    page = as_html(audit)
    assert "limit: 12 tokens" in page and "tokens by script" in page.lower() and "noise ceiling" in page
    assert page.count("<svg") == 2
    assert "<code>--method robust</code>" in page
    text = as_text(audit)
    assert "tokens a character" in text and "one judgement is wrong" in text
    assert "\x1b[" in as_text(audit, colour=True) and "\x1b[" not in text


# --- mending -------------------------------------------------------------------------------------------------------


def test_what_is_dropped_is_no_longer_found(
    run: Run, seeded: tuple[Path, Path, dict[str, int]], tmp_path: Path
) -> None:
    path, held, expected = seeded
    cleaned = tmp_path / "cleaned.jsonl"
    names = ",".join(expected)
    code, _, err = run(path, "--eval-data", held, "--drop", names, "--write", cleaned)
    assert code == 0 and "rows dropped" in err
    audit = json.loads(run(cleaned, "--eval-data", held, "--format", "json", "--fail-on", "info").out)
    assert audit["findings"] == []
    before = path.read_text(encoding="utf-8").splitlines()
    after = cleaned.read_text(encoding="utf-8").splitlines()
    rest = iter(before)
    assert all(line in rest for line in after)  # as they were, in the same order
    assert len(after) == audit["rows"]


def test_one_name_drops_its_own_rows_only(run: Run, tmp_path: Path) -> None:
    rows = clean_rows(5)
    more = {"note": "kept", "number": 1}
    path = write(tmp_path / "a.jsonl", [rows[0] | more, rows[0] | more, row("p", "x", "x"), *rows[1:]])
    cleaned = tmp_path / "b.jsonl"
    _, _, err = run(path, "--drop", "exact-duplicates,empty-answer", "--write", cleaned)
    assert "1 rows dropped, 6 written" in err and "not found here: empty-answer" in err
    kept = [json.loads(line) for line in cleaned.read_text(encoding="utf-8").splitlines()]
    assert kept == [rows[0] | more, row("p", "x", "x"), *rows[1:]]


def test_a_row_of_several_pairs_is_not_dropped_for_one(run: Run, tmp_path: Path) -> None:
    asked = {"question": "q", "passages": [], "preference": [1, 1, 1], "prediction 1": "a", "prediction 2": "b"}
    path = write(tmp_path / "k.jsonl", [asked | {"prediction 3": "c"}, asked | {"prediction 3": "d"}])
    code, _, err = run(path, "--drop", "exact-duplicates", "--write", tmp_path / "out.jsonl")
    if load_preferences(path).train[0].source.number == load_preferences(path).train[1].source.number:
        assert code == 2 and "the row holds 3 pairs, of which 1 would have to go" in err
        assert not (tmp_path / "out.jsonl").exists()


# --- flags ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-length", "9"], "--max-length has no effect without --model"),
        (["--score"], "--score has no effect without --model"),
        (["--model", "demo", "--score-sample", "4"], "--score-sample has no effect without --score"),
        (["--model", "demo", "--max-length", "0"], "--max-length is 0; it must be at least 1"),
        (["--drop", "exact-duplicates"], "--drop NAME,... and --write CLEAN.jsonl go together"),
        (["--write", "x.jsonl"], "--drop NAME,... and --write CLEAN.jsonl go together"),
        (["--drop", "exact-duplicate", "--write", "x.jsonl"], "no such finding; did you mean exact-duplicates?"),
        (["--drop", "length-bias", "--write", "x.jsonl"], "no single row is to blame"),
        (["--output", "{file}"], "is the data itself and would be overwritten"),
        (["--drop", "exact-duplicates", "--write", "{file}"], "is the data itself and would be overwritten"),
        (["--output", "/proc/none/x"], "cannot be written"),
    ],
)
def test_bad_flags_are_one_message(run: Run, clean: Path, words: list[str], message: str) -> None:
    before = clean.read_bytes()
    code, _, err = run(clean, *(word.format(file=clean) for word in words))
    assert code == 2 and message in err and "Traceback" not in err
    assert clean.read_bytes() == before


def test_a_file_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    code, _, err = run(tmp_path / "none.jsonl")
    assert code == 2 and "no such file" in err


def test_every_row_dropped_writes_nothing(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", [row("p", "a", "b"), row("p", "b", "a")])
    code, _, err = run(path, "--drop", "contradictory-pairs", "--write", tmp_path / "g.jsonl")
    assert code == 2 and "every row would be dropped" in err and not (tmp_path / "g.jsonl").exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def _statistics(out: str) -> dict[str, Any]:
    return json.loads(out)["statistics"]


@pytest.mark.slow
def test_a_model_brings_tokens_and_a_sample_of_scores(run: Run, clean: Path, model: Path) -> None:
    _, out, _ = run(clean, "--model", model, "--format", "json")
    statistics = _statistics(out)
    assert statistics["tokens"]["max_length"] == 2048 and "reference" not in statistics
    code, out, _ = run(clean, "--model", model, "--max-length", "40", "--format", "json")
    assert code == 3 and _statistics(out)["tokens"]["max_length"] == 40
    scored = ("--model", model, "--score", "--score-sample", 6, "--dtype", "float32", "--format", "json")
    assert _statistics(run(clean, *scored).out)["reference"]["sample"] == 6


def test_a_model_that_is_none(run: Run, clean: Path, tmp_path: Path) -> None:
    code, _, err = run(clean, "--model", tmp_path / "nothing")
    assert code == 2 and "nothing" in err


def test_an_adapter_gives_its_bases_context(run: Run, clean: Path, model: Path, tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(model)}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    _, out, _ = run(clean, "--model", tmp_path / "adapter", "--format", "json")
    assert _statistics(out)["tokens"]["max_length"] == 2048


# --- the page in docs ----------------------------------------------------------------------------------------------


def test_the_page_explains_every_finding() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    assert not [name for name in CATALOGUE if f"`{name}`" not in page]
