"""Runs in stages: what each begins with and is held against, how they resume, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from likelier import load_policy
from likelier.cli import main as cli
from likelier.experiments.stages import StagedConfig, parse_stages, train_stages
from likelier.runs.folder import RunFolder, final_folder
from likelier.scoring import attach_scorer
from likelier.scoring.reference.identity import identities
from likelier.utils.errors import ConfigError, RunFolderError
from tests.cli.test_cli import as_json, pair_rows, write_lines
from tests.helpers.support import labelled_rows, tiny_policy


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny model, pairs and thumbs."""
    folder = tmp_path_factory.mktemp("given")
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(folder / "model")
    policy.tokenizer.save_pretrained(folder / "model")
    write_lines(folder / "pairs.jsonl", pair_rows())
    thumbs = [
        {"prompt": as_json(row.prompt), "completion": as_json(row.answer), "label": row.desirable}
        for row in labelled_rows(16)
    ]
    write_lines(folder / "thumbs.jsonl", thumbs)
    return {name: str(folder / name) for name in ("model", "pairs.jsonl", "thumbs.jsonl")}


def values(given: dict[str, str], output: Path, **shared: Any) -> dict[str, Any]:
    return {
        "model": given["model"],
        "output": str(output),
        "batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": 1,
        "stages": [
            {"method": "sft", "data": given["pairs.jsonl"], "max_steps": 2},
            {"method": "dpo", "data": given["pairs.jsonl"], "beta": 0.2, "max_steps": 3},
            {"method": "kto", "data": given["thumbs.jsonl"], "batch_size": 8, "reference": "original"},
        ],
        **shared,
    }


