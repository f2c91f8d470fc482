"""The command line: what it writes, what it says, and its exit code for every kind of bad input."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml

from likelier import __version__
from likelier.cli import main as cli
from likelier.data.load import load_preferences
from likelier.data.records import Pair
from likelier.data.tokenize import tokenize_records
from likelier.models.policy import load_policy
from likelier.utils.errors import ConfigError
from tests.helpers.support import chat_pairs, labelled_rows, naive_logp, tiny_policy

STEPS = ["--max-steps", "2", "--batch-size", "4", "--learning-rate", "1e-2"]


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> Outcome:
        capsys.readouterr()
        code = cli.main([str(word) for word in words])
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs a command that must end with 2 and one message; gives the message."""

    def call(*words: object) -> str:
        code, out, err = run(*words)
        assert code == 2
        assert "Traceback" not in err and "Traceback" not in out
        before, message = err.split("error: ", 1)
        assert "error" not in before.lower()
        return message

    return call


def as_json(content: Any) -> Any:
    return content if isinstance(content, str) else [{"role": part.role, "content": part.content} for part in content]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair_rows(count: int = 12) -> list[dict[str, Any]]:
    return [
        {name: as_json(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")} for pair in chat_pairs(count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and its tokenizer in a folder."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("data") / "pairs.jsonl", pair_rows())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path, pairs: Path) -> dict[str, Path]:
    """Two runs of two steps: the whole model, and an adapter."""
    root = tmp_path_factory.mktemp("runs")
    words = ["train", "--model", str(model), "--data", str(pairs), *STEPS]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        assert cli.main([*words, "--output", str(root / "whole"), "--beta", "0.3"]) == 0
        assert cli.main([*words, "--output", str(root / "adapter"), "--lora-r", "4"]) == 0
    return {"whole": root / "whole", "adapter": root / "adapter"}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- train ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_by_flags_and_by_yaml_is_the_same_run(run: Run, tmp_path: Path, model: Path, pairs: Path) -> None:
    flags = ["--eval-fraction", "0.25", "--beta", "0.3", *STEPS]
    by_flags = run("train", "--model", model, "--data", pairs, "--output", tmp_path / "flags", *flags)
    options = {"model": str(model), "data": str(pairs), "output": str(tmp_path / "yaml"), "eval_fraction": 0.25}
    options |= {"beta": 0.3, "max_steps": 2, "batch_size": 4, "learning_rate": "1e-2"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    by_yaml = run("train", tmp_path / "run.yaml")
    assert by_flags.code == by_yaml.code == 0
    metrics = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("flags", "yaml")]
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in metrics]
    assert len(losses[0]) == 2 and losses[0] == losses[1]
    assert "step-0 check" in by_flags.err and "done: 2 steps" in by_flags.err


@pytest.mark.slow
def test_train_leaves_a_model_a_card_metrics_and_an_account(trained: dict[str, Path], model: Path) -> None:
    card = json.loads((trained["whole"] / "run.json").read_text(encoding="utf-8"))
    assert (card["status"], card["steps"], card["hyperparameters"]["beta"]) == ("done", 2, 0.3)
    assert card["run"]["model"] == str(model)
    assert [line["step"] for line in read_lines(trained["whole"] / "metrics.jsonl") if "loss" in line] == [1, 2]
    audit = json.loads((trained["whole"] / "audit.json").read_text(encoding="utf-8"))
    assert (audit["rows"], audit["usable"], audit["findings"]) == (12, 12, [])
    assert load_policy(trained["whole"]).model.num_parameters() == load_policy(model).model.num_parameters()
    assert (trained["adapter"] / "adapter_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ipo", "simpo", "kto"])
def test_every_kind_of_method_trains(run: Run, tmp_path: Path, model: Path, pairs: Path, method: str) -> None:
    rows = [
        {"prompt": as_json(row.prompt), "completion": as_json(row.answer), "label": row.desirable}
        for row in labelled_rows(16)
    ]
    data = write_lines(tmp_path / "labels.jsonl", rows) if method == "kto" else pairs
    words = ["--method", method, "--model", model, "--data", data, "--output", tmp_path / "run", "--max-steps", "2"]
    code, _, err = run("train", *words, "--batch-size", "8", "--eval-data", data)
    assert code == 0 and "done: 2 steps" in err
    card = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert card["method"] == method and "eval_rewards/accuracies" in card["evaluation_end"]


