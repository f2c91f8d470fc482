"""What is recommended to those who have prompts, and something that judges answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from likelier.advice.online_recommend import OnlineRecommendation, prompts_alone, recommend_online
from likelier.cli import main as cli
from likelier.online.config import parse_run
from likelier.runs.folder import RunFolder
from likelier.training.config import read_yaml
from likelier.utils.errors import ConfigError, DataError
from tests.advice.test_advice import typed
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows

PROMPTS = [{"prompt": [{"role": "user", "content": f"Say {number}"}], "answer": str(number)} for number in range(60)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("online") / "tiny"))


def untimed(planner: Any, work: Any) -> Any:
    raise ConfigError("nobody measured")


def advise(model: str, folder: Path, rows: list[dict[str, Any]] | None = None, **more: Any) -> OnlineRecommendation:
    path = write_rows(folder / "prompts.jsonl", PROMPTS if rows is None else rows)
    given: dict[str, Any] = {"memory": 24 * 10**9, "device": "cpu", "speed_of": untimed}
    return recommend_online([str(path)], model, **(given | more))


def parsed(found: OnlineRecommendation, folder: Path) -> Any:
    """The run file as its parser takes it, which says what the recommendation says."""
    path = folder / "run.yaml"
    path.write_text(found.run_file, encoding="utf-8")
    run = parse_run(read_yaml(str(path)))
    assert run == parse_run(found.options)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reward", "row", "doubt"),
    [
        ((), "prompts alone", "can be gamed"),
        (("exact:answer",), "a verifier at hand", "can be gamed"),
        (("implicit:run", "json"), "a reward model at hand", "over-optimized"),
    ],
)
def test_what_judges_decides_the_row(
    reward: tuple[str, ...], row: str, doubt: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likelier.advice.beside.reward_bytes", lambda reward: 0)
    found = advise(model, tmp_path, reward=reward)
    run = parsed(found, tmp_path)
    assert found.choice.row == row and run.run.method == "grpo"
    assert run.online.reward == (reward or ("my_rewards.py:score",)) and run.run.eval_fraction == 0.1
    assert any(doubt in words for words in found.doubts) and bool(found.online_needs) == (not reward)
    commands = [typed(line) for line in found.alternatives if "likelier train " in line]
    methods = ["online_dpo", "ppo"] if row == "a reward model at hand" else ["online_dpo"]
    assert [one.run.method for one in commands] == methods
    assert all(one.online.reward == run.online.reward for one in commands)
    assert found.untimed == "nobody measured" and found.prompts.held_count == 6


@pytest.mark.slow
def test_what_was_given_stands_in_the_run_file(model: str, tmp_path: Path) -> None:
    found = advise(model, tmp_path, reward=["json"], given={"eval_fraction": 0.5, "seed": 7})
    run = parsed(found, tmp_path)
    assert (run.run.eval_fraction, run.training.seed, found.prompts.held_count) == (0.5, 7, 30)
    few = advise(model, tmp_path, PROMPTS[:8], reward=["json"])
    assert parsed(few, tmp_path).run.eval_fraction is None
    assert any("so few prompts" in doubt for doubt in few.doubts)


@pytest.mark.slow
def test_what_does_not_fit_is_said(model: str, tmp_path: Path) -> None:
    found = advise(model, tmp_path, reward=["json"], memory=10**8)
    assert not found.fitted.fits and any("no way of training fits" in doubt for doubt in found.doubts)


def test_judgements_whose_names_are_mistyped_are_no_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "choosen": "b", "rejectd": "c"}]
    assert prompts_alone([str(write_rows(tmp_path / "typo.jsonl", rows))], None) is None
    assert prompts_alone([str(tmp_path / "absent.jsonl")], None) is None
    found = prompts_alone([str(write_rows(tmp_path / "p.jsonl", PROMPTS))], None)
    assert found is not None and len(found.train) == 60


@pytest.mark.slow
def test_a_file_of_prompts_is_advised_on(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("likelier.advice.speed.speed_for", lambda gpu: untimed)
    path = str(write_rows(tmp_path / "prompts.jsonl", PROMPTS[:8]))
    asked = ["recommend", path, "--model", model, "--memory", "24GB", "--device", "cpu"]
    output = str(tmp_path / "run.yaml")
    assert cli.main([*asked, "--output", output]) == 0
    said = capsys.readouterr().out
    assert "row of the table: prompts alone" in said and "TO BE WRITTEN" in said
    assert cli.main([*asked, "--format", "json", "--reward", "length:3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["row"], found["methods"], found["online"]) == ("a verifier at hand", ["grpo"], True)
    assert found["run"]["reward"] == ["length:3"] and found["memory"]["fits"] is True
    for flags in (["--no-reference"], ["--goal", "quick"], ["--gpus", "2"], ["--max-length", "64"]):
        assert cli.main([*asked, *flags]) == 2
        assert "has no effect where the policy writes its answers itself" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("default::likelier.utils.errors.LikelierWarning")
def test_the_written_run_trains_as_it_stands(model: str, tmp_path: Path) -> None:
    found = advise(model, tmp_path, PROMPTS[:8], reward=["length:3"])
    (tmp_path / "run.yaml").write_text(found.run_file, encoding="utf-8")
    short = [
        "--max-steps",
        "2",
        "--max-new-tokens",
        "4",
        "--answers-per-prompt",
        "2",
        "--output",
        str(tmp_path / "run"),
    ]
    assert cli.main(["train", str(tmp_path / "run.yaml"), *short]) == 0
    assert RunFolder(tmp_path / "run").is_finished()


@pytest.mark.slow
def test_pairs_and_a_program_that_judges_are_prompts_too(model: str, tmp_path: Path) -> None:
    found = advise(model, tmp_path, pair_rows(20), reward=["length:3"])
    assert found.choice.row == "a verifier at hand" and parsed(found, tmp_path).run.method == "grpo"


def test_a_file_that_is_neither_is_refused_as_before(tmp_path: Path) -> None:
    from likelier.advice.evidence import gather

    path = str(write_rows(tmp_path / "typo.jsonl", [{"prompt": "a", "choosen": "b", "rejectd": "c"}]))
    with pytest.raises(DataError):
        gather([path])