def weights_hash(model: str, *, adapter: bool) -> str:
    policy = load_policy(model)
    attach_scorer(policy.model, autocast=False, scorer="plain")
    return identities(policy.model, adapter=adapter, precision=policy.precision)["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["whole", "adapter"])
def test_each_stage_goes_on_from_the_one_before(given: dict[str, str], tmp_path: Path, lora: bool) -> None:
    file = tmp_path / "stages.yaml"
    file.write_text(yaml.safe_dump(values(given, tmp_path / "run", **({"lora_r": 4} if lora else {}))))
    assert cli.main(["train", str(file)]) == 0
    card = RunFolder(tmp_path / "run").read_card()
    sft, dpo, kto = card["stages"]
    assert card["status"] == "done" and [stage["folder"] for stage in card["stages"]] == ["1-sft", "2-dpo", "3-kto"]
    assert sft["begins_with"] == given["model"] and dpo["begins_with"] == str(tmp_path / "run" / "1-sft")
    assert "weights" not in sft["reference"] and dpo["reference"]["equals_policy"]
    # By recomputation: the hash of the stage before, and of what everything began with.
    assert dpo["reference"]["weights"] == weights_hash(dpo["begins_with"], adapter=lora)
    assert kto["reference"]["weights"] == weights_hash(given["model"], adapter=False)
    assert kto["reference"]["named"] == "original" and not kto["reference"]["equals_policy"]
    assert final_folder(tmp_path / "run") == tmp_path / "run" / "3-kto"
    for stage in card["stages"]:
        assert (tmp_path / "run" / stage["folder"] / "README.md").is_file()
    scores = str(tmp_path / "scores.jsonl")
    assert (
        cli.main(["score", "--model", str(tmp_path / "run"), "--data", given["pairs.jsonl"], "--output", scores]) == 0
    )


class Cut(Exception):
    """As if the process were killed."""


def _cut_in(monkeypatch: pytest.MonkeyPatch, method: str, step: int) -> None:
    from likelier.training.trainer import PreferenceTrainer

    publish = PreferenceTrainer._save_checkpoint

    def save(self: Any, model: Any, trial: Any) -> None:
        publish(self, model, trial)
        if self.objective.method == method and self.state.global_step == step:
            raise Cut

    monkeypatch.setattr(PreferenceTrainer, "_save_checkpoint", save)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_a_run_cut_in_its_second_stage_goes_on_there(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_stages(parse_stages(values(given, tmp_path / "whole")))
    with pytest.MonkeyPatch.context() as patch:
        _cut_in(patch, "dpo", 2)
        with pytest.raises(Cut):
            train_stages(parse_stages(values(given, tmp_path / "cut")))
    assert [stage["status"] for stage in RunFolder(tmp_path / "cut").read_card()["stages"]] == [
        "done",
        "failed",
        "not begun",
    ]
    before = (tmp_path / "cut" / "1-sft" / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(RunFolderError, match="use --resume to go on"):
        train_stages(parse_stages(values(given, tmp_path / "cut")))
    capsys.readouterr()
    train_stages(parse_stages(values(given, tmp_path / "cut", resume=True)))
    said = capsys.readouterr().err
    assert "stage 1 of 3, sft: done already" in said and "going on from step 2" in said
    assert (tmp_path / "cut" / "1-sft" / "model.safetensors").stat().st_mtime_ns == before
    whole, cut = (_weights(tmp_path / name / "3-kto") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.slow
def test_a_stage_cut_before_its_first_checkpoint_begins_again(given: dict[str, str], tmp_path: Path) -> None:
    options = values(given, tmp_path / "run")
    options.pop("save_steps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("likelier.training.step.StepWalker.walk", lambda *a: (_ for _ in ()).throw(Cut()))
        with pytest.raises(Cut):
            train_stages(parse_stages(options))
    assert (tmp_path / "run" / "1-sft").exists()
    train_stages(parse_stages({**options, "resume": True}))
    assert RunFolder(tmp_path / "run").is_finished()


@pytest.mark.slow
def test_resume_refuses_other_options_for_what_is_done(given: dict[str, str], tmp_path: Path) -> None:
    options = values(given, tmp_path / "run")
    train_stages(parse_stages({**options, "stages": options["stages"][:2]}))
    changed = json.loads(json.dumps(options))
    changed["stages"][1]["beta"] = 0.3
    with pytest.raises(RunFolderError, match="2-dpo is done, and was trained with other options than these: beta"):
        train_stages(parse_stages({**changed, "resume": True}))
    with pytest.raises(RunFolderError, match="holds the finished stage 2-dpo, which the file does not have any more"):
        train_stages(parse_stages({**options, "stages": options["stages"][:1], "resume": True}))
    train_stages(parse_stages({**options, "resume": True}))  # a third stage may be added
    assert final_folder(tmp_path / "run").name == "3-kto"


def refused(given: dict[str, str], **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_stages({**values(given, Path("out")), **changes})
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": []}, "stages: must be a list of blocks"),
        ({"stages": ["sft"]}, "stages: must be a list of blocks"),
        ({"model": ""}, "model is missing; it stands outside stages"),
        ({"beta": 0.1}, "beta belongs to a single stage"),
        ({"method": "dpo"}, "method belongs to a single stage"),
        ({"stages": [{"method": "sft", "model": "x"}]}, "stage 1 (sft): model belongs to the whole run"),
        ({"stages": [{"method": "sft", "lora_r": 4}]}, "stage 1 (sft): lora_r belongs to the whole run"),
        ({"stages": [{"method": "sft"}]}, "stage 1 (sft): --data is missing"),
        ({"stages": [{"method": "sft", "data": "a", "beta": 1.0}]}, "stage 1 (sft): beta has no effect on sft"),
        ({"stages": [{"method": "sft", "data": "a", "reference": "base"}]}, "sft uses no reference"),
        ({"stages": [{"method": "smpo", "data": "a"}]}, "unknown method 'smpo'"),
        ({"stages": [{"name": "a/b", "method": "sft", "data": "a"}]}, "becomes a folder's name"),
        ({"stages": [{"method": "sft", "data": "a"}] * 2}, "two stages are called 'sft'"),
    ],
)
def test_what_cannot_be_is_refused_with_the_stage(given: dict[str, str], changes: Any, message: str) -> None:
    assert message in refused(given, **changes)


def _parsed(given: dict[str, str], **changes: Any) -> StagedConfig:
    return parse_stages({**values(given, Path("out")), **changes})


def test_a_stages_own_choice_takes_the_place_of_what_all_share(given: dict[str, str]) -> None:
    stages = _parsed(given, epochs=2, reference_store="store", push_to_hub="a/b", lora_r=8).runs
    assert [stage.config.training.epochs for stage in stages] == [None, None, 2]
    assert [stage.config.training.reference_store for stage in stages] == [None, "store", "store"]
    assert [stage.config.run.push_to_hub for stage in stages] == [None, None, "a/b"]
    assert [stage.config.lora.lora_r for stage in stages] == [8, None, None]
    assert [stage.config.run.reference for stage in stages] == ["start", "start", "base"]
    assert _parsed(given).runs[2].config.run.reference == given["model"]


def test_a_flag_that_a_stage_sets_itself_is_refused(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "stages.yaml"
    file.write_text(yaml.safe_dump(values(given, tmp_path / "run")))
    assert cli.main(["train", str(file), "--max-steps", "1", "--warmup", "0"]) == 2
    assert "max_steps was given as a flag, and stage 1 has its own" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(given: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"is not empty \(it holds letter.txt\)"):
        train_stages(_parsed(given, output=str(tmp_path / "run")))
    with pytest.raises(RunFolderError, match="holds no run in stages to resume from"):
        train_stages(_parsed(given, output=str(tmp_path / "other"), resume=True))
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "run.json").write_text("{}")
    with pytest.raises(RunFolderError, match="holds a run without stages"):
        train_stages(_parsed(given, output=str(tmp_path / "single"), resume=True))
    assert (tmp_path / "run" / "letter.txt").read_text() == "mine"


def test_original_is_a_word_for_stages_only() -> None:
    from likelier.training.config import parse

    with pytest.raises(ConfigError, match="reference=original is for runs in stages"):
        parse({"model": "m", "data": "d", "output": "o", "reference": "original"})