@pytest.mark.slow
def test_rows_that_cannot_be_used_are_said_and_written_down(run: Run, tmp_path: Path, model: Path) -> None:
    rows = pair_rows(6)
    rows[3]["chosen"] = rows[3]["rejected"]
    rows[4]["chosen"] = [{"role": "assistant", "content": " "}]
    data = write_lines(tmp_path / "pairs.jsonl", rows)
    code, _, err = run("train", "--model", model, "--data", data, "--output", tmp_path / "run", *STEPS)
    assert code == 0
    assert f"1 x identical-answers: {data}:4" in err and f"1 x empty-answer: {data}:5" in err
    audit = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    assert (audit["rows"], audit["usable"]) == (6, 4)
    assert {"name": "empty-answer", "count": 1, "examples": [f"{data}:5"]} in audit["findings"]


# --- score ---------------------------------------------------------------------------------------------------------


def scored(run: Run, model: Path, data: Path, output: Path, *more: object) -> tuple[list[dict[str, Any]], Outcome]:
    outcome = run("score", "--model", model, "--data", data, "--output", output, *more)
    assert outcome.code == 0, outcome.err
    return read_lines(output), outcome


def assert_adds_up(row: dict[str, Any], beta: float) -> None:
    for side in ("chosen", "rejected"):
        answer = row[side]
        assert answer["logratio"] == pytest.approx(answer["logp"] - answer["ref_logp"], abs=1e-5)
        assert answer["reward"] == pytest.approx(beta * answer["logratio"], abs=1e-6)
        for name in ("logp", "ref_logp", "logratio"):
            assert sum(token[name] for token in answer["tokens"]) == pytest.approx(answer[name], abs=1e-4)
            assert answer[f"{name}_per_token"] == pytest.approx(answer[name] / answer["length"])
        assert len(answer["tokens"]) == answer["length"]
    assert row["margin"] == pytest.approx(row["chosen"]["reward"] - row["rejected"]["reward"])
    assert row["correct"] == (row["margin"] > 0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "beta"), [("whole", 0.3), ("adapter", 0.1)])
def test_score_on_a_run_folder_takes_its_own_beta_and_reference(
    run: Run, tmp_path: Path, trained: dict[str, Path], model: Path, pairs: Path, name: str, beta: float
) -> None:
    rows, outcome = scored(run, trained[name], pairs, tmp_path / "scores.jsonl", "--per-token")
    assert [row["source"] for row in rows] == [f"{pairs}:{number}" for number in range(1, 13)]
    assert any(abs(row["margin"]) > 1e-4 for row in rows)
    for row in rows:
        assert_adds_up(row, beta)
    assert str(model) in outcome.err and "reward accuracy" in outcome.out and "12 rows written" in outcome.out


@pytest.mark.slow
def test_scores_are_the_models_own_log_probabilities(
    run: Run, tmp_path: Path, trained: dict[str, Path], model: Path, pairs: Path
) -> None:
    row = scored(run, trained["whole"], pairs, tmp_path / "scores.jsonl")[0][4]
    policy, reference = load_policy(trained["whole"], dtype="float32"), load_policy(model, dtype="float32")
    records = load_preferences(pairs).train
    group = tokenize_records(records, policy.tokenizer, max_length=512).groups[4]
    for number, side in enumerate(("chosen", "rejected")):
        assert row[side]["logp"] == pytest.approx(naive_logp(policy.model, group, number), abs=1e-3)
        assert row[side]["ref_logp"] == pytest.approx(naive_logp(reference.model, group, number), abs=1e-3)
        assert row[side]["length"] == len(group.answers[number])


@pytest.mark.slow
def test_the_tokens_of_an_answer_spell_it_out(run: Run, tmp_path: Path, trained: dict[str, Path], pairs: Path) -> None:
    row = scored(run, trained["whole"], pairs, tmp_path / "scores.jsonl", "--per-token")[0][0]
    pair = chat_pairs(1)[0]
    assert isinstance(pair, Pair) and isinstance(pair.chosen, tuple)
    text = "".join(token["text"] for token in row["chosen"]["tokens"])
    assert text == pair.chosen[0].content + "<|im_end|>\n"


