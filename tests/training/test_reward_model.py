"""A reward model from a preference file: an ordinary classifier that gives preferred answers more."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from likelier.cli import main as cli
from likelier.data.records import Message, Source
from likelier.models.policy import load_policy
from likelier.objectives import DPO, RewardModel
from likelier.online.rewards.load import load_reward
from likelier.online.rewards.reward import Answered
from likelier.training.options import TrainingOptions
from likelier.training.trainer import PreferenceTrainer
from likelier.utils.errors import ConfigError, ModelError
from likelier.utils.statistics import rank_correlation
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows

pytestmark = pytest.mark.slow
SIDES = ("chosen", "rejected")
OPTIONS = ("--batch-size", "4", "--max-steps", "6", "--learning-rate", "1e-3", "--eval-fraction", "0.25")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    save_tiny(folder / "model")
    write_rows(folder / "pairs.jsonl", pair_rows())
    for name, more in {"whole": (), "adapter": ("--lora-r", "4")}.items():
        train(folder, name, *more)
    return folder


def train(folder: Path, name: str, *more: str) -> None:
    words = ["--model", str(folder / "model"), "--data", str(folder / "pairs.jsonl"), "--output", str(folder / name)]
    assert cli.main(["train", "--method", "reward", *words, *OPTIONS, *more]) == 0


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["whole", "adapter"])
def test_it_learns_and_is_evaluated(world: Path, name: str) -> None:
    found = lines(world / name)
    ends = [line for line in found if "eval_loss" in line]
    assert ends[-1]["eval_loss"] < ends[0]["eval_loss"] and ends[0]["eval_loss"] == pytest.approx(math.log(2), abs=0.3)
    detail = json.loads((world / name / "evaluations" / "step-6.json").read_text(encoding="utf-8"))
    margins = [one - two for one, two in zip(*(detail["items"][side]["logps"] for side in SIDES), strict=True)]
    claims = [1 / (1 + math.exp(-abs(margin))) for margin in margins]
    assert ends[-1]["eval_confidence"] == pytest.approx(mean(claims), abs=1e-5)
    assert sum(one["pairs"] for one in detail["calibration"]) == len(margins)
    assert {"eval_calibration_error", "eval_pair_accuracy", "eval_pair_accuracy_low", "eval_rewards/margins"} <= ends[
        -1
    ].keys()
    assert not [key for line in found for key in line if "logps" in key or "ranking" in key or "kl" in key.split("_")]
    card = json.loads((world / name / "run.json").read_text(encoding="utf-8"))
    assert card["method"] == "reward" and math.isfinite(card["reward_offset"])


def test_plain_transformers_reads_it(world: Path) -> None:
    model, found = AutoModelForSequenceClassification.from_pretrained(world / "whole", output_loading_info=True)
    assert model.config.num_labels == 1 and not found["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(world / "whole")
    detail = json.loads((world / "whole" / "evaluations" / "step-6.json").read_text(encoding="utf-8"))["items"]
    rows = {f"{world / 'pairs.jsonl'}:{number}": row for number, row in enumerate(pair_rows(), 1)}
    row = rows[detail["source"][0]]
    for side in ("chosen", "rejected"):
        text = tokenizer.apply_chat_template([*row["prompt"], *row[side]], tokenize=False)
        with torch.no_grad():
            logits = model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits
        assert float(logits) == pytest.approx(detail[side]["logps"][0], abs=1e-4)


@pytest.mark.parametrize("name", ["whole", "adapter"])
def test_it_rewards_answers_and_its_mean_is_taken_off(world: Path, name: str) -> None:
    detail = json.loads((world / name / "evaluations" / "step-6.json").read_text(encoding="utf-8"))["items"]
    offset = json.loads((world / name / "run.json").read_text(encoding="utf-8"))["reward_offset"]
    rows = {f"{world / 'pairs.jsonl'}:{number}": row for number, row in enumerate(pair_rows(), 1)}
    reward, asked, expected = load_reward(f"model:{world / name}"), [], []
    for place, source in enumerate(detail["source"]):
        for side in ("chosen", "rejected"):
            row = rows[source]
            prompt = tuple(Message(**turn) for turn in row["prompt"])
            asked.append(Answered(prompt, row[side][0]["content"], (), Source("here", place), 1, "eos", {}))
            expected.append(detail[side]["logps"][place] - offset)
    assert reward(asked).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["whole", "adapter"])
def test_answers_in_a_file_are_scored(
    world: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(world / "pairs.jsonl"), "--output", str(tmp_path / "scores.jsonl"), "--per-token"]
    assert cli.main(["score", "--reward-model", str(world / name), *words]) == 0
    told = capsys.readouterr().out
    assert "reward accuracy" in told and "its own guess" in told and "rank correlation" in told
    rows = {row["source"]: row for row in map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())}
    card = json.loads((world / name / "run.json").read_text(encoding="utf-8"))
    detail = json.loads((world / name / "evaluations" / "step-6.json").read_text(encoding="utf-8"))["items"]
    for place, source in enumerate(detail["source"]):
        for side in ("chosen", "rejected"):
            found = rows[source][side]
            assert found["score"] == pytest.approx(detail[side]["logps"][place], abs=1e-4)
            assert found["reward"] == pytest.approx(found["score"] - card["reward_offset"])
            assert (
                found["tokens"][-1]["value"] == pytest.approx(found["score"])
                and len(found["tokens"]) == found["length"]
            )


def test_its_diagnosis_and_its_report_speak_of_scores(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(world / "model"), "--data", str(world / "pairs.jsonl"), "--output", str(tmp_path / "run")]
    words += ["--batch-size", "4", "--epochs", "12", "--learning-rate", "1e-3", "--eval-fraction", "0.25"]
    assert cli.main(["train", "--method", "reward", *words]) == 0
    capsys.readouterr()
    assert cli.main(["diagnose", str(tmp_path / "run")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "of score" in told and "nats" not in told and "policy" not in told
    assert cli.main(["report", str(tmp_path / "run")]) == 0
    page = re.sub(r"<style.*?</style>", "", (tmp_path / "run" / "report.html").read_text(encoding="utf-8"), flags=re.S)
    assert "the model&#39;s score of an answer" in page and "token by token" not in page
    assert not re.search(r"\b(policy|nats|temperature)\b", page)


def test_only_a_trained_head_scores(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(world / "pairs.jsonl"), "--output", str(tmp_path / "scores.jsonl")]
    assert cli.main(["score", "--reward-model", str(world / "model"), *words]) == 2
    assert "has no trained head for rewards" in capsys.readouterr().err
    assert cli.main(["score", "--reward-model", str(world / "whole"), *words, "--beta", "0.1"]) == 2
    assert "beta has no effect with --reward-model" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_adapter_is_an_ordinary_classifier(
    world: Path, tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain transformers loads it, and both forms give an answer the same reward, the mean taken off."""
    merged, exact = tmp_path / "merged", dtype == "float32"
    assert cli.main(["merge", str(world / "adapter"), str(merged), "--dtype", dtype]) == 0
    assert "scores differ by" in capsys.readouterr().out
    model, found = AutoModelForSequenceClassification.from_pretrained(merged, output_loading_info=True)
    assert model.config.num_labels == 1 and not any(found[name] for name in ("missing_keys", "unexpected_keys"))
    papers = json.loads((merged / "merge.json").read_text(encoding="utf-8"))
    card = json.loads((world / "adapter" / "run.json").read_text(encoding="utf-8"))
    assert papers["reward_offset"] == card["reward_offset"] and papers["check"]["of"] == "scores"
    rewards = [load_reward(f"model:{folder}")(answers_of(world)).tolist() for folder in (merged, world / "adapter")]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-5 if exact else 0.05)
    scores = []
    for name, folder in (("merged", merged), ("adapter", world / "adapter")):
        words = ["--data", str(world / "pairs.jsonl"), "--output", str(tmp_path / f"{name}.jsonl")]
        assert cli.main(["score", "--reward-model", str(folder), *words]) == 0
        rows = map(json.loads, (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        scores.append([row[side]["reward"] for row in rows for side in ("chosen", "rejected")])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5 if exact else 0.05)
    for folder in (merged, world / "adapter", world / "whole"):
        page = (folder / "README.md").read_text(encoding="utf-8")
        assert "ForSequenceClassification" in page and "CausalLM" not in page and "text-classification" in page


def test_several_models_tell_how_far_they_are_apart(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(world / "whole"), str(world / "adapter")]
    words = ["--data", str(world / "pairs.jsonl"), "--output", str(tmp_path / "scores.jsonl"), "--reward-model"]
    assert cli.main(["score", *words, *folders]) == 0
    told = capsys.readouterr().out
    assert "models apart" in told and told.count("by itself") == 2
    alone = [load_reward(f"model:{folder}")(answers_of(world)).tolist() for folder in folders]
    rows = map(json.loads, (tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines())
    found = [row[side] for row in rows for side in ("chosen", "rejected")]
    for number, answer in enumerate(found):
        both = [rewards[number] for rewards in alone]
        assert list(answer["rewards"].values()) == pytest.approx(both, abs=1e-4)
        assert answer["reward"] == pytest.approx(mean(both), abs=1e-4)
        assert answer["spread"] == pytest.approx(stdev(both), abs=1e-4)
    for more, said in (([folders[0]], "stands twice"), (["--per-token"], "per_token shows one model's values")):
        assert cli.main(["score", *words, *folders, *more, "--overwrite"]) == 2
        assert said in capsys.readouterr().err


def test_it_is_held_against_what_dpo_learnt(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row tells what `likelier score --model` tells of the run, and the summary counts these."""
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    data, run = ["--data", str(world / "pairs.jsonl")], str(tmp_path / "dpo")
    words = ["--model", str(world / "model"), *data, "--batch-size", "4", "--max-steps", "2", "--learning-rate", "1e-2"]
    assert cli.main(["train", "--method", "dpo", *words, "--output", run]) == 0
    assert cli.main(["score", "--model", run, *data, "--output", str(tmp_path / "alone.jsonl")]) == 0
    capsys.readouterr()
    scored = ["score", "--reward-model", str(world / "whole"), *data, "--output", str(tmp_path / "both.jsonl")]
    assert cli.main([*scored, "--agree-with", run]) == 0
    told = capsys.readouterr().out
    alone, both = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("alone", "both")
    )
    for row, other in zip(both, alone, strict=True):
        assert row["source"] == other["source"] and row["implicit"]["correct"] == other["correct"]
        assert row["implicit"]["margin"] == pytest.approx(other["margin"], abs=1e-6)
        assert row["implicit"]["chosen"] == pytest.approx(other["chosen"]["reward"], abs=1e-6)
        assert row["agrees"] == (row["margin"] * other["margin"] > 0)
    agree, right = (mean(one) for one in ([row["agrees"] for row in both], [row["correct"] for row in alone]))
    assert agree == mean((row["margin"] > 0) == (row["implicit"]["margin"] > 0) for row in both)
    assert f"agreement         {agree:.1%} [" in told and f"implicit accuracy {right:.1%} [" in told
    correlation = rank_correlation(*(np.array([row["margin"] for row in side]) for side in (both, alone)))
    assert f"margins           {correlation:+.2f} [" in told


def test_what_cannot_be_held_against_it_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_rows(tmp_path / "labels.jsonl", [{"prompt": "a", "completion": "b", "label": True}])
    pairs, output = str(world / "pairs.jsonl"), str(tmp_path / "scores.jsonl")
    simpo, dpo = (tmp_path / name for name in ("simpo", "dpo"))
    for method, run in (("simpo", simpo), ("dpo", dpo)):
        run.mkdir()
        card = {"method": method, "reward_scale": 0.1 if method == "dpo" else None}
        (run / "run.json").write_text(json.dumps(card), encoding="utf-8")
    for against, data, said in (
        (world / "model", pairs, "is no run folder"),
        (world / "adapter", pairs, "is a reward model itself"),
        (simpo, pairs, "was trained by simpo, which gives an answer no implicit reward"),
        (dpo, str(labels), "holds labels"),
    ):
        words = ["--data", data, "--output", output, "--agree-with", str(against)]
        assert cli.main(["score", "--reward-model", str(world / "whole"), *words]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    words = ["--data", pairs, "--output", output]
    assert cli.main(["score", "--model", str(world / "model"), *words, "--agree-with", str(dpo)]) == 2
    assert "give --reward-model in place of --model" in capsys.readouterr().err


def test_a_policy_learns_from_several_models(world: Path, tmp_path: Path) -> None:
    """How far they are apart is logged, in training and on held-out prompts, and stands beside what is sampled."""
    models = [f"model:{world / name}" for name in ("whole", "adapter")]
    words = ["--model", str(world / "model"), "--data", str(world / "pairs.jsonl"), "--max-new-tokens", "4"]
    rewards = [word for model in models for word in ("--reward", model)]
    online = ["--answers-per-prompt", "2", "--batch-size", "2", "--max-steps", "2", "--eval-fraction", "0.25"]
    assert cli.main(["train", "--method", "grpo", *words, *online, "--output", str(tmp_path / "run"), *rewards]) == 0
    found = lines(tmp_path / "run")
    assert all(line["rewards/spread"] > 0 for line in found if "loss" in line)
    assert all(line["eval_rewards/spread"] > 0 for line in found if "eval_reward" in line)
    step = [
        json.loads(line) for line in (tmp_path / "run" / "rollouts" / "step-1.jsonl").read_text("utf-8").splitlines()
    ]
    apart = [stdev(answer["rewards"].values()) for group in step for answer in group["answers"]]
    first = next(line for line in found if line.get("step") == 1 and "loss" in line)
    assert first["rewards/spread"] == pytest.approx(mean(apart), rel=1e-6)
    sampled = ["--output", str(tmp_path / "s.jsonl"), "--answers", "2", *rewards]
    assert cli.main(["sample", *words, *sampled]) == 0
    for row in map(json.loads, (tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()):
        assert row["reward_spread"] == pytest.approx(stdev(row["rewards"].values()), rel=1e-6)


def answers_of(world: Path) -> list[Answered]:
    rows = [(row, row[side][0]["content"]) for row in pair_rows() for side in ("chosen", "rejected")]
    return [
        Answered(tuple(Message(**turn) for turn in row["prompt"]), text, (), Source("here", number))
        for number, (row, text) in enumerate(rows, 1)
    ]


@pytest.mark.parametrize("name", ["whole", "adapter"])
def test_a_row_is_inspected_by_its_scores(
    world: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The score after each token and its change: those that `likelier score --per-token` writes."""
    words = ["--data", str(world / "pairs.jsonl"), "--output", str(tmp_path / "scores.jsonl"), "--per-token"]
    assert cli.main(["score", "--reward-model", str(world / name), *words]) == 0
    capsys.readouterr()
    row = json.loads((tmp_path / "scores.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert cli.main(["inspect", str(world / name), "--row", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for side in ("chosen", "rejected"):
        values = [token["score"] for token in found[side]["tokens"]]
        assert values == pytest.approx([token["value"] for token in row[side]["tokens"]], abs=1e-5)
        assert values[0] + sum(token["change"] for token in found[side]["tokens"]) == pytest.approx(
            values[-1], abs=1e-5
        )
        assert found[side]["score"] == pytest.approx(values[-1]) and "logp" not in found[side]
        assert found[side]["reward"] == pytest.approx(row[side]["reward"], abs=1e-5)
    assert cli.main(["inspect", str(world / name), "--row", "1"]) == 0
    told = capsys.readouterr().out
    assert "score so far" in told and "raised it" in told and "nats" not in told and "policy" not in told
    page = tmp_path / "page.html"
    assert cli.main(["inspect", str(world / name), "--row", "1", "--at", "start", "--html", str(page)]) == 0
    assert "reward model" in page.read_text(encoding="utf-8")


def test_an_adapter_of_the_other_kind_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """peft would load either without a word: the one without its head, the other with a head that is not trained."""
    words = ["--data", str(world / "pairs.jsonl"), "--output", str(tmp_path / "run"), "--max-steps", "2"]
    assert cli.main(["train", "--method", "dpo", "--model", str(world / "adapter"), *words]) == 2
    assert "is an adapter that makes a reward model of its base, and writes no text" in capsys.readouterr().err
    words += ["--batch-size", "4"]
    made = ["--model", str(world / "model"), "--lora-r", "2", *words[:2], "--output", str(tmp_path / "sft"), *words[4:]]
    assert cli.main(["train", "--method", "sft", *made]) == 0
    assert cli.main(["train", "--method", "reward", "--model", str(tmp_path / "sft"), *words]) == 2
    assert "without a head for rewards" in capsys.readouterr().err


def test_a_run_that_goes_on_ends_where_one_without_a_break_ends(world: Path) -> None:
    train(world, "cut", "--save-steps", "3", "--max-steps", "6")
    for file in (world / "cut").glob("*.safetensors"):
        file.unlink()
    card = world / "cut" / "run.json"
    card.write_text(card.read_text(encoding="utf-8").replace('"status": "done"', '"status": "interrupted"'))
    train(world, "cut", "--save-steps", "3", "--max-steps", "6", "--resume")
    losses = [[line["loss"] for line in lines(world / name) if "loss" in line] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def test_what_does_not_fit_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", str(world / "model"), "--data", str(world / "pairs.jsonl"), "--output", str(tmp_path / "run")]
    for more, told in {
        ("--eval-prompts", "4"): "eval_prompts has no effect on reward, whose model writes no answers",
        ("--reference", "base"): "reward uses no reference; drop reference",
        ("--beta", "0.1"): "beta has no effect on reward",
    }.items():
        assert cli.main(["train", "--method", "reward", *words, "--eval-fraction", "0.25", *more]) == 2
        assert told in capsys.readouterr().err
    for objective, values in ((RewardModel(), False), (DPO(), True)):
        policy = load_policy(world / "model", values=values)
        with pytest.raises((ModelError, ConfigError), match=r"gives values|give values"):
            PreferenceTrainer(policy, objective, [], output_dir=tmp_path / "other", options=TrainingOptions())
