"""Rounds: the model answers, pairs are made of its answers, it learns from them, and answers again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from likelier.cli import main as cli
from likelier.data.prompts import Prompt
from likelier.data.records import Source
from likelier.experiments.stages import SampleStage, parse_stages, sample_step, train_stages
from likelier.experiments.stages.sample_step import of_round
from likelier.runs.folder import RunFolder, final_folder
from likelier.runs.written import account_of
from likelier.utils.distributed import Ranks
from likelier.utils.errors import ConfigError, DataError, RunFolderError
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows

WORDS = ("cat", "dog", "hill", "moon", "sea", "tree", "road", "bird")
STEP = {
    "reward": "length:3",
    "answers_per_prompt": 4,
    "prompts_per_round": 3,
    "max_new_tokens": 5,
    "keep_cut": True,
    "eval_fraction": 0.25,
}
LEARN = {"method": "dpo", "data": "stage:sample", "max_steps": 2}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny model, prompts and pairs."""
    folder = tmp_path_factory.mktemp("given")
    save_tiny(folder / "model")
    rows = [{"prompt": [{"role": "user", "content": f"the {word} sat"}]} for word in WORDS]
    write_rows(folder / "prompts.jsonl", rows)
    write_rows(folder / "pairs.jsonl", pair_rows())
    return {name: str(folder / name) for name in ("model", "prompts.jsonl", "pairs.jsonl")}


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))


def values(given: dict[str, str], output: Path, learn: Any = LEARN, step: Any = None, **more: Any) -> dict[str, Any]:
    sample = {"sample": given["prompts.jsonl"], **STEP, **(step or {})}
    whole = {"model": given["model"], "output": str(output), "batch_size": 4, "learning_rate": 1e-2, "repeat": 2}
    return {**whole, "stages": [sample, learn], **more}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- what is done --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapter"])