@pytest.mark.slow
def test_an_adapter_folder_is_scored_against_its_base(
    run: Run, tmp_path: Path, trained: dict[str, Path], model: Path, pairs: Path
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(trained["adapter"] / name, folder)
    alone = scored(run, folder, pairs, tmp_path / "alone.jsonl")[0]
    named = scored(run, folder, pairs, tmp_path / "named.jsonl", "--reference", model)[0]
    of_run = scored(run, trained["adapter"], pairs, tmp_path / "run.jsonl")[0]
    assert any(abs(row["margin"]) > 1e-4 for row in alone)
    for row, other, third in zip(alone, named, of_run, strict=True):
        assert row["margin"] == pytest.approx(other["margin"], abs=1e-4)
        assert row["margin"] == pytest.approx(third["margin"], abs=1e-4)


@pytest.mark.slow
def test_a_given_beta_scales_the_rewards(run: Run, tmp_path: Path, trained: dict[str, Path], pairs: Path) -> None:
    rows = scored(run, trained["whole"], pairs, tmp_path / "scores.jsonl", "--beta", "2", "--per-token")[0]
    for row in rows:
        assert_adds_up(row, 2.0)


@pytest.mark.slow
def test_labelled_answers_are_scored_too(run: Run, tmp_path: Path, trained: dict[str, Path]) -> None:
    rows = [
        {"prompt": as_json(row.prompt), "completion": as_json(row.answer), "label": row.desirable}
        for row in labelled_rows(6)
    ]
    found, outcome = scored(run, trained["whole"], write_lines(tmp_path / "l.jsonl", rows), tmp_path / "s.jsonl")
    assert [row["label"] for row in found] == [row["label"] for row in rows]
    for row in found:
        assert row["completion"]["reward"] == pytest.approx(0.3 * row["completion"]["logratio"], abs=1e-6)
    assert "undesirable" in outcome.out


def test_the_reference_scored_against_itself_has_no_reward(run: Run, tmp_path: Path, model: Path, pairs: Path) -> None:
    rows = scored(run, model, pairs, tmp_path / "scores.jsonl", "--reference", model)[0]
    assert all(row["margin"] == 0 and not row["correct"] for row in rows)


# --- bad data: exit code 2, one message ----------------------------------------------------------------------------

GOOD = {"prompt": "ask", "chosen": "yes", "rejected": "no"}
LABEL = {"prompt": "ask", "completion": "yes", "label": True}
BAD_DATA: list[tuple[str, str, list[str]]] = [
    ("missing-column", json.dumps({"prompt": "ask", "chosen": "yes"}), ["{data}:1", "column rejected is missing"]),
    ("empty-file", "", ["{data} holds no rows"]),
    ("broken-line", json.dumps(GOOD) + '\n{"prompt": \n', ["{data}:2: broken JSON at column"]),
    ("empty-answers", json.dumps(GOOD | {"chosen": ""}), ["none of the 1 rows can be used", "empty-answer: {data}:1"]),
    ("wrong-label", json.dumps(LABEL | {"label": "great"}), ["{data}:1: label is 'great' (str)"]),
    ("labels-under-dpo", json.dumps(LABEL), ["dpo learns from pairs", "use --method kto"]),
]


@pytest.mark.parametrize(("content", "parts"), [case[1:] for case in BAD_DATA], ids=[case[0] for case in BAD_DATA])
def test_bad_data_end_with_2_and_name_the_place(
    refused: Callable[..., str], tmp_path: Path, model: Path, content: str, parts: list[str]
) -> None:
    data = tmp_path / "prefs.jsonl"
    data.write_text(content, encoding="utf-8")
    message = refused("train", "--model", model, "--data", data, "--output", tmp_path / "run")
    for part in parts:
        assert part.format(data=data) in message
    assert not (tmp_path / "run").exists()


def test_a_missing_file_ends_with_2(refused: Callable[..., str], tmp_path: Path, model: Path) -> None:
    message = refused("train", "--model", model, "--data", tmp_path / "no.jsonl", "--output", tmp_path / "run")
    assert message.startswith(f"no such file: {tmp_path / 'no.jsonl'}")


def test_rows_that_are_all_too_long_end_with_2(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path
) -> None:
    words = ["--model", model, "--data", pairs, "--output", tmp_path / "run"]
    assert "none of the 12 rows is left" in refused("train", *words, "--max-length", "3")
    assert f"{pairs}:1: " in refused("train", *words, "--max-length", "3", "--truncation", "error")


# --- bad models ----------------------------------------------------------------------------------------------------


def test_a_folder_without_config_is_no_model(refused: Callable[..., str], tmp_path: Path, pairs: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = refused("train", "--model", tmp_path / "empty", "--data", pairs, "--output", tmp_path / "run")
    assert f"{tmp_path / 'empty'} is a folder without config.json" in message


def test_a_model_folder_without_weights_is_refused(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    message = refused("train", "--model", bare, "--data", pairs, "--output", tmp_path / "run")
    assert f"{bare} holds no weights" in message


def test_damaged_weights_are_refused(refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    (damaged / "model.safetensors").write_bytes(b"no weights")
    message = refused("train", "--model", damaged, "--data", pairs, "--output", tmp_path / "run")
    assert f"{damaged} cannot be loaded" in message


def test_a_damaged_config_is_refused(refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    (damaged / "config.json").write_text("{", encoding="utf-8")
    message = refused("train", "--model", damaged, "--data", pairs, "--output", tmp_path / "run")
    assert f"{damaged} cannot be loaded" in message


def test_a_mistyped_model_folder_is_refused(refused: Callable[..., str], tmp_path: Path, pairs: Path) -> None:
    message = refused("train", "--model", tmp_path / "absent", "--data", pairs, "--output", tmp_path / "run")
    assert message.startswith(f"no such model folder: {tmp_path / 'absent'}")


def test_conversations_need_a_chat_template(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(model, plain, ignore=shutil.ignore_patterns("chat_template*"))
    message = refused("train", "--model", plain, "--data", pairs, "--output", tmp_path / "run")
    assert message.startswith(f"{pairs}:1: the row is a conversation") and "has no chat template" in message


@pytest.mark.parametrize("more", [(), ("--method", "grpo", "--reward", "exact")])
def test_a_missing_chat_template_is_told_before_the_weights_are_loaded(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path, more: tuple[str, ...]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("chat_template*", "*.safetensors"))
    assert "has no chat template" in refused("train", "--model", bare, "--data", pairs, "--output", tmp_path, *more)


@pytest.mark.slow
def test_an_adapter_that_names_no_known_base_is_refused(
    refused: Callable[..., str], tmp_path: Path, trained: dict[str, Path], pairs: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(trained["adapter"], folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    for base, expected in ((str(tmp_path / "gone"), "no such model folder"), (None, "does not name its base model")):
        (folder / "adapter_config.json").write_text(
            json.dumps(config | {"base_model_name_or_path": base}), encoding="utf-8"
        )
        message = refused("train", "--model", folder, "--data", pairs, "--output", tmp_path / "run")
        assert expected in message


def test_score_needs_a_reference(refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path) -> None:
    message = refused("score", "--model", model, "--data", pairs, "--output", tmp_path / "scores.jsonl")
    assert "give --reference" in message
    assert not (tmp_path / "scores.jsonl").exists()


# --- bad options and folders ---------------------------------------------------------------------------------------


def test_an_unknown_option_in_yaml_names_the_nearest(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: d\noutput: o\nlearning_rat: 1e-5\n", encoding="utf-8")
    assert refused("train", path) == "unknown option 'learning_rat'; did you mean learning_rate?\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "ipo", "--beta", "0.1"], "beta has no effect on ipo"),
        (["--method", "simpo", "--beta", "0.1"], "--allow-small-beta"),
        (["--batch-size", "eight"], "batch_size='eight' is not a whole number"),
        (["--seed", "-1"], "seed=-1 is out of range"),
        (["--report-to", "nonsense"], "nonsense"),
        (["--eval-steps", "1"], "eval_steps has no effect without evaluation data"),
        (["--lora-r", "4", "--lora-targets", "nonsense"], "lora_targets='nonsense'"),
        (["--reference", "base"], "adapter"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path, words: list[str], expected: str
) -> None:
    given = ["--model", model, "--data", pairs, "--output", tmp_path / "run", "--max-steps", "1", "--warmup", "0"]
    assert expected in refused("train", *given, *words)


@pytest.mark.slow
def test_an_output_that_cannot_be_written_is_refused(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path, trained: dict[str, Path]
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    below = tmp_path / "file" / "run"
    message = refused("train", "--model", model, "--data", pairs, "--output", below)
    assert message.startswith(f"{below} cannot be written")
    message = refused("score", "--model", trained["whole"], "--data", pairs, "--output", below)
    assert message.startswith(f"{below} cannot be written")


def test_a_reference_store_that_cannot_be_written_is_refused(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    words = ["--model", model, "--data", pairs, "--output", tmp_path / "run", "--reference-store", tmp_path / "file"]
    assert str(tmp_path / "file") in refused("train", *words, *STEPS)


@pytest.mark.slow
def test_score_never_overwrites_its_data(
    refused: Callable[..., str], tmp_path: Path, trained: dict[str, Path], pairs: Path
) -> None:
    data = Path(shutil.copy(pairs, tmp_path / "pairs.jsonl"))
    message = refused("score", "--model", trained["whole"], "--data", data, "--output", data)
    assert "would be overwritten" in message
    assert data.read_bytes() == pairs.read_bytes()


@pytest.mark.slow
def test_a_folder_that_holds_a_run_is_refused(
    refused: Callable[..., str], model: Path, pairs: Path, trained: dict[str, Path]
) -> None:
    before = (trained["whole"] / "metrics.jsonl").read_bytes()
    message = refused("train", "--model", model, "--data", pairs, "--output", trained["whole"], *STEPS)
    assert message.startswith(f"{trained['whole']} already holds a run; use --resume")
    assert (trained["whole"] / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_resume_needs_a_checkpoint(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path, trained: dict[str, Path]
) -> None:
    for output in (trained["whole"], tmp_path / "new"):
        message = refused("train", "--model", model, "--data", pairs, "--output", output, "--resume", *STEPS)
        assert f"{output} has no checkpoint to resume from" in message


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["train", "--nonsense", "1"],
        ["train", "--scheduler", "square"],
        ["score"],
        ["score", "--model", "m", "--data", "d", "--output", "o", "--max-length", "0"],
        ["score", "--model", "m", "--data", "d", "--output", "o", "--beta", "-1"],
        ["demo", "--max-steps", "many"],
    ],
)
def test_words_that_are_no_command_end_with_2_and_the_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.startswith("usage: likelier") and "error:" in err


# --- faults of ours, interruptions ---------------------------------------------------------------------------------


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


def train_raising(error: BaseException, run: Run, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setattr("likelier.experiments.watched.train_watched", failing(error))
    return run("train", "--model", "m", "--data", "d", "--output", "o")


def test_a_fault_of_ours_ends_with_1_and_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = train_raising(RuntimeError("boom"), run, monkeypatch)
    assert code == 1 and "Traceback" not in err
    first, second = err.splitlines()
    assert first == "error: RuntimeError: boom" and second.startswith("this is a fault of likelier")
    kept = Path(second.partition("The traceback is in ")[2].partition(";")[0])
    assert "Traceback" in kept.read_text() and kept.stat().st_mode & 0o077 == 0
    kept.unlink()


def test_a_traceback_is_shown_where_it_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKELIER_TRACEBACK", "1")
    code, _, err = train_raising(ConfigError("mend it"), run, monkeypatch)
    assert code == 2 and "Traceback" in err and err.endswith("error: mend it\n")


def test_an_interruption_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_raising(KeyboardInterrupt(), run, monkeypatch) == Outcome(130, "", "interrupted\n")


def test_a_reader_that_went_away_is_no_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_raising(BrokenPipeError(), run, monkeypatch) == Outcome(0, "", "")


# --- help ----------------------------------------------------------------------------------------------------------


def help_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    shown = help_of(capsys, command, "--help")
    assert shown.startswith(f"usage: likelier {command}")
    assert cli.COMMANDS[command].help in " ".join(shown.split()) and "options:" in shown
    assert not re.search(r"\{[^}]*\bNone\b[^}]*\}", shown)  # an option that is not given is no word to type


def test_the_top_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    shown = help_of(capsys, "--help")
    assert help_of(capsys) == shown
    for name, command in cli.COMMANDS.items():
        assert name in shown and command.help in shown
    assert help_of(capsys, "--version") == f"likelier {__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [[], ["--help"], ["score", "--help"], ["recommend", "--help"], ["demo", "--help"], ["--version"]]
)
def test_importing_and_helping_need_neither_torch_nor_transformers(words: list[str]) -> None:
    code = (
        "import sys, likelier, likelier.cli.main\n"
        "try:\n"
        f"    if {words!r}: likelier.cli.main.main({words!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_public_name_can_be_imported() -> None:
    import likelier

    for name in likelier.__all__:
        assert getattr(likelier, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        likelier.nonsense  # noqa: B018


@pytest.mark.slow
def test_score_refuses_a_reference_that_was_replaced(
    refused: Callable[..., str], tmp_path: Path, model: Path, pairs: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(model, base)
    run = tmp_path / "run"
    assert cli.main(["train", "--model", str(base), "--data", str(pairs), "--output", str(run), *map(str, STEPS)]) == 0
    other = tiny_policy(seed=7, dtype=torch.float32)
    other.model.save_pretrained(base)
    message = refused("score", "--model", run, "--data", pairs, "--output", tmp_path / "scores.jsonl")
    assert "is not the reference that" in message and "--reference" in message


@pytest.mark.slow
def test_a_flag_wins_over_its_rival_in_the_file(tmp_path: Path, model: Path, pairs: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {model}\ndata: {pairs}\noutput: {tmp_path / 'run'}\nepochs: 3\nbatch_size: 4\n")
    assert cli.main(["train", str(file), "--max-steps", "1", "--warmup", "0"]) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
