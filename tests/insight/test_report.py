"""The report of a run: whole for every method and state, bounded, and safe against what lies in the data."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from likelier.cli import main as cli
from likelier.insight.report.page import write_report
from likelier.objectives import METHODS
from likelier.training.config import parse
from likelier.utils.errors import RunFolderError
from tests.helpers.methods import flags_of
from tests.helpers.report_runs import EVIL, SECTIONS, hostile_data, huge_run, write_run
from tests.helpers.small_runs import SmallRuns, forget_files, read_card, save_tiny, staged, train, write_card

MOST_BYTES = 3_000_000
_VOID = {"meta", "br", "img", "input"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text outside of styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.elements if "id" in attrs]

    def section(self, name: str) -> str:
        """Whether the section is there is the caller's business; its text up to the next heading's id."""
        start = self.text.index(name)
        return self.text[start : start + 400]


def report_of(folder: Path, without: tuple[str, ...] = ()) -> Page:
    file = write_report(folder)
    assert file == folder / "report.html"
    assert file.stat().st_size < MOST_BYTES
    return checked(file.read_text(encoding="utf-8"), without)


def checked(text: str, without: tuple[str, ...] = ()) -> Page:
    """A page is whole, fetches nothing, runs nothing, and has every section once, but for those it is `without`."""
    page = Page(text)
    assert [name for name in page.ids() if name in SECTIONS] == [name for name in SECTIONS if name not in without]
    assert len(page.ids()) == len(set(page.ids()))
    names = {name for name, _ in page.elements}
    assert not names & {"script", "iframe", "object", "embed", "link", "img", "form", "base"}
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcset")]
        assert (attrs.get("href") or "#").startswith("#")
        assert "url(" not in (attrs.get("style") or "").replace("url(#", "")
    policies = [attrs.get("content") for _, attrs in page.elements if "http-equiv" in attrs]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    return page


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each method on data full of markup, in folders whose names are."""
    root = tmp_path_factory.mktemp("trained")
    model, data = save_tiny(root / "tiny"), hostile_data(root)
    more = ("--eval-fraction", "0.25", "--learning-rate", "1e-2")
    short = {name: () if kind.reads_values else ("--eval-new-tokens", "8") for name, kind in METHODS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        return {
            name: train(model, data, root / f"{name}<i>&", *flags_of(name), *more, *short[name]) for name in METHODS
        }


# --- every method, every state -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_whole_report_in_which_markup_stays_text(trained: dict[str, Path], method: str) -> None:
    writes_none = ("answers", "tokens") if METHODS[method].reads_values else ()
    page = report_of(trained[method], without=writes_none)
    assert f"{method}<i>&" in page.text
    assert METHODS[method].reads_values or "<script>document.title" in page.text  # in answers, which it writes none of
    charts = [attrs for name, attrs in page.elements if name == "svg"]
    assert len(charts) >= (5 if METHODS[method].reads_values else 7)  # nothing of answers that it wrote
    assert "Nothing yet" not in page.text
    assert "does not hold it" not in page.text
    rows = "pairs" if METHODS[method].data == "pairs" else "rows"
    assert f"{method.upper()} trained" in page.text
    assert f"for 2 steps of 4 {rows}" in page.text


@pytest.mark.slow
def test_a_report_is_the_same_each_time(trained: dict[str, Path]) -> None:
    first = write_report(trained["dpo"]).read_bytes()
    assert write_report(trained["dpo"]).read_bytes() == first


@pytest.mark.slow
def test_the_sections_hold_what_the_run_measured(trained: dict[str, Path]) -> None:
    card = read_card(trained["dpo"])
    text = report_of(trained["dpo"]).text
    end = card["evaluation_end"]
    assert f"{100 * end['eval_pair_accuracy']:.1f} %" in text
    assert "no reward differs yet" in text  # before the first step
    assert card["reference"]["weights"] in text
    assert card["data"]["hash"] in text
    assert f"torch {card['versions']['torch']}" in text
    assert "ln 2" in text or "0.6931" in text
    assert "largest margin" in text.lower()
    assert "tok-up" in (trained["dpo"] / "report.html").read_text(encoding="utf-8")
    for title in ("Loss", "Rewards", "Margin", "Accuracy", "KL to the reference", "Gradient norm", "Learning rate"):
        assert f" {title} " in text


@pytest.mark.slow
def test_the_run_file_makes_the_same_run_again(trained: dict[str, Path], tmp_path: Path) -> None:
    for method in ("ipo", "kto"):
        text = report_of(trained[method]).text
        assert "likelier train run.yaml" in text
        raw = (trained[method] / "report.html").read_text(encoding="utf-8")
        (shown,) = [Page(part).words[0] for part in re.findall(r"<pre>.*?</pre>", raw, re.DOTALL)]
        options = yaml.safe_load(shown)
        parse(options)  # nothing in it is unknown or without effect
        again = tmp_path / method
        (tmp_path / "run.yaml").write_text(shown, encoding="utf-8")
        assert cli.main(["train", str(tmp_path / "run.yaml"), "--output", str(again)]) == 0
        assert read_card(again)["fingerprint"] == read_card(trained[method])["fingerprint"]


def test_a_run_without_held_out_data_says_how_to_have_some(runs: SmallRuns, tmp_path: Path) -> None:
    shutil.copytree(runs.whole, tmp_path / "run")
    text = report_of(tmp_path / "run").text
    assert text.count("give --eval-fraction 0.1, or --eval-data FILE") == 4
    assert "Gradient norm" in text


def test_a_run_that_goes_on_or_has_failed_says_so(runs: SmallRuns, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs.adapter, folder)
    card = read_card(folder)
    metrics = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    (folder / "metrics.jsonl").write_text(metrics + '{"step": 3, "lo', encoding="utf-8")  # being written
    shutil.rmtree(folder / "evaluations")
    for name in ("evaluation_end", "training_seconds", "steps", "files"):
        del card[name]
    write_card(folder, card | {"status": "training", "total_steps": 9})
    assert "This run has not ended: 2 steps of 9 so far." in report_of(folder).text
    write_card(folder, card | {"status": "failed", "error": "TrainingError: the loss <b>is</b> not finite"})
    assert "This run failed after 2 steps of 2: TrainingError: the loss <b>is</b> not finite" in report_of(folder).text
    write_card(folder, card | {"status": "interrupted"})
    assert "This run was interrupted after 2 steps" in report_of(folder).text


def test_only_the_run_file_shows_where_files_lie(runs: SmallRuns, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs.adapter, folder)
    error = "FileNotFoundError: [Errno 2] No such file: '/home/me/secret plans/judge.py' (or /home/me/secret/x.py)"
    card = read_card(folder)
    card["run"]["eval_reward"] = "/home/me/secret plans/judge.py"
    write_card(folder, card | {"status": "failed", "error": error})
    raw = (write_report(folder)).read_text(encoding="utf-8")
    before, shown, after = re.split(r"<pre>(.*?)</pre>", raw, flags=re.DOTALL)
    assert "No such file: &#39;judge.py&#39; (or x.py)" in before
    assert "secret" not in before + after and str(tmp_path) not in before + after
    assert "secret plans" in shown and "It holds local paths, where the run named any." in after


def test_a_run_that_was_stopped_before_its_first_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"status": "failed", "method": "dpo", "error": "no memory"}, [])
    text = report_of(folder).text
    assert "This run failed after 0 steps: no memory" in text
    assert "No step has been logged." in text
    assert "holds no account of the data" in text


