"""Run folders of the version before the package had rooms load in every command, with the figures of that version."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from likelier.cli import main as cli
from tests.helpers.support import numbers

pytestmark = pytest.mark.slow

MADE = Path(__file__).resolve().parents[1] / "fixtures" / "run_before_rooms"
MADE_IN = "/fixture"
FLAGS = (
    "--model model --data pairs.jsonl --batch-size 4 --max-steps 6 --learning-rate 2e-2 --beta 0.3 --lora-r 4 "
    "--eval-fraction 0.25 --eval-steps 3 --eval-prompts 2 --eval-new-tokens 8 --reference-store reference "
    "--dtype float32 --token-budget 1024"
)
Say = Callable[..., str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs that may be changed, as if they had been made there."""
    folder = shutil.copytree(MADE, tmp_path / "made")
    for card in folder.glob("runs/*/run.json"):
        card.write_text(card.read_text(encoding="utf-8").replace(f'"{MADE_IN}/', f'"{folder}/'), encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; gives what it says (results before progress), spaces as one."""

    def command(words: str, *more: str, code: int = 0) -> str:
        assert cli.main([*words.split(), *more]) == code
        return " ".join(" ".join(capsys.readouterr()).split())

    return command


def test_diagnose(say: Say) -> None:
    said = say("diagnose runs/done")
    assert said.startswith("done: dpo, 6 of 6 steps, done good healthy Healthy numbers loss: 0.693 at first, 0.168 at")
    assert "held-out loss: 0.693 at first, 0.345 at the end, of 6 rows margin: +3.12 nats (" in said
    assert (
        "KL to the reference: not distinguishable from 0: 1.21 nats an answer (standard error 1.9), 2 answers" in said
    )
    assert "cut: dpo, 3 of 6 steps, interrupted warning interrupted" in say("diagnose runs/cut")


def test_report(say: Say, here: Path) -> None:
    assert "runs/done/report.html" in say("report runs/done")
    page = (here / "runs" / "done" / "report.html").read_text(encoding="utf-8")
    assert 'id="verdict-healthy"' in page and "0.9349" in page and "0.3451" in page and "1.206" in page


def test_inspect(say: Say) -> None:
    said = say("inspect runs/done --row 1")
    assert "yes −4.7576 −6.0825 1.3249 0.3975" in said and "reward margin 0.9011" in said and "loss 0.3408 dpo" in said


def test_chat(say: Say) -> None:
    said = say("chat runs/done --max-new-tokens 8 --prompt", "the cat")
    assert "reward +0.3260 = 0.3 x +1.087 nats" in said and "reward -1.5554 = 0.3 x -5.185 nats" in said


def test_score(say: Say, here: Path) -> None:
    said = say("score --model runs/done --data pairs.jsonl --output scores.jsonl")
    assert "reward accuracy 100.0% [86.2%, 100.0%]" in said and "ranking accuracy 58.3% [38.8%, 75.5%]" in said
    first = json.loads((here / "scores.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["chosen"]["reward"] == pytest.approx(0.456331, abs=1e-5)
    assert first["rejected"]["reward"] == pytest.approx(-0.444745, abs=1e-5)


def test_merge(say: Say, here: Path) -> None:
    assert "checked on 16 answers (119 tokens, from pairs.jsonl)" in say("merge runs/done merged")
    before, after = (load_file(here / name / "model.safetensors") for name in ("model", "merged"))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)


def test_compare(say: Say) -> None:
    said = say("compare runs/done runs/cut")
    assert "done dpo 0.3 66.7% (30 to 90.3) 83.3% (43.6 to 97) 100.0% (61 to 100) 1.21 ± 1.9 3.12 1.00x" in said
    assert "cut dpo 0.3 66.7% (30 to 90.3) 83.3% (43.6 to 97) 83.3% (43.6 to 97) 1.72 ± 2 1.64 1.00x" in said


def test_watch(say: Say) -> None:
    said = say("watch --once runs/done")
    assert "step 6 of 6" in said and "loss 0.1682" in said and "accuracy 100.0% (61.0% to 100.0%), step 6" in said
    assert "step 3 of 6" in say("watch --once runs/cut", code=3)


def test_a_cut_run_ends_where_the_whole_one_ended(say: Say, here: Path) -> None:
    said = say(f"train {FLAGS} --output runs/cut --resume")
    assert "reference scores: 0 computed, 48 found in the store" in said and "going on from step 3" in said
    cut, done = (here / "runs" / name for name in ("cut", "done"))
    ours, theirs = (load_file(run / "adapter_model.safetensors") for run in (cut, done))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.allclose(ours[name], theirs[name], rtol=0, atol=1e-6), name
    assert json.loads((cut / "run.json").read_text(encoding="utf-8"))["status"] == "done"
    lines = [(run / "metrics.jsonl").read_text(encoding="utf-8").splitlines() for run in (cut, done)]
    for one, other in zip(*(map(json.loads, run) for run in lines), strict=True):
        assert numbers(one) == pytest.approx(numbers(other), abs=1e-5)
