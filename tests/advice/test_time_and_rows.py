"""What `estimate` says of a run before it runs: rows kept, rows over the length, steps, time. No clock decides."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier.advice import speed
from likelier.advice.memory import planner_for
from likelier.advice.rundata import RowPlan, proposed_length
from likelier.advice.speed import measured
from likelier.advice.timing import rows_of_run
from likelier.cli.main import main
from likelier.data.load import load_preferences
from likelier.models.options import LoraOptions
from likelier.objectives import DPO, METHODS, MPO
from likelier.training.config import objective_of
from likelier.training.duration import Speed, clock_words, duration
from likelier.training.options import TrainingOptions
from likelier.training.work import Work, work_of
from tests.helpers.small_runs import save_tiny, write_rows
from tests.helpers.support import tiny_model

SPEED = Speed(trained_token=2.0, scored_token=1.0, written=3.0, update=5.0, off=0.3, words="made up")


def rows(count: int, long: int = 0) -> list[dict[str, str]]:
    """Short rows, and after them so many long ones."""
    short = [{"prompt": f"say {number}", "chosen": "yes now", "rejected": "no"} for number in range(count)]
    return short + [{"prompt": "word " * 70, "chosen": f"yes {number}", "rejected": "no"} for number in range(long)]


def plan_of(model: Path, folder: Path, found: list[dict[str, Any]], method: str = "dpo", **more: Any) -> RowPlan:
    held = {"eval_fraction": more.pop("eval_fraction")} if "eval_fraction" in more else {}
    data = load_preferences(write_rows(folder / "pairs.jsonl", found), **held)
    return rows_of_run(data, str(model), method, options=TrainingOptions(**more))


def counted(plan: RowPlan, method: str = "dpo", **options: Any) -> Work:
    given: dict[str, Any] = {"token_budget": 1024, "device": "cpu", "adapter": True, "share": plan.share}
    return work_of(plan.train, plan.held_out, METHODS[method], TrainingOptions(**options), **given)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("time") / "tiny")


def test_every_row_is_counted_once(model: Path, tmp_path: Path) -> None:
    blank = {"prompt": "say 99", "chosen": "  ", "rejected": "no"}
    plan = plan_of(model, tmp_path, [*rows(20, long=4), blank], max_length=64)
    assert (plan.read, plan.kept, plan.over) == (25, 20, 4)
    assert plan.left_out == {"empty-answer": 1}
    assert "25 rows: 20 kept; 4 are over max_length 64" in plan.words()[0]
    assert "1 x empty-answer" in plan.words()[1]


def test_held_out_rows_that_cannot_be_used_are_counted(model: Path, tmp_path: Path) -> None:
    tied = [row | {"votes": [1, 1, 0] if number % 2 else [3, 0, 0]} for number, row in enumerate(rows(40))]
    plan = plan_of(model, tmp_path, tied, eval_fraction=0.5)
    assert plan.held_count and (plan.read, plan.kept) == (40, 20)
    assert plan.left_out == {"undecided-pair": 20}


def test_a_length_is_proposed_that_keeps_nearly_all(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path, rows(20, long=4))
    assert plan.kept_at(proposed_length(plan)) == 1.0
    few_long = replace(plan, lengths=(*(100,) * 995, *(900,) * 5), context=2048)
    assert proposed_length(few_long) == 128
    said = "\n".join(few_long.words())
    assert "max_length 128: keeps 99.5% of the rows" in said and "max_length 1,024: keeps 100.0%" in said
    assert "5% more to compute" in said


def test_held_out_rows_are_apart(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path, rows(40), eval_fraction=0.25)
    assert plan.train_count + plan.held_count == plan.kept == 40 and 5 <= plan.held_count <= 15
    assert f"{plan.held_count} of them held out" in plan.words()[0]


def test_work_grows_with_epochs_and_stops_at_steps(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path, rows(40))
    one, two = (counted(plan, batch_size=8, epochs=epochs) for epochs in (1, 2))
    assert (one.steps, two.steps) == (5, 10) and two.training == 2 * one.training
    assert one.training == sum(row.tokens for row in plan.rows) == one.reference == two.reference
    few = counted(plan, batch_size=8, max_steps=2)
    assert few.steps == 2 and few.training == few.reference < one.training
    assert counted(plan, "simpo", batch_size=8).reference == 0
    live = counted(plan, batch_size=8, reference_scores="live")
    assert (live.reference, live.statistics) == (0, live.training)
    assert counted(plan, batch_size=8, reference_moves="soft") == live


def test_of_a_reference_that_moves_the_held_out_rows_are_scored_once(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path, rows(40), eval_fraction=0.25)
    stays, moves = (counted(plan, batch_size=8, reference_moves=how) for how in (None, "hard"))
    assert moves.reference == stays.reference - stays.training > 0  # in one pass
    assert moves.statistics == moves.training == stays.training and stays.statistics == 0


def test_a_baseline_and_evaluations_are_counted(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path, rows(40), "kto", eval_fraction=0.25)
    work = counted(plan, "kto", batch_size=8, eval_steps=3, eval_new_tokens=10)
    assert work.statistics > 0 and work.evaluations == 2 + (work.steps - 1) // 3
    assert work.written == 10 * (2 + work.evaluations)
    silent = counted(plan, "kto", batch_size=8, eval_steps=3, eval_prompts=0)
    assert silent.written == 0 and silent.evaluating < work.evaluating


def test_a_time_is_work_at_a_speed(model: Path, tmp_path: Path) -> None:
    work = counted(plan_of(model, tmp_path, rows(40), eval_fraction=0.25), batch_size=8)
    found = duration(work, SPEED, weights=0, trained=0)
    assert found.seconds["training"] == 2 * work.training + 5 * work.steps
    assert found.seconds["reference"] == work.reference
    assert found.seconds["evaluating"] == work.evaluating + 3 * work.written
    assert "30% either way" in found.line() and found.as_json()["parts"]["reference"] == work.reference
    assert [clock_words(one) for one in (9.6, 600, 36_000, 864_000)] == ["10 s", "10 min", "10.0 h", "10.0 days"]


def test_layers_are_drawn_on_and_the_head_by_its_vocabulary() -> None:
    whole = speed._drawn_on(speed._Timed(3.0, 1.5, 0.3), speed._Timed(5.0, 2.5, 0.5), times=10, head=4)
    assert (whole.trained, whole.scored) == (1 * 4 + 2 * 10, 0.5 * 4 + 1 * 10)


@pytest.mark.parametrize("whole", [True, False])
def test_a_calibration_needs_a_configuration_alone(
    whole: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_WHOLE", 10**9 if whole else 0)
    plan = plan_of(model, tmp_path, rows(40), eval_fraction=0.25)
    config = tiny_model(dtype=torch.float32).config
    more: dict[str, Any] = {"device": "cpu", "rows": plan.rows, "max_length": 64}
    planner = planner_for(config, method="dpo", lora=LoraOptions(lora_r=4), **more)
    state, ticks = torch.get_rng_state(), itertools.count(0.0)  # a second between each two looks at the clock
    found = measured(planner, counted(plan, batch_size=8), clock=lambda: next(ticks))
    assert torch.equal(state, torch.get_rng_state())
    assert found.trained_token > 0 and found.scored_token > 0 and found.update > 0
    assert ("the whole model" if whole else "of its") in found.words


def test_a_configuration_and_a_tokenizer_are_enough_for_rows_and_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measured", lambda planner, work: SPEED)
    folder = save_tiny(tmp_path / "config-only")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    data = write_rows(tmp_path / "pairs.jsonl", rows(40))
    assert main(["estimate", "--model", str(folder), "--data", str(data), "--batch-size", "8", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "40 rows: 40 kept" in said and "5 steps" in said


def test_estimate_says_rows_steps_and_time(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measured", lambda planner, work: SPEED)
    data = write_rows(tmp_path / "mine.jsonl", [{"q": f"say {one}", "good": "yes", "bad": "no"} for one in range(40)])
    asked = ["estimate", "--model", str(model), "--data", str(data), "--batch-size", "8", "--lora-r", "4"]
    asked += ["--device", "cpu", "--eval-fraction", "0.25", "--columns", "prompt=q", "chosen=good", "rejected=bad"]
    assert main([*asked, "--max-steps", "4"]) == 0
    said = capsys.readouterr().out
    assert "40 rows: 40 kept" in said and "4 steps, about" in said and "made up" in said
    assert main([*asked, "--max-steps", "4", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["kept"] == 40 and found["time"]["LoRA r=4"]["steps"] == 4
    parts = {"training", "reference", "evaluating", "saving", "starting", "sampling"}
    assert parts == set(found["time"]["LoRA r=4"]["parts"])
    assert {"plans", "peak_by_method", "models_in_memory"} <= set(found)


def test_a_sum_is_planned_by_what_its_losses_need(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path, rows(40))
    free, bound = ({"loss": loss} for loss in ("simpo=1 cpo=1", "dpo=0.8 bco_pair=0.2"))
    works = [
        work_of(plan.train, [], objective, TrainingOptions(batch_size=8), token_budget=64, device="cpu", adapter=True)
        for objective in (objective_of("weighted_sum", free), objective_of("weighted_sum", bound), MPO, DPO)
    ]
    assert works[0].reference == 0 and works[1].reference == works[3].reference > 0
    assert works[3].statistics == works[0].statistics == 0
    assert works[1].statistics == works[2].statistics == works[1].training  # once more, for the step's means


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "loss is missing; write METHOD=WEIGHT for each of at least two"),
        (["--loss", "dpo=1", "dop=1"], "loss: unknown method 'dop'"),
        (
            ["--loss", "simpo=1", "cpo=1", "--reference-scores", "live"],
            "weighted_sum uses no reference",
        ),
        (
            ["--method", "dpo", "--loss", "simpo=1", "cpo=1"],
            "loss has no effect on dpo (it belongs to weighted_sum",
        ),
        (["--method", "smpo"], "unknown method 'smpo'; did you mean"),
    ],
)
def test_a_sum_without_its_losses_has_no_plan(
    words: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["estimate", "--model", str(model), "--device", "cpu", "--method", "weighted_sum"]
    assert main([*asked, *words]) == 2
    assert message in capsys.readouterr().err


def test_flags_about_data_need_data(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in (["--eval-fraction", "0.2"], ["--system-prompt", "x"], ["--epochs", "2"], ["--columns", "prompt=q"]):
        assert main(["estimate", "--model", str(model), "--device", "cpu", *flag]) == 2
        assert "has no effect without --data" in capsys.readouterr().err


def test_what_cannot_be_timed_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = write_rows(tmp_path / "pairs.jsonl", rows(20))
    asked = ["estimate", "--model", str(model), "--data", str(data), "--device", "cuda", "--memory", "8GB"]
    assert main([*asked, "--lora-r", "4"]) == 0
    assert "there is no GPU here to measure on" in capsys.readouterr().out
