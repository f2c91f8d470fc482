"""Verdicts on runs that learn from their own answers: each where its numbers say so, and none where they do not."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from likelier.cli import main as cli
from likelier.cli import train as train_command
from likelier.insight.diagnose import diagnose
from likelier.insight.diagnose.advice import mentions
from likelier.insight.rewards import gain_of
from likelier.objectives.online import online_method
from likelier.online.config import parse_online
from likelier.runs.reader import Run, read_run
from likelier.utils.errors import RunFolderError
from tests.helpers.diagnosis_world import bad, names, numbers, the
from tests.helpers.online_runs import OnlineRuns
from tests.helpers.report_runs import write_run
from tests.helpers.small_runs import forget_files

PROMPTS = 40


def steps(count: int = 24, **course: tuple[float, float]) -> list[dict[str, Any]]:
    """Logged steps; each named metric (`__` for a slash) goes evenly from one value to the other, with little noise."""
    usual = {"reward": (0.2, 0.8), "reward_std": (0.4, 0.4), "frac_reward_zero_std": (0.1, 0.1), "entropy": (2.0, 1.8)}
    usual |= {"completions__mean_length": (20.0, 20.0), "completions__clipped_ratio": (0.0, 0.0)}
    usual |= {"sampler__kl": (1e-9, 1e-9), "clip_ratio__region_mean": (0.0, 0.0), "grad_norm": (1.0, 1.0)}
    chance = random.Random(0)
    rows = []
    for number in range(count):
        at = number / max(1, count - 1)
        values = {
            name.replace("__", "/"): low + (high - low) * at + 0.01 * abs(high - low) * chance.uniform(-1, 1)
            for name, (low, high) in (usual | course).items()
        }
        rows.append({"step": number + 1, "loss": 1e-9, "learning_rate": 1e-6, "items": 8 * (number + 1), **values})
    return rows


def held_out(step: int, when: str, rewards: Sequence[float], **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An evaluation: the line of its metrics, and its file."""
    row = {"step": step, "eval_reward": sum(rewards) / len(rewards), "eval_items": float(len(rewards))}
    extra = {f"eval_{name}": value for name, value in more.items() if isinstance(value, float)}
    lists = {name: value for name, value in more.items() if not isinstance(value, float)}
    return row | extra, {"step": step, "when": when, "rewards": list(rewards), **lists}


def share(right: int, of: int = PROMPTS) -> list[float]:
    return [1.0] * right + [0.0] * (of - right)


def made(
    folder: Path,
    rows: list[dict[str, Any]] | None = None,
    evaluations: Sequence[tuple[dict[str, Any], dict[str, Any]]] = (),
    method: str = "grpo",
    online: dict[str, Any] | None = None,
    **card: Any,
) -> Run:
    objective = online_method(method, **card.pop("options_of_method", {}))
    whole = {
        "status": "done",
        "method": method,
        "hyperparameters": objective.hyperparameters(),
        "objective": objective.facts(),
        "options": {"batch_size": 8} | card.pop("options", {}),
        "online": {"max_new_tokens": 64, "updates_per_rollout": 1} | (online or {}),
        "learning_rate": {"value": 1e-6, "source": "given"},
        **card,
    }
    files = {f"step_{detail['step']}": detail for _, detail in evaluations}
    return read_run(
        write_run(folder, whole, [*(rows if rows is not None else steps()), *(row for row, _ in evaluations)], **files)
    )