def test_an_older_run_has_a_report_too(runs: SmallRuns, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(runs.simpo, folder)
    card = read_card(folder)
    for name in ("total_steps", "parameters", "evaluation", "peak_memory_gib", "versions", "files"):
        card.pop(name, None)
    write_card(folder, card)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    old = [{name: value for name, value in row.items() if name not in ("seconds", "items")} for row in rows]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old), encoding="utf-8")
    (folder / "audit.json").write_text('{"rows": 12, "usable": 12, "findings": []}', encoding="utf-8")
    shutil.rmtree(folder / "evaluations", ignore_errors=True)
    assert "SIMPO trained" in report_of(folder).text


def test_a_run_in_stages_tells_its_last_stage_and_the_whole(runs: SmallRuns, tmp_path: Path) -> None:
    root = staged(tmp_path / "whole", ("sft", runs.simpo), ("dpo", runs.adapter))
    text = report_of(root).text
    assert "whole/2-dpo" in text
    assert "A stage of a run in stages: sft (sft, done), then dpo (dpo, this one) ." in text
    first = report_of(root / "1-sft").text
    assert "whole/1-sft" in first


@pytest.mark.slow
def test_rows_that_were_left_out_are_named_by_file_and_line(trained: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    forget_files(shutil.copytree(trained["dpo"], folder))
    audit = {
        "rows": 9,
        "usable": 7,
        "findings": [{"name": "empty-answer", "count": 2, "examples": ["/home/me/secret/prefs.jsonl:7"]}],
        "audit": {
            "verdict": "Usable, but look first at length-bias.",
            "findings": [
                {
                    "name": "length-bias",
                    "count": 5,
                    "severity": "warning",
                    "summary": "the longer one wins",
                    "examples": [],
                    "why": "length is learned",
                    "mend": "use --drop length-bias",
                }
            ],
        },
    }
    (folder / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
    page = report_of(folder)
    for words in ("empty-answer", "prefs.jsonl:7", "The longer one wins.", "length is learned", "look first at"):
        assert words in page.text
    assert "secret" not in page.text
    assert "use <code>--drop length-bias</code>" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_demo_says_which_command_it_was(tmp_path: Path) -> None:
    card = {"status": "done", "method": "dpo", "policy": "demo with a new LoRA adapter of rank 16"}
    run = {"model": "demo", "data": "the built-in pairs"}
    folder = write_run(tmp_path / "run", {**card, "run": run, "options": {"max_steps": 3}}, [])
    text = report_of(folder).text
    assert "likelier demo --max-steps 3" in text
    assert "DPO trained HuggingFaceTB/SmolLM2-135M-Instruct with a new LoRA adapter of rank 16" in text


# --- bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("text", [EVIL, "'" * 100, "\U0001f600"], ids=["markup", "quotes", "wide"])
def test_a_huge_run_stays_small_and_harmless(tmp_path: Path, text: str) -> None:
    page = report_of(huge_run(tmp_path / "run", text))
    assert "characters more)" in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text
    assert text != EVIL or "{{ 7 * 7 }}" in page.text


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_where_it_is_told(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "out.html"
    assert cli.main(["report", str(runs.adapter), "--output", str(file)]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    checked(file.read_text(encoding="utf-8"))
    assert [entry.name for entry in file.parent.iterdir()] == ["out.html"]  # nothing half written beside it


def test_errors_name_the_place_and_the_mend(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(tmp_path / "nothing")]) == 2
    assert "holds no run" in capsys.readouterr().err
    with pytest.raises(RunFolderError, match=r"cannot be written.*name another --output"):
        write_report(runs.adapter, tmp_path)
    damaged = write_run(tmp_path / "damaged", {"status": "done", "method": "dpo"}, [])
    (damaged / "audit.json").write_text("{", encoding="utf-8")
    assert cli.main(["report", str(damaged)]) == 2
    assert "audit.json cannot be read" in capsys.readouterr().err