def test_each_round_learns_from_answers_of_the_model_as_it_is(
    given: dict[str, str], tmp_path: Path, lora: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = tmp_path / "run", tmp_path / "rounds.yaml"
    file.write_text(yaml.safe_dump(values(given, run, **({"lora_r": 4} if lora else {}))), encoding="utf-8")
    assert cli.main(["train", str(file)]) == 0
    stages = RunFolder(run).read_card()["stages"]
    folders = ["1-sample", "2-dpo", "3-sample", "4-dpo", "5-sample-held-out"]
    assert [stage["folder"] for stage in stages] == folders and {stage["status"] for stage in stages} == {"done"}
    assert [stage.get("round") for stage in stages] == [1, 1, 2, 2, None]
    models = [given["model"], given["model"], str(run / "2-dpo"), str(run / "2-dpo"), str(run / "4-dpo")]
    assert [stage["begins_with"] for stage in stages] == models
    first, learnt, second, again, last = stages
    assert len({stage["weights"] for stage in (first, second, last)}) == 3
    assert again["reference"]["equals_policy"] and again["reference"]["weights"] != learnt["reference"]["weights"]
    for stage in (first, second):
        folder = run / stage["folder"]
        assert stage["files"] == {name: account_of(folder / name) for name in stage["files"]}
        assert stage["pairs"]["count"] == len(rows_of(folder / "pairs.jsonl")) and stage["answers"]["answers"] == 12
        assert stage["pairs"]["count"] + sum(stage["pairs"]["prompts_without"].values()) == 3
    assert set(last["files"]) == {"held-out.jsonl"} and last["evaluation"]["prompts"] == 2
    asked, held = (
        [
            {row["source"] for row in rows_of(run / folder / name)}
            for folder in folders
            if (run / folder / name).exists()
        ]
        for name in ("answers.jsonl", "held-out.jsonl")
    )
    assert not asked[0] & asked[1] and len(asked[0] | asked[1]) == 6 and held[0] == held[1] == held[2]
    assert not held[0] & (asked[0] | asked[1])
    seeds = [rows_of(run / name / "answers.jsonl")[0]["sampled"]["seed"] for name in ("1-sample", "3-sample")]
    assert seeds[0] != seeds[1]
    assert final_folder(run) == run / "4-dpo"
    said = capsys.readouterr().err
    assert "stage 3 of 5, sample (round 2)" in said and f"the model of the last lies in {run / '4-dpo'}" in said
    assert "2 held-out prompts before round 2: reward -" in said and "2 held-out prompts at the end: reward -" in said


class Cut(Exception):
    """As if the process were killed."""


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 5, 12])
def test_a_run_cut_in_a_sample_ends_in_the_same_files(given: dict[str, str], tmp_path: Path, kept: int) -> None:
    train_stages(parse_stages(values(given, tmp_path / "whole")))
    whole, calls = tmp_path / "whole", []

    def cut(*_: Any, **__: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise Cut

    with pytest.MonkeyPatch.context() as patch:
        pair = sample_step._pair
        patch.setattr(sample_step, "_pair", lambda *args: cut() or pair(*args))
        with pytest.raises(Cut):
            train_stages(parse_stages(values(given, tmp_path / "run")))
    statuses = [stage["status"] for stage in RunFolder(tmp_path / "run").read_card()["stages"]]
    assert statuses == ["done", "done", "failed", "not begun", "not begun"]
    answers = tmp_path / "run" / "3-sample" / "answers.jsonl"
    answers.write_bytes(b"".join(answers.read_bytes().splitlines(keepends=True)[:kept]))
    with pytest.raises(RunFolderError, match="1-sample was sampled with other options than these: temperature"):
        train_stages(parse_stages(values(given, tmp_path / "run", step={"temperature": 0.5}, resume=True)))
    train_stages(parse_stages(values(given, tmp_path / "run", resume=True)))
    for folder, name in [(f"{k}-sample", name) for k in (1, 3) for name in ("answers.jsonl", "pairs.jsonl")]:
        mine = (tmp_path / "run" / folder / name).read_text(encoding="utf-8")
        assert mine.replace(str(tmp_path / "run"), str(whole)) == (whole / folder / name).read_text(encoding="utf-8")
    one, other = (load_file(tmp_path / name / "4-dpo" / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    (tmp_path / "run" / "1-sample" / "pairs.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"1-sample: pairs.jsonl was cut"):
        train_stages(parse_stages(values(given, tmp_path / "run", resume=True)))


@pytest.mark.slow
def test_one_more_round_goes_on_from_those_that_are_done(given: dict[str, str], tmp_path: Path) -> None:
    train_stages(parse_stages(values(given, tmp_path / "run", repeat=1)))
    train_stages(parse_stages(values(given, tmp_path / "run", repeat=2, resume=True)))
    assert final_folder(tmp_path / "run").name == "4-dpo"


@pytest.mark.slow
def test_answers_that_give_no_pair_end_the_run_by_the_stages_name(given: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)stage 1 of 5, sample \(round 1\): no pair can be made.*rewards are equal"
    ):
        train_stages(parse_stages(values(given, tmp_path / "run", step={"reward": "regex:never this"})))
    with pytest.raises(ConfigError, match="prompts_per_round=9 is more than the 6 prompts there are"):
        train_stages(parse_stages(values(given, tmp_path / "other", step={"prompts_per_round": 9})))
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapter"])
def test_a_reward_model_judges_what_the_policy_before_it_writes(
    given: dict[str, str], tmp_path: Path, lora: bool
) -> None:
    short = {"max_steps": 1, "warmup": 0}
    online = {"answers_per_prompt": 2, "max_new_tokens": 3, "batch_size": 2, **short}
    blocks = [
        {"method": "sft", "data": given["pairs.jsonl"], **short},
        {"method": "reward", "data": given["pairs.jsonl"], **short},
        {"method": "grpo", "data": given["prompts.jsonl"], "reward": "model:stage:reward", **online},
        {"method": "dpo", "data": given["pairs.jsonl"], "reference": "stage:sft", **short},
    ]
    train_stages(
        parse_stages(
            {**values(given, tmp_path / "run"), "repeat": 1, "stages": blocks, **({"lora_r": 4} if lora else {})}
        )
    )
    stages = RunFolder(tmp_path / "run").read_card()["stages"]
    sft, judge, grpo = (str(tmp_path / "run" / name) for name in ("1-sft", "2-reward", "3-grpo"))
    judged_from = given["model"] if lora else sft  # no classifier goes on from a policy's adapter
    assert [stage["begins_with"] for stage in stages] == [given["model"], judged_from, sft, grpo]
    assert stages[2]["options"]["reward"] == [f"model:{judge}"] and stages[3]["options"]["reference"] == sft
    assert {stage["status"] for stage in stages} == {"done"}


# --- what is planned -----------------------------------------------------------------------------------------------


def test_every_prompt_comes_once_before_any_comes_again() -> None:
    prompts = [Prompt(str(number), Source("file", number)) for number in range(10)]
    taken = [of_round(prompts, 4, number, 7) for number in (1, 2, 3, 4, 5)]
    order = [str(one.prompt) for part in taken for one in part]
    assert len(set(order[:10])) == 10 and order[:10] == order[10:] and order[:10] != sorted(order[:10])
    assert of_round(prompts, None, 3, 7) == prompts


def test_a_sample_takes_the_seed_and_the_chat_of_the_whole(given: dict[str, str]) -> None:
    shared = {"seed": 7, "system_prompt": "Be brief.", "dtype": "float32", "max_steps": 3, "eval_data": "other"}
    first, _, second, *_ = parse_stages(
        values(given, Path("out"), {"method": "dpo", "data": "stage:sample"}, **shared)
    ).stages
    for stage in (first, second):
        assert isinstance(stage, SampleStage) and stage.options.seed == 7 and stage.dtype == "float32"
        assert stage.chat.system_prompt == "Be brief." and stage.options.eval_data is None


def _refused(given: dict[str, str], **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_stages(values(given, Path("out"), **changes))
    return str(caught.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"reward": []}, "stage 1 (sample): reward is missing"),
        ({"answers": 4}, "unknown option 'answers' of a sample; here it is called answers_per_prompt"),
        ({"max_completion_length": 4}, "here it is called max_new_tokens"),
        ({"beta": 0.1}, "unknown option 'beta' of a sample"),
        ({"temprature": 1}, "did you mean temperature?"),
        ({"pairs_output": "x"}, "a step's files lie in its own folder"),
        ({"answers_per_prompt": 1}, "answers_per_prompt=1 is out of range"),
        ({"temperature": 0}, "temperature=0 writes the same answer each time"),
        ({"pairs": "best"}, "pairs='best' is not one of"),
        ({"threshold": 1}, "threshold has no effect on pairs=best-worst"),
        ({"reward_weights": [1]}, "reward_weights has no effect on a single reward"),
        ({"eval_data": "x"}, "eval_data and eval_fraction were both given"),
        ({"eval_fraction": None, "eval_reward": "json"}, "eval_reward has no effect without held-out prompts"),
        ({"eval_fraction": 2}, "eval_fraction=2.0 is out of range"),
        ({"sample": ""}, "sample names no prompts"),
        ({"model": "x"}, "model belongs to the whole run"),
        ({"sampler_url": "http://a"}, "sampler_url has no effect with sampler=local"),
        ({"name": "a/b"}, "becomes a folder's name"),
        ({"reward": "stage:dpo"}, "say what its model is: model:stage:dpo"),
        ({"reward": "model:stage:dpo"}, "dpo comes later; name a stage that is done before this one"),
    ],
)
def test_a_sample_that_cannot_be_meant_is_refused(given: dict[str, str], step: Any, message: str) -> None:
    assert message in _refused(given, step=step)


@pytest.mark.parametrize(
    ("learn", "message"),
    [
        (
            {"data": "stage:sampel"},
            "data=stage:sampel: no stage is called so; did you mean sample?; known: sample, dpo",
        ),
        ({"data": "elsewhere"}, "stage 1 (sample): no stage learns from it"),
        ({"data": "stage:dpo"}, "dpo comes later"),
        ({"reference": "stage:sample"}, "sample is a sample, which leaves pairs and no model"),
        ({"prompts_per_round": 2}, "unknown option 'prompts_per_round'"),
        ({"repeat": 2}, "repeat stands within repeat; keep one of them"),
        ({"repeat": 2, "stages": [LEARN]}, "stands within repeat"),
    ],
)
def test_a_stage_that_learns_from_nothing_is_refused(given: dict[str, str], learn: Any, message: str) -> None:
    assert message in _refused(given, learn={**LEARN, **learn})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeat": 0}, "repeat=0 is no whole number from 1 on"),
        ({"repeat": "three"}, "repeat='three' is no whole number"),
        ({"reward": "json"}, "reward belongs to a single stage"),
        ({"prompts_per_round": 2}, "prompts_per_round belongs to a single stage"),
        ({"repeat": None}, "prompts_per_round has no effect on a step that is not repeated"),
        ({"stages": [{"method": "reward", "data": "a"}, {"method": "dpo", "data": "b", "reference": "stage:reward"}]},
         "reward (reward) leaves a reward model, not a policy"),
        ({"stages": [{"method": "sft", "data": "a"}, {"method": "grpo", "data": "b", "reward": "model:stage:sft"}]},
         "sft (sft) leaves a policy, not a reward model"),
        ({"stages": [{"method": "sft", "data": "a"}, {"method": "dpo", "data": "stage:sft"}]},
         "sft is a run, which leaves a model and no pairs"),
        ({"stages": [{"repeat": 2, "beta": 1, "stages": [LEARN]}]}, "beta has no effect beside them"),
        ({"stages": [LEARN, LEARN]}, "two stages are called 'dpo'"),
    ],
)  # fmt: skip
def test_rounds_that_cannot_be_meant_are_refused(given: dict[str, str], changes: Any, message: str) -> None:
    if "stages" in changes:
        changes = {"repeat": None, **changes}
    assert message in _refused(given, **changes)


def test_a_flag_that_a_repeated_stage_sets_itself_is_refused(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = values(given, tmp_path / "run")
    nested = {**blocks, "stages": [{"repeat": blocks.pop("repeat"), "stages": blocks["stages"]}]}
    nested.pop("repeat")
    file = tmp_path / "rounds.yaml"
    file.write_text(yaml.safe_dump(nested), encoding="utf-8")
    assert cli.main(["train", str(file), "--max-steps", "1"]) == 2
    assert "max_steps was given as a flag, and stage 2 has its own" in capsys.readouterr().err


def test_several_processes_are_told_to_be_one(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likelier.experiments.stages.run.join_ranks", lambda timeout: Ranks(1, 2))
    with pytest.raises(ConfigError, match="a sample, which one process writes, and 2 were started"):
        train_stages(parse_stages(values(given, tmp_path / "run")))