def better(now: Sequence[float], **start: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Evaluations before and after; a quarter of the answers earn something before."""
    return [held_out(0, "start", share(10), **start), held_out(24, "end", now)]


# --- learned -------------------------------------------------------------------------------------------------------


def test_what_held_out_answers_earn_more_is_learned(tmp_path: Path) -> None:
    run = made(tmp_path / "run", evaluations=better(share(30)))
    assert names(run) == ["learned"] and the(run, "learned").severity == "good"
    assert "+0.5 (" in numbers(the(run, "learned")) and "of 40 prompts" in numbers(the(run, "learned"))
    logged = {"eval_reward_gain": 0.5, "eval_reward_gain_low": 0.3, "eval_reward_gain_high": 0.7, "eval_items": 40.0}
    row = {"step": 24, "eval_reward": 0.75} | logged
    assert "+0.5 (+0.3 to +0.7) of 40 prompts" in numbers(the(made(tmp_path / "row", [*steps(), row]), "learned"))


def answers(*texts: str) -> list[dict[str, Any]]:
    whole = {"tokens": 5, "is_whole": True, "repetition": 0.0, "refusal": False}
    return [{"source": "q.jsonl:1", "prompt": "?", "sampled": {"text": text, **whole}} for text in texts]


@pytest.mark.parametrize(
    ("now", "is_named"),
    [
        (["You're an alien number one.", "You're an ideal guest."] * 5 + ["Bees collect nectar."] * 2, True),
        (["You're an alien."] * 5 + [f"word{number} is new." for number in range(7)], False),  # fewer than half
        (["The sky is blue."] * 6 + [f"word{number} is new." for number in range(6)], False),  # as at the start
    ],
)
def test_one_sentence_for_every_prompt_is_named(now: list[str], is_named: bool, tmp_path: Path) -> None:
    first = ["The sky is blue.", "The sky is high.", *(f"word{number} begins here." for number in range(10))]
    ends = better(share(30), samples=answers(*first))
    ends[1][1]["samples"] = answers(*now)
    run = made(tmp_path / "run", evaluations=ends)
    assert ("same-opening" in names(run)) == is_named
    if is_named:
        told = numbers(the(run, "same-opening"))
        assert 'answers that begin with "You\'re an": 83.3 %' in told and "of 12" in told and "2 of 12 answers" in told


@pytest.mark.parametrize(
    ("now", "words"), [(38, "beaten"), (21, "neither beaten nor missed beyond chance"), (2, "not reached")]
)
def test_the_bar_is_the_best_of_several_answers_of_the_start(now: int, words: str, tmp_path: Path) -> None:
    rows, ends = steps(reward=(0.5, 0.5)), better(share(now))
    ends[0] = held_out(0, "start", share(1), best_of_n=share(20))
    ends[0][0]["eval_best_of_n"] = 0.5
    assert f"0.5: {words} by one answer now: " in numbers(the(made(tmp_path / "run", rows, ends), "learned"))


def test_few_prompts_show_nothing(tmp_path: Path) -> None:
    few = [held_out(0, "start", [0.0] * 3), held_out(24, "end", [1.0, 1.0, 0.0])]
    verdict = the(made(tmp_path / "run", evaluations=few, run={"eval_fraction": 0.1}), "learned")
    assert verdict.severity == "info" and "not shown" in verdict.title and "of 3 prompts" in numbers(verdict)
    assert "--eval-fraction 0." in verdict.advice[0] and "held-out prompts" in verdict.advice[0]


def test_nothing_held_out_says_so(tmp_path: Path) -> None:
    verdict = the(made(tmp_path / "run"), "learned")
    assert (
        verdict.severity == "info" and "not known" in verdict.title and verdict.advice[0].startswith("--eval-fraction")
    )


def test_answers_that_earn_less_are_a_warning(tmp_path: Path) -> None:
    still = steps(reward=(0.5, 0.5))
    run = made(tmp_path / "run", still, [held_out(0, "start", share(30)), held_out(24, "end", share(10))])
    assert the(run, "learned").severity == "warning" and "reward-hacking" not in names(run)


def test_a_gain_of_two_values_is_never_surer_than_shares_are() -> None:
    all_won = gain_of([0.0] * 4, [2.0] * 4)
    assert all_won is not None and all_won.value == 2.0 and all_won.low < 1.1 and not gain_of([None], [1.0])
    graded = gain_of([0.0, 0.1, 0.2, 0.35], [0.5, 0.8, 0.9, 0.85])
    assert graded is not None and graded.is_above and graded.prompts == 4
    missing = gain_of([None, 0.0, 1.0], [1.0, None, 1.0])
    assert missing is not None and missing.prompts == 1 and gain_of([1.0], [1.0, 2.0]) is None


# --- rewards -------------------------------------------------------------------------------------------------------


def test_a_reward_that_rises_while_held_out_answers_earn_less_is_hacked(tmp_path: Path) -> None:
    ends = [held_out(0, "start", share(30)), held_out(24, "end", share(10))]
    run = made(tmp_path / "run", evaluations=ends, options={"eval_reward": "rewards.py:other"})
    assert bad(run) == ["reward-hacking"] and the(run, "learned").severity == "info"
    assert "rewards.py:other" in numbers(the(run, "reward-hacking"))
    still = made(tmp_path / "still", steps(reward=(0.5, 0.5)), ends)
    assert "reward-hacking" not in names(still)


def test_so_is_one_that_rises_while_they_stay(tmp_path: Path) -> None:
    many = share(200, 400)
    run = made(tmp_path / "run", evaluations=[held_out(0, "start", many), held_out(24, "end", many)])
    assert bad(run) == ["reward-hacking"] and "not on held-out" in the(run, "reward-hacking").title
    few = made(tmp_path / "few", evaluations=[held_out(0, "start", share(5, 10)), held_out(24, "end", share(5, 10))])
    assert "reward-hacking" not in names(few), "ten prompts cannot tell"
    little = made(
        tmp_path / "little", steps(reward=(0.2, 0.25)), [held_out(0, "start", many), held_out(24, "end", many)]
    )
    assert "reward-hacking" not in names(little), "the reward hardly rises"


def test_and_one_whose_held_out_best_lies_behind(tmp_path: Path) -> None:
    course = [held_out(0, "start", share(10)), held_out(12, "interval", share(38)), held_out(24, "end", share(12))]
    run = made(tmp_path / "run", evaluations=course)
    assert "reward-hacking" in bad(run) and "--max-steps 12" in " ".join(the(run, "reward-hacking").advice)
    nearly = [course[0], held_out(12, "interval", [1.0] * 400), held_out(24, "end", share(375, 400))]
    nearly[0] = held_out(0, "start", share(10, 400))
    assert "reward-hacking" not in names(made(tmp_path / "nearly", evaluations=nearly)), "a sixteenth of the gain"
    wavers = [course[0], held_out(12, "interval", share(31)), held_out(24, "end", share(30))]
    assert "reward-hacking" not in names(made(tmp_path / "wavers", evaluations=wavers))


def test_a_standardised_reward_is_read_by_its_parts(tmp_path: Path) -> None:
    rows = steps(reward=(0.0, 0.0), rewards__one__mean=(0.2, 0.8), rewards__two__mean=(0.5, 0.6))
    run = made(
        tmp_path / "run",
        rows,
        [held_out(0, "start", share(30)), held_out(24, "end", share(10))],
        online={"combine": "normalised", "reward_weights": [1.0, 0.5]},
    )
    assert "reward-hacking" in names(run)


def test_a_reward_that_is_the_same_for_all_is_an_error(tmp_path: Path) -> None:
    rows = steps(reward=(0.0, 0.0), reward_std=(0.0, 0.0), frac_reward_zero_std=(1.0, 1.0), grad_norm=(0.0, 0.0))
    run = made(tmp_path / "run", rows)
    assert bad(run) == ["constant-reward"] and the(run, "constant-reward").severity == "error"
    assert f"{24 * 8 * 8:,} answers" in numbers(the(run, "constant-reward"))
    of_one_each = [{k: v for k, v in row.items() if k != "frac_reward_zero_std"} for row in rows]
    one_each = made(tmp_path / "one each", of_one_each, method="ppo")
    assert the(one_each, "constant-reward").severity == "error"
    alone = made(tmp_path / "alone", rows, method="reinforce")
    assert "constant-reward" not in names(alone), "one answer to a prompt has no others to differ from"


def test_a_part_that_never_changes_is_named(tmp_path: Path) -> None:
    rows = steps(rewards__format__mean=(0.0, 0.0), rewards__length__mean=(0.2, 0.8))
    run = made(tmp_path / "run", rows)
    assert bad(run) == ["constant-reward"] and "format" in the(run, "constant-reward").title
    assert "constant-reward" not in names(made(tmp_path / "few", rows[:3]))


def test_groups_that_teach_nothing(tmp_path: Path) -> None:
    run = made(tmp_path / "run", steps(frac_reward_zero_std=(0.2, 0.9)))
    assert bad(run) == ["dead-groups"] and "of 64" in numbers(the(run, "dead-groups"))
    one = made(tmp_path / "one", steps(3, frac_reward_zero_std=(0.6, 0.6)))
    assert "dead-groups" not in names(one), "eight prompts cannot tell 60 % from a half"
    whole = made(tmp_path / "whole", steps(frac_reward_zero_std=(1.0, 1.0)), method="reinforce")
    assert "dead-groups" not in names(whole)
    alone = made(tmp_path / "alone", steps(frac_reward_zero_std=(1.0, 1.0)), method="ppo")
    assert "dead-groups" not in names(alone), "a critic compares nothing"


def test_where_they_are_dead_is_read_from_the_rollouts(tmp_path: Path) -> None:
    run = made(tmp_path / "run", steps(frac_reward_zero_std=(0.9, 0.9)))
    folder = run.folder / "rollouts"
    folder.mkdir()
    groups = [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]
    rows = [{"prompt": "p", "answers": [{"text": "a", "reward": reward} for reward in own]} for own in groups]
    (folder / "step-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "2 where all earn the most (1), 1 where all earn the least (0)" in numbers(the(run, "dead-groups"))


# --- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "course", "milder"),
    [
        ("entropy-collapse", {"entropy": (2.0, 0.1)}, {"entropy": (2.0, 0.9)}),
        ("length-runaway", {"completions__mean_length": (20, 60)}, {"completions__mean_length": (20, 25)}),
        ("truncated-answers", {"completions__clipped_ratio": (0.0, 0.3)}, {"completions__clipped_ratio": (0.0, 0.1)}),
        ("clip-share", {"clip_ratio__region_mean": (0.0, 0.4)}, {"clip_ratio__region_mean": (0.0, 0.05)}),
        ("sampler-drift", {"sampler__kl": (1e-9, 0.1)}, {"sampler__kl": (1e-9, 0.001)}),
        ("kl-blow-up", {"kl": (0.0, 40.0)}, {"kl": (0.0, 2.0)}),
        ("reward-models-disagree", {"rewards__spread": (0.3, 1.2)}, {"rewards__spread": (0.3, 0.5)}),
        ("blind-critic", {"value__explained_variance": (0.0, -0.1)}, {"value__explained_variance": (0.0, 0.4)}),
    ],
)
def test_how_it_writes(name: str, course: dict[str, Any], milder: dict[str, Any], tmp_path: Path) -> None:
    assert bad(made(tmp_path / "run", steps(**course))) == [name]
    assert not bad(made(tmp_path / "milder", steps(**milder)))


@pytest.mark.parametrize(
    ("name", "course"),
    [("entropy-collapse", {"entropy": (2.0, 0.1)}), ("length-runaway", {"completions__mean_length": (20, 60)})],
)
def test_what_bought_something_is_a_remark(name: str, course: dict[str, Any], tmp_path: Path) -> None:
    run = made(tmp_path / "run", steps(**course), better(share(35)))
    assert the(run, name).severity == "info" and not bad(run)


def test_a_distance_that_bought_something_is_none_to_mend(tmp_path: Path) -> None:
    far = steps(kl=(0.0, 15.0), completions__mean_length=(100, 100))
    assert "kl-blow-up" in bad(made(tmp_path / "run", far, better(share(10))))
    assert "kl-blow-up" not in names(made(tmp_path / "gained", far, better(share(35))))


def test_whole_answers_are_held_back_more_often(tmp_path: Path) -> None:
    rows = steps(clip_ratio__region_mean=(0.3, 0.4))
    assert "clip-share" in names(made(tmp_path / "tokens", rows))
    assert "clip-share" not in names(made(tmp_path / "answers", rows, method="gspo"))


def test_a_correction_makes_a_drift_a_remark(tmp_path: Path) -> None:
    run = made(tmp_path / "run", steps(sampler__kl=(0.1, 0.1)), options_of_method={"tis": "token"})
    assert the(run, "sampler-drift").severity == "info"


def test_reward_that_goes_with_length_is_told(tmp_path: Path) -> None:
    run = made(tmp_path / "run", steps(completions__mean_length=(20, 60)))
    folder = run.folder / "rollouts"
    folder.mkdir()
    answers = [{"text": "a", "tokens": 10 * n, "reward": float(n)} for n in range(8)]
    (folder / "step-1.jsonl").write_text(json.dumps({"prompt": "p", "answers": answers}) + "\n")
    assert "correlation +1.00, 8 answers" in numbers(the(run, "length-runaway"))


def test_the_loss_tells_nothing_of_such_a_run(tmp_path: Path) -> None:
    rows = [row | {"loss": 1e-9 if row["step"] % 5 else 0.5} for row in steps()]
    assert "unstable" not in names(made(tmp_path / "run", rows, better(share(35))))


def test_every_advice_can_be_typed(tmp_path: Path) -> None:
    courses: dict[str, dict[str, Any]] = {
        "certain": {"entropy": (2.0, 0.1), "kl": (0.0, 40.0)},
        "long": {"completions__mean_length": (20, 60), "completions__clipped_ratio": (0.0, 0.9)},
        "held back": {"clip_ratio__region_mean": (0.0, 0.9), "sampler__kl": (0.1, 0.1)},
        "dead": {"frac_reward_zero_std": (0.9, 0.9), "reward": (0.2, 0.8)},
        "apart": {"rewards__spread": (0.3, 1.2)},
        "constant": {"frac_reward_zero_std": (1.0, 1.0), "reward": (0.0, 0.0)},
        "blind": {"value__explained_variance": (0.0, 0.0)},
    }
    worse = [held_out(0, "start", share(30)), held_out(24, "end", share(10))]
    own = {"updates_per_rollout": 4, "max_new_tokens": 64, "truncated": "keep"}
    parser = argparse.ArgumentParser()
    train_command.add_flags(parser)
    seen = set[str]()
    for name, course in courses.items():
        for method in ("ppo",) if name == "blind" else ("grpo", "dr_grpo", "rloo", "ppo"):
            run = made(tmp_path / name / method, steps(**course), worse, method, own, run={"eval_fraction": 0.1})
            for one in diagnose(run):
                seen.add(one.name)
                for option, word in (mention for words in one.advice for mention in mentions(words)):
                    flag = "--" + option.replace("_", "-")
                    assert flag in parser._option_string_actions, f"{one.name}: {flag}"
                    if word[:1].isdigit() or option in ("tis", "truncated"):
                        _followed(method, own, {option: vars(parser.parse_args([flag, word]))[option]})
    assert seen >= {"reward-hacking", "constant-reward", "dead-groups", "entropy-collapse", "length-runaway", "learned"}
    assert seen >= {"truncated-answers", "clip-share", "kl-blow-up", "sampler-drift", "reward-models-disagree"}
    assert seen >= {"truncated-answers", "clip-share", "kl-blow-up", "sampler-drift", "blind-critic"}


def _followed(method: str, own: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises where the program refuses the run with the advice followed."""
    together = {"truncated": "penalty"} if "missing_eos_penalty" in given else {}
    together |= {"missing_eos_penalty": 1.0} if given.get("truncated") == "penalty" else {}
    base = {"method": method, "model": "m", "data": "d", "output": "o", "reward": ["json"]}
    parse_online({**base, **own, **together, **given})


def test_runs_on_pairs_have_none_of_these(tmp_path: Path) -> None:
    rows = steps(frac_reward_zero_std=(1.0, 1.0), entropy=(2.0, 0.1), kl=(0.0, 90.0), sampler__kl=(1.0, 1.0))
    run = made(tmp_path / "run", rows, objective={"items": "pairs"})
    assert names(run) == ["unclear"]


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_real_run_is_diagnosed(online_runs: OnlineRuns, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (online_runs.adapter, online_runs.whole):
        assert cli.main(["diagnose", str(folder)]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "learned" in shown and "of 8 prompts" in shown and "best of 4 answers of the start policy" in shown
    start, end = (read_run(online_runs.adapter).detail(when) for when in ("start", "end"))
    first = read_run(online_runs.adapter).rollouts()[0]
    assert first.step == 1 and len(first.groups) == 4 and all(len(one.answers) == 4 for one in first.groups)
    assert "\n\n" not in (online_runs.adapter / "rollouts/step-1.jsonl").read_text()
    assert len(start.prompts) == len(start.rewards) == len(start.best_of_n) == 8 and start.prompts == end.prompts


def test_damaged_files_are_named(online_runs: OnlineRuns, tmp_path: Path) -> None:
    import shutil

    folder = forget_files(Path(shutil.copytree(online_runs.whole, tmp_path / "run")))
    file = sorted((folder / "rollouts").glob("*"))[0]
    file.write_text('{"prompt": "p", "answers": [{"text": 3}]}\n')
    with pytest.raises(RunFolderError, match=rf"{file.name}:1 is damaged: answers\[0\].text is 3"):
        read_run(folder).rollouts()
    file.write_text("{")
    with pytest.raises(RunFolderError, match=f"{file.name} is damaged"):
        read_run(folder).rollouts()
    evaluation = folder / "evaluations/step-0.json"
    content = json.loads(evaluation.read_text())
    evaluation.write_text(json.dumps(content | {"best_of_n": [1.0]}))
    with pytest.raises(RunFolderError, match="a list of 8 values"):
        read_run(folder).details()
    evaluation.write_text(json.dumps(content | {"rewards": ["high"]}))
    with pytest.raises(RunFolderError, match="a number or null"):
        diagnose(read_run(folder))
