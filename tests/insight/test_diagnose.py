"""The diagnosis itself: runs with little in them, numbers at the thresholds, the command, the page about it."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import main as cli
from likelier.insight.diagnose import diagnose, live_warnings
from likelier.insight.diagnose.catalogue import CATALOGUE
from likelier.insight.diagnose.facts import Facts
from likelier.insight.diagnose.items import items_of
from likelier.insight.diagnose.statistics import Level, Trend, correlation, mean_of, spikes
from likelier.insight.diagnose.words import rate
from likelier.insight.verdicts import Verdict, worst_first
from likelier.runs.card import RunCard
from likelier.runs.evaluations import NO_DETAIL, Detail
from likelier.runs.reader import Run
from tests.helpers.diagnosis_world import bad, names, numbers, the
from tests.helpers.runs_by_hand import a_run, a_step, growing
from tests.helpers.small_runs import SmallRuns, write_card

PAGE = Path(__file__).resolve().parents[2] / "docs" / "diagnosis.md"


# --- little to go by -----------------------------------------------------------------------------------------------


def test_a_diagnosis_is_never_empty() -> None:
    assert names(a_run([])) == ["unclear"]
    assert names(a_run([], status="training", total_steps=100)) == ["unfinished"]
    assert names(Run(Path("/nowhere"), RunCard(), [], [])) == ["unclear"]


@pytest.mark.parametrize(
    "missing", ["loss", "grad_norm", "learning_rate", "rewards/margins", "lengths/chosen", "epoch"]
)
def test_any_column_may_be_missing(missing: str) -> None:
    steps = [{name: value for name, value in row.items() if name != missing} for row in growing()]
    assert "healthy" in names(a_run(steps)) or missing == "rewards/margins"
    assert not live_warnings(a_run(steps))


def test_rows_of_one_metric_are_enough() -> None:
    assert names(a_run([{"step": 1, "loss": 0.69}])) == ["unclear"]
    assert bad(a_run([a_step(1, 0.0, 0.0)])) == ["not-learning/too-few-steps"]


def test_no_number_in_the_log_is_passed_over() -> None:
    steps = growing()
    steps[3]["grad_norm"] = float("nan")
    assert names(a_run(steps)) == ["healthy"]


def test_a_run_that_trains_is_not_blamed_too_early() -> None:
    early = a_run([a_step(n, 0.0, 0.0) for n in range(1, 12)], status="training", total_steps=100)
    assert not live_warnings(early) and "unfinished" in names(early)
    later = a_run([a_step(n, 0.0, 0.0) for n in range(1, 41)], status="training", total_steps=100)
    assert [one.name for one in live_warnings(later)] == ["not-learning/learning-rate"]


def test_a_run_that_failed_or_was_stopped_says_so() -> None:
    failed = a_run(growing(), status="failed", error="TrainingError: memory ran out", total_steps=40)
    verdict = diagnose(failed)[0]
    assert (verdict.name, verdict.severity) == ("failed", "error")
    assert "memory ran out" in numbers(verdict) and "12 of 40" in numbers(verdict)
    assert bad(a_run(growing(), status="interrupted")) == ["interrupted"]
    assert bad(
        a_run([a_step(1, 0.0, 0.0)], status="failed", error="TrainingError: step 2: the loss is not finite")
    ) == ["unstable"]


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        ("TrainingError: step 2: the loss is not finite for 1 rows", "unstable", "before it reached the weights"),
        ("TrainingError: step 2: the gradient norm is inf", "unstable", "before it reached the weights"),
        (
            "TrainingError: evaluation at step 9: the policy's log-probability is not finite",
            "unstable",
            "weights are damaged",
        ),
        ("WrongReferenceError: it gives a log-probability that is not finite", "wrong-reference", "before the first"),
        ("TrainingError: no weight is trained: all are frozen", "not-learning/frozen-weights", ""),
    ],
)
def test_errors_that_have_verdicts_of_their_own(error: str, name: str, words: str) -> None:
    run = a_run([], status="failed", error=error)
    assert bad(run) == [name] and words in the(run, name).meaning


# --- some of the held-out rows at intervals ------------------------------------------------------------------------


def of_rows(items: int, step: int, loss: float, right: float = 0.7, **more: float) -> dict[str, Any]:
    """An evaluation of so many rows."""
    return {"step": step, "loss": loss, "pair_accuracy": right, "items": float(items), **more}


def test_a_mean_of_some_rows_is_not_held_against_that_of_all() -> None:
    """The 256 rows are longer ones: lower log-probabilities, and a loss of their own."""
    claim: dict[str, Any] = {"reference": {"equals_policy": True}}
    still = [a_step(n, 0.0, 0.0) for n in (1, 2)]
    ratios = {"logratios/chosen": 0.0, "logratios/rejected": 0.0}
    start = of_rows(1000, 0, 0.69, **{"logps/chosen": -100.0, "logps/rejected": -100.0}, **ratios)
    some = of_rows(256, 2, 0.69, **{"logps/chosen": -140.0, "logps/rejected": -140.0}, **ratios)
    assert bad(a_run(still, [start, some], **claim)) == ["not-learning/too-few-steps"]
    assert bad(a_run(still, [start, some | {"items": 1000.0}], **claim))[0] == "wrong-reference"
    drift = a_run(growing(), [start, some], reward_scale=None, method="simpo")
    assert Facts(drift).held_out_change("logps/chosen") is None and "simpo-drift" not in names(drift)


def test_what_is_learned_is_not_told_from_other_rows() -> None:
    steps = [{"step": n, "loss": 2.0 - 0.05 * n} for n in range(1, 13)]
    sft = a_run(steps, [of_rows(1000, 0, 2.0), of_rows(256, 6, 2.3)], method="sft", reward_scale=None)
    assert names(sft) == ["healthy"] and "held-out loss" not in numbers(the(sft, "healthy"))


def test_overfitting_is_told_from_another_set_of_rows() -> None:
    start, end = of_rows(1000, 0, 0.69), of_rows(1000, 30, 0.6, 0.7)
    easy = [of_rows(256, 10, 0.5, 0.85), of_rows(256, 20, 0.49, 0.86)]
    assert bad(a_run(growing(30), [start, *easy, end])) == []
    assert bad(a_run(growing(30), [start, of_rows(256, 10, 0.8)])) == []
    wavers = [of_rows(256, 10, 0.5, 0.75), of_rows(256, 20, 0.52, 0.70)]  # 5 points: two standard errors of 256 rows
    assert bad(a_run(growing(30), [start, *wavers, end])) == []


def test_overfitting_shows_among_evaluations_of_the_same_rows() -> None:
    start, end = of_rows(1000, 0, 0.69), of_rows(1000, 30, 0.68)
    rises = [of_rows(256, step, loss) for step, loss in ((5, 0.6), (10, 0.5), (20, 0.6), (25, 0.65))]
    verdict = the(a_run(growing(30), [start, *rises, end]), "overfitting")
    assert verdict.severity == "warning" and "--max-steps 10" in verdict.advice[0]
    told = "held-out loss of 256 rows: 0.6 at step 5, 0.5 at its best (step 10), 0.65 at step 25"
    assert told in numbers(verdict)
    worse = the(a_run(growing(30), [start, of_rows(256, 10, 0.9), of_rows(1000, 30, 0.9)]), "overfitting")
    assert "held-out loss of 1000 rows: 0.69 at first" in numbers(worse)


# --- thresholds ----------------------------------------------------------------------------------------------------


def test_steps_that_would_get_there_are_told_from_those_that_would_not() -> None:
    assert bad(a_run([a_step(n, 1e-3, -1e-3) for n in range(1, 9)])) == ["not-learning/too-few-steps"]
    assert bad(a_run([a_step(n, 1e-5, -1e-5) for n in range(1, 9)])) == ["not-learning/learning-rate"]


def test_what_a_loss_reaches_for_depends_on_the_method() -> None:
    steps = growing()
    assert Facts(a_run(steps)).reach == pytest.approx(50)
    ipo = {"tau": 2.0, "length_normalize": True, "nll_weight": 0.0}
    assert Facts(a_run(steps, method="ipo", reward_scale=2.0, hyperparameters=ipo)).reach == pytest.approx(5)
    summed = ipo | {"length_normalize": False}
    assert Facts(a_run(steps, method="ipo", reward_scale=2.0, hyperparameters=summed)).reach == pytest.approx(0.25)
    assert Facts(a_run(steps, method="hinge", reward_scale=0.05)).reach == pytest.approx(20)
    assert Facts(a_run(steps, method="sigmoid_norm", reward_scale=5.0)).reach == pytest.approx(20)
    assert Facts(a_run(steps, method="simpo", reward_scale=None)).reach is None


def test_a_little_loss_of_the_chosen_answers_is_no_displacement() -> None:
    assert bad(a_run(growing(chosen=-0.005, rejected=-0.2))) == []
    assert names(a_run(growing(chosen=-0.03, rejected=-0.3))) == ["healthy", "likelihood-displacement"]
    assert bad(a_run(growing(chosen=-0.1, rejected=-0.2))) == ["likelihood-displacement"]
    assert bad(a_run(growing(chosen=-0.1, rejected=-0.2), method="apo_down")) == []


def test_a_wrong_reference_shows_in_the_first_step_unless_dropout_is_on() -> None:
    steps = [a_step(1, 0.3, 0.2), *growing()[1:]]
    claim: dict[str, Any] = {"reference": {"equals_policy": True, "words": "the policy itself"}}
    assert bad(a_run(steps, **claim)) == ["wrong-reference"]
    assert bad(a_run(steps, **claim, fingerprint={"adapter": {"dropout": 0.1}})) == []
    assert bad(a_run(steps, reference={"equals_policy": False})) == []
    rounded = [a_step(1, 0.02, 0.01), *growing()[1:]]
    assert bad(a_run(rounded, **claim)) == ["wrong-reference"]
    assert bad(a_run(rounded, **claim, precision="bfloat16-autocast")) == []


def test_a_reference_does_not_move_along_where_held_out_rewards_leave_0() -> None:
    """The effect of the last step shows in the evaluation after it, and in no logged step."""
    start = {"step": 0, "loss": 0.69, "logps/chosen": -500.0, "logratios/chosen": 0.0, "logratios/rejected": 0.0}
    end = {"step": 2, "loss": 0.6, "logps/chosen": -490.0, "logratios/chosen": 10.0, "logratios/rejected": 4.0}
    steps = [a_step(1, 0.0, 0.0), a_step(2, 0.0, 0.0)]
    assert bad(a_run(steps, [start, end], reference={"equals_policy": True})) == []
    still = end | {"logratios/chosen": 0.0, "logratios/rejected": 0.0}
    assert bad(a_run(steps, [start, still], reference={"equals_policy": True}))[0] == "wrong-reference"


def test_a_baseline_at_0_matters_where_the_desirable_answers_fall() -> None:
    kto: dict[str, Any] = {"method": "kto", "hyperparameters": {"beta": 0.1, "desirable_weight": 1.0}}
    falling = [row | {"kl": 0.0, "kl_standard_error": 0.5} for row in growing(chosen=-0.1, rejected=-0.2)]
    verdict = the(a_run(falling, **kto), "kto-baseline")
    assert verdict.severity == "warning" and "--desirable-weight 2" in verdict.advice[1]


def test_held_out_accuracy_that_falls_while_the_loss_rises() -> None:
    rows = [(0, 0.69, 0.0), (10, 0.5, 0.9), (20, 0.55, 0.8), (30, 0.56, 0.7)]
    evaluations = [{"step": step, "loss": loss, "pair_accuracy": right, "items": 400.0} for step, loss, right in rows]
    verdict = the(a_run(growing(30), evaluations), "overfitting")
    assert "90 % at its best (step 10), 70 % now" in numbers(verdict) and "--max-steps 10" in verdict.advice[0]
    assert bad(a_run(growing(30), evaluations[:2])) == []


def test_refusals_and_answers_that_do_not_end_count_only_far_away() -> None:
    start = {"step": 0, "loss": 0.69, "refusals": 0.0, "cut_answers": 0.0}
    end = {"step": 30, "loss": 0.4, "refusals": 0.6, "cut_answers": 0.5, "kl": 30.0, "kl_per_token": 0.4}
    verdict = the(a_run(growing(), [start, end]), "over-optimization")
    assert "refusals: 0 at first, 0.6 at the end" in numbers(verdict)
    near = end | {"kl": 2.0, "kl_per_token": 0.02}
    assert "over-optimization" not in names(a_run(growing(), [start, near]))


def test_ktos_own_kl_is_not_taken_for_that_of_answers() -> None:
    start, end = {"step": 0, "loss": 0.5}, {"step": 30, "loss": 0.4, "kl": 50.0, "refusals": 1.0}
    assert Facts(a_run(growing(), [start, end])).kl is None


# --- statistics ----------------------------------------------------------------------------------------------------


def test_noise_is_what_a_trend_does_not_explain() -> None:
    line = Trend(tuple(range(30)), tuple(float(value) for value in range(30)))
    assert line.rise.value == pytest.approx(20) and line.noise == pytest.approx(0.5**0.5)
    assert line.rise.surely_above(19) and not line.rise.surely_above(19.9)
    assert Trend((1, 2), (0.0, 5.0)).rise.error == float("inf")
    flat = Trend(tuple(range(30)), tuple((-1.0) ** number for number in range(30)))
    assert not flat.rise.surely_above(0.0)


def test_a_level_that_falls_for_good_is_no_spike_before_its_fall() -> None:
    steps = tuple(range(1, 21))
    assert spikes(Trend(steps, (1.0,) * 10 + (0.001,) * 10), 10.0) == []
    assert spikes(Trend(steps, (1.0,) * 9 + (30.0,) + (1.0,) * 10), 10.0) == [10]


def test_small_statistics() -> None:
    assert mean_of([1.0, 3.0]) == Level(2.0, pytest.approx(1.0))
    assert mean_of([1.0]).error == float("inf")
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1) and correlation([1, 1], [1, 2]) == 0.0
    assert [rate(value) for value in (5e-6, 1.5e-4, 0.02, 1.0)] == ["5e-6", "1.5e-4", "0.02", "1"]


def test_items_are_matched_by_their_rows() -> None:
    def detail(step: int, logps: list[float], sources: list[str]) -> Detail:
        side = {"logps": logps, "ref_logps": None, "lengths": [3] * len(logps)}
        return Detail(step, items={"source": sources, "chosen": side, "rejected": side})

    start, now = detail(0, [-1.0, -2.0, -3.0], ["a:1", "a:2", "a:2"]), detail(9, [-2.0, -3.5], ["a:2", "a:2"])
    found = items_of(start, now)
    assert found is not None and found.sides["chosen"].moved == pytest.approx((0.0, -0.5))
    assert found.both_fell.value == 0.5 and found.margin == Level(0.0, 0.0)
    assert items_of(start, start) is None and items_of(NO_DETAIL, now) is None
    assert items_of(NO_DETAIL, NO_DETAIL) is None


# --- verdicts and the command --------------------------------------------------------------------------------------


def test_the_worst_comes_first_and_remarks_last() -> None:
    order = ("info", "good", "warning", "error")
    found = worst_first(Verdict(severity, severity, "", (), "") for severity in order)
    assert [one.severity for one in found] == ["error", "warning", "good", "info"]


def test_the_command_prints_verdicts(runs: SmallRuns, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diagnose", str(runs.whole)]) == 0
    shown = capsys.readouterr().out
    assert "whole: dpo, 2 of 2 steps, done" in shown and "numbers" in shown and "meaning" in shown
    assert cli.main(["diagnose", str(runs.whole), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {"name", "severity", "title", "evidence", "meaning", "advice"} == set(content["verdicts"][0])


def test_an_error_gives_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = "WrongReferenceError: the policy does not start as its \x1b[31mreference.\nLikely causes:\n  - one"
    write_card(tmp_path, {"status": "failed", "method": "dpo", "error": error})
    assert cli.main(["diagnose", str(tmp_path)]) == 3
    shown = capsys.readouterr().out
    assert "wrong-reference" in shown and "Likely causes" not in shown and "\x1b" not in shown
    assert cli.main(["diagnose", str(tmp_path / "nothing")]) == 2


def test_help_tells_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["diagnose", "--help"])
    assert "3 where a verdict of severity error stands" in " ".join(capsys.readouterr().out.split())


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_has_every_verdict_and_no_other() -> None:
    named = re.findall(r"^### `([a-z0-9/-]+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert named == list(CATALOGUE), "docs/diagnosis.md and catalogue.py must name the same verdicts in the same order"


def test_the_page_has_the_thresholds_as_they_are() -> None:
    listed = re.findall(r"`([a-z]+)\.([A-Z_]+)` ([0-9.]+)", PAGE.read_text(encoding="utf-8"))
    assert len(listed) > 40
    for module, name, value in listed:
        found = getattr(import_module(f"likelier.insight.diagnose.{module}"), name)
        assert found == pytest.approx(float(value), rel=1e-5), f"{module}.{name}"
