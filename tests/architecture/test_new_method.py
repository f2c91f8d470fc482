"""A method is one class and its loss: the one of CONTRIBUTING.md, as it stands there, through every command."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from likelier.advice.choice import choose
from likelier.cli import main as cli
from likelier.insight.diagnose.facts import Facts
from likelier.objectives import DPO, METHODS, Objective, register
from likelier.objectives.advice import Advice, Case, Setting, Situation
from likelier.runs.reader import read_run
from tests.helpers.small_runs import pair_rows, read_card, save_tiny, train, write_rows

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
NAME = "squared_hinge"


def block() -> str:
    """The code under "How to add a loss"."""
    section = PAGE.read_text(encoding="utf-8").split("## How to add a loss")[1]
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return code


class World(NamedTuple):
    """The method's class, and a run that it trained."""

    kind: Any
    model: Path
    pairs: Path
    run: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The method added and, at the end, removed again."""
    root = tmp_path_factory.mktemp("method")
    (root / "my_method.py").write_text(block(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("my_method", root / "my_method.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["my_method"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIKELIER_CACHE", str(root / "cache"))
            model, pairs = save_tiny(root / "tiny"), write_rows(root / "pairs.jsonl", pair_rows())
            asked = ["--method", NAME, "--goal", "2", "--eval-fraction", "0.25", "--learning-rate", "1e-2"]
            yield World(module.SquaredHinge, model, pairs, train(model, pairs, root / "run", *asked))
    finally:
        METHODS.pop(NAME, None)
        del sys.modules["my_method"]


def said(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints."""
    capsys.readouterr()
    code = cli.main([*map(str, words)])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def test_it_is_a_class_and_a_loss_of_twenty_lines() -> None:
    code = [line for line in block().splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(code) <= 20


def test_it_trains_and_its_card_tells_what_it_is(world: World) -> None:
    card = read_card(world.run)
    assert (card["status"], card["method"]) == ("done", NAME)
    assert card["hyperparameters"] == {"nll_weight": 0.0, "beta": 0.1, "goal": 2.0}
    assert card["reference"]["step0_loss"] == pytest.approx(4.0) == card["reference"]["step0_loss_expected"]
    facts = read_run(world.run).card.facts
    assert (facts.satisfied_at, facts.source, facts.items) == (pytest.approx(20.0), "made up for this page", "pairs")


def test_readers_need_the_card_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the method is not known, what it recorded of itself is read all the same."""
    monkeypatch.delitem(METHODS, NAME)
    assert Facts(read_run(world.run)).reach == pytest.approx(20.0)


def test_its_hyperparameters_have_flags(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "reward margin from which on a pair counts as learnt (squared_hinge 1.0)" in shown
    asked = ["--model", world.model, "--data", world.pairs, "--output", tmp_path / "run", "--goal", "2"]
    assert cli.main(["train", *map(str, asked)]) == 2
    assert "goal has no effect on dpo (it belongs to squared_hinge)" in capsys.readouterr().err


def test_it_is_scored(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scores.jsonl"
    said(capsys, "score", "--model", world.run, "--data", world.pairs, "--output", output)
    assert len(output.read_text(encoding="utf-8").splitlines()) == 12


def test_it_is_inspected_with_its_loss(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "inspect", world.run, "--row", "2", "--json"))
    assert found["method"] == NAME
    margin = 0.1 * (found["chosen"]["logratio"] - found["rejected"]["logratio"])
    assert found["losses"][0]["loss"] == pytest.approx(max(0.0, 2.0 - margin) ** 2, rel=1e-5)


def test_it_is_diagnosed_and_reported(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert NAME in said(capsys, "diagnose", world.run)
    page = tmp_path / "report.html"
    said(capsys, "report", world.run, "--output", page)
    assert "SQUARED_HINGE trained" in page.read_text(encoding="utf-8")


def recommended(world: World, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    many = write_rows(folder / "many.jsonl", pair_rows(12) * 50)
    machine = ["--memory", "24GB", "--device", "cpu", "--goal", "quick", "--format", "json"]
    return json.loads(said(capsys, "recommend", many, "--model", world.model, *machine))


def test_it_is_named_by_recommend(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = recommended(world, tmp_path, capsys)
    assert found["methods"] == ["dpo"]
    assert "squared_hinge: stops at a goal without a corner; never tried" in found["alternatives"]


def test_it_is_recommended_where_it_says_so(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(5, "very many pairs", lambda known: known.pairs > 500, lambda known: f"{known.pairs:,} pairs")
    made = Advice(
        (case,), doubts=("it was made up",), settings=lambda objective, subject: [Setting("goal", 3.0, "ours")]
    )
    monkeypatch.setattr(world.kind, "advice", made)
    found = recommended(world, tmp_path, capsys)
    assert (found["methods"], found["row"], found["reasons"]) == ([NAME], "very many pairs", ["600 pairs"])
    assert "it was made up" in found["doubts"] and found["run"]["goal"] == 3.0
    assert choose(Situation(500, 0)).methods == ("dpo",)


def test_a_name_that_is_taken_is_refused(world: World) -> None:
    class Other(Objective):
        method = "dpo"

    with pytest.raises(ValueError, match="there is a method 'dpo' already: DPO"):
        register(Other)
    assert register(DPO) is DPO and METHODS["dpo"] is DPO
