"""Sweeps: what is planned, what is shared, what survives a kill, and what comes out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from likelier.cli import main as cli
from likelier.data import tokenize
from likelier.data.load import load_preferences
from likelier.data.records import Labelled, Pair, Record, to_labels
from likelier.data.token_cache import sharing_ids
from likelier.data.tokenize import Tokenized, tokenize_records
from likelier.experiments.sweep.data import load_shared, loose_prompt
from likelier.experiments.sweep.plan import SweepPlan, plan_sweep, seeds_of
from likelier.experiments.sweep.run import run_sweep
from likelier.insight.report.account import how_again, run_file
from likelier.insight.report.page import report_page
from likelier.runs.card import RunCard
from likelier.runs.folder import RunFolder
from likelier.runs.reader import read_run
from likelier.scoring.restore import recorded_data
from likelier.training.evaluation import Evaluator
from likelier.utils.errors import ConfigError, DataError, RunFolderError
from tests.helpers.small_runs import pair_rows, save_tiny, write_rows
from tests.helpers.support import chat_pairs, labelled_rows, tiny_tokenizer

DEMO = Path(__file__).parents[2] / "src" / "likelier" / "data" / "honest_answers.jsonl"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A tiny model, pairs, and thumbs of which a part is on the pairs' prompts."""
    folder = tmp_path_factory.mktemp("given")
    save_tiny(folder / "model")
    rows = pair_rows(24)
    write_rows(folder / "pairs.jsonl", rows)
    on_the_same = [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in rows]
    write_rows(folder / "thumbs.jsonl", [*on_the_same, *thumb_rows(20)])
    write_rows(folder / "same.jsonl", on_the_same)
    return {name: str(folder / name) for name in ("model", "pairs.jsonl", "thumbs.jsonl", "same.jsonl")}


def thumb_rows(count: int) -> list[dict[str, Any]]:
    def talk(content: Any) -> list[dict[str, str]]:
        return [{"role": one.role, "content": one.content} for one in content]

    return [
        {"prompt": talk(row.prompt), "completion": talk(row.answer), "label": row.desirable}
        for row in labelled_rows(count, seed=7)
    ]


def values(given: dict[str, str], output: Path | str = "out", **more: Any) -> dict[str, Any]:
    return {
        "model": given["model"],
        "data": given["pairs.jsonl"],
        "output": str(output),
        "eval_fraction": 0.25,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "eval_prompts": 2,
        "eval_new_tokens": 4,
        "eval_steps": 0,
        **more,
    }


def plan(given: dict[str, str], *words: str, seeds: tuple[int, ...] = (1,), **more: Any) -> SweepPlan:
    return plan_sweep(values(given, **more), words, seeds)


# --- what is planned ---------------------------------------------------------------------------------------------


def test_several_options_of_a_method_make_every_combination(given: dict[str, str]) -> None:
    found = plan(given, "dpo.beta=0.05,0.5", "dpo.label_smoothing=0,0.1", "ipo.tau=2", "kto", seeds=(2,))
    assert found.settings == [
        "dpo beta=0.05 label_smoothing=0",
        "dpo beta=0.05 label_smoothing=0.1",
        "dpo beta=0.5 label_smoothing=0",
        "dpo beta=0.5 label_smoothing=0.1",
        "ipo tau=2",
        "kto",
    ]
    assert [run.name for run in found.runs[4:8]] == [
        "ipo-tau-2-seed-42",
        "kto-seed-42",
        "dpo-beta-0.05-label_smoothing-0-seed-43",
        "dpo-beta-0.05-label_smoothing-0.1-seed-43",
    ]
    last = found.runs[-1].config
    assert (last.training.seed, last.run.output, last.run.method) == (43, "out/kto-seed-43", "kto")
    assert found.runs[3].config.objective.hyperparameters()["beta"] == 0.5


def test_without_words_the_file_s_run_is_swept_over_seeds(given: dict[str, str]) -> None:
    found = plan(given, seeds=(7, 9), beta=0.3)
    assert [run.name for run in found.runs] == ["dpo-seed-7", "dpo-seed-9"]
    assert {run.config.objective.hyperparameters()["beta"] for run in found.runs} == {0.3}


def test_the_file_s_hyperparameters_belong_to_its_method(given: dict[str, str]) -> None:
    found = plan(given, "dpo.label_smoothing=0.1", "kto", "dpo.beta=0.2", beta=0.7)
    assert [run.config.objective.hyperparameters()["beta"] for run in found.runs] == [0.2, 0.1]
    found = plan(given, "dpo", "kto", beta=0.7)
    assert [run.config.objective.hyperparameters()["beta"] for run in found.runs] == [0.7, 0.1]


def test_any_option_may_vary_by_method(given: dict[str, str]) -> None:
    words = ("dpo.learning_rate=1e-4,2e-4", "kto.data=data/thumbs.jsonl", "kto.epochs=2", "simpo.use_margins=null")
    found = plan(given, *words, max_steps=3, reference_scores="live", columns={"prompt": "question"})
    fast, other, kto, simpo = (run.config for run in found.runs)
    assert (fast.training.learning_rate, other.training.learning_rate) == (1e-4, 2e-4)
    assert (kto.run.data, kto.training.epochs, kto.training.max_steps) == ("data/thumbs.jsonl", 2, None)
    assert kto.run.columns is None and fast.run.columns is not None  # the columns are those of the file's data
    assert kto.training.reference_scores == "live" and simpo.training.reference_scores == "stored"
    assert [run.name for run in found.runs][2] == "kto-data-thumbs.jsonl-epochs-2-seed-42"


def test_names_of_folders_are_told_apart(given: dict[str, str]) -> None:
    found = plan(given, "dpo.data=a/rows.jsonl,b/rows.jsonl,'odd: name/*'")
    assert [run.name for run in found.runs] == [
        "dpo-data-rows.jsonl-seed-42",
        "dpo-data-rows.jsonl-2-seed-42",
        "dpo-data-value-seed-42",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dop.beta=0.1"], "unknown method 'dop'; did you mean dpo"),
        (["dpo.betta=0.1"], "dpo betta=0.1: unknown option 'betta'; did you mean beta"),
        (["ipo.beta=0.1"], r"ipo beta=0.1: beta has no effect on ipo .* ipo has: .*tau"),
        (["beta=0.1"], r"no method is named; write METHOD.beta"),
        (["run.yaml"], "run.yaml: the file comes first"),
        (["dpo.beta"], "dpo.beta: say METHOD, or METHOD.OPTION=VALUE"),
        (["dpo=0.1"], "dpo=0.1: say METHOD, or"),
        (["dpo.=0.1"], "say METHOD, or"),
        (["dpo.beta="], "dpo.beta=: no value is given"),
        (["dpo.beta=[0.1"], "cannot be read as YAML"),
        (["dpo.beta=-1"], "dpo beta=-1: dpo: beta=-1.0 is out of range"),
        (["dpo.beta=x"], "dpo beta=x: beta='x'"),
        (["simpo.beta=0.1"], "simpo beta=0.1: .*beta=0.1"),
        (["dpo.beta=0.1,0.1"], "dpo.beta=0.1,0.1: 0.1 stands there twice"),
        (["dpo.beta=0.1,1e-1"], "dpo beta=0.1 and dpo beta=1e-1 are the same run"),
        (["dpo.beta=0.1", "dpo.beta=0.2"], "dpo.beta=0.2: dpo.beta stands there twice"),
        (["dpo", "dpo"], "dpo: dpo stands there twice"),
        (["dpo", "dpo.beta=0.2"], "dpo stands there alone and with beta"),
        (["dpo.seed=1,2"], "seed cannot vary by method: seeds are given by --seeds"),
        (["dpo.eval-fraction=0.1"], "eval_fraction cannot vary by method: all runs are held to the same rows"),
        (["dpo.model=a,b"], "model cannot vary by method"),
        (["dpo.reference=base", "simpo.reference=base"], "simpo reference=base: simpo uses no reference"),
        (["dpo.max_steps=0"], "max_steps=0 is out of range"),
    ],
)
def test_words_that_cannot_be_are_refused_before_anything_starts(
    given: dict[str, str], words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(given, *words)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"eval_fraction": None}, "a sweep compares its runs on held-out rows, and none are named"),
        ({"stages": []}, "the file has stages"),
        ({"push_to_hub": "a/b"}, "a sweep uploads nothing"),
        ({"beta": 0.2}, "beta in the file belongs to its method, dpo, which this sweep does not run"),
        ({"modle": "x"}, "unknown option 'modle'; did you mean model"),
    ],
)
def test_files_that_cannot_be_swept_are_refused(given: dict[str, str], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(given, "kto.beta=0.1", **more)


def test_seeds() -> None:
    assert seeds_of([3], 42) == (42, 43, 44)
    assert seeds_of([5, 1], 42) == (5, 1)
    for given, message in (
        ([0], "--seeds 0"),
        ([42], "--seeds 42: one number says how many"),
        ([1, 1], "names 1 twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            seeds_of(given, 42)


# --- the data ----------------------------------------------------------------------------------------------------


def test_no_held_out_prompt_is_trained_on_whatever_the_data(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan(given, "dpo", f"kto.data={given['thumbs.jsonl']}", f"sft.data={given['same.jsonl']}", output=tmp_path)
    shared = load_shared(found)
    held = {loose_prompt(record) for record in shared.held_out}
    assert len(shared.held_out) == 6
    trained = [shared.of(run.config) for run in found.runs]
    assert [len(data.train) for data in trained] == [18, 38, 18]
    for data in trained:
        assert not held & {loose_prompt(record) for record in data.train} and data.test is shared.held_out
    assert trained[1].unusable.counts() == {"held-out-prompt": 6}
    assert "thumbs.jsonl: 6 rows are left out, since their prompts are held out" in capsys.readouterr().err
    assert str(shared.budget(found.runs[0].config)) == "18 pairs (36 answers) in 3 steps"
    assert str(shared.budget(found.runs[1].config)) == "38 rows (38 answers) in 5 steps"


def test_a_prompt_is_known_in_another_format_too() -> None:
    talk = chat_pairs(1)[0]
    text = " ".join(message.content for message in talk.prompt)  # type: ignore[union-attr]
    plain = Labelled(f"  {text.upper()}\n", "an answer", True, talk.source)
    assert loose_prompt(plain) == loose_prompt(talk)


def test_rows_that_a_method_cannot_use_are_found_before_the_first_run(given: dict[str, str], tmp_path: Path) -> None:
    found = plan(given, "dpo", data=given["thumbs.jsonl"], output=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"dpo: its training data: .*dpo learns from pairs"):
        run_sweep(found)
    found = plan(given, f"dpo.data={given['pairs.jsonl']}", data=given["thumbs.jsonl"], output=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"dpo data=.*: held out: .*dpo learns from pairs"):
        run_sweep(found)
    every = plan(given, eval_fraction=None, eval_data=given["pairs.jsonl"], output=tmp_path / "out")
    with pytest.raises(DataError, match="every row is on a held-out prompt"):
        run_sweep(every)
    assert not list((tmp_path / "out").glob("*/run.json"))


# --- tokenization in common --------------------------------------------------------------------------------------


def tokenized(records: list[Any], **more: Any) -> Tokenized:
    return tokenize_records(records, tiny_tokenizer(), max_length=512, cached=True, **more)


def as_lists(found: Tokenized) -> list[Any]:
    return [[group.prompt.tolist(), *(answer.tolist() for answer in group.answers)] for group in found.groups]


class Counted:
    """How many records have been tokenized."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.records = 0
        plain = tokenize.tokenize_block

        def count(block: Any, *args: Any) -> Any:
            self.records += len(block)
            return plain(block, *args)

        patch.setattr(tokenize, "tokenize_block", count)


@pytest.mark.parametrize("pairs_first", [True, False])
def test_pairs_and_their_labels_share_their_ids(monkeypatch: pytest.MonkeyPatch, pairs_first: bool) -> None:
    merging = Pair("a c", "at sat", "ow", chat_pairs(1)[0].source)  # a token merges across the boundary
    pairs: list[Any] = [*chat_pairs(6), merging]
    labels: list[Any] = to_labels(pairs)
    plain = {kind: as_lists(tokenized(records)) for kind, records in (("pairs", pairs), ("labels", labels))}
    assert tokenized([merging]).boundary_merges == 1
    count = Counted(monkeypatch)
    with sharing_ids():
        for kind in ("pairs", "labels", "pairs") if pairs_first else ("labels", "pairs", "labels"):
            assert as_lists(tokenized(pairs if kind == "pairs" else labels)) == plain[kind]
    merged = 3  # the merging pair as such, and its two labels
    assert count.records == (6 if pairs_first else 12) + merged
    tokenized(pairs)
    assert count.records == (6 if pairs_first else 12) + merged + len(pairs)  # outside, nothing is kept


def test_another_template_has_other_ids() -> None:
    from likelier.data.options import ChatOptions

    records: list[Record] = list(chat_pairs(2))
    with sharing_ids():
        plain = as_lists(tokenized(records))
        assert as_lists(tokenized(records, chat=ChatOptions(system_prompt="be good"))) != plain
        assert as_lists(tokenized(records)) == plain


# --- running -----------------------------------------------------------------------------------------------------


def sources(run: Path) -> list[str]:
    steps = sorted((run / "evaluations").glob("step-*.json"), key=lambda path: int(path.stem.split("-")[1]))
    return json.loads(steps[-1].read_text(encoding="utf-8"))["items"]["source"]


def computed(run: Path) -> int:
    """Reference scores that a run had to compute."""
    return int(RunFolder(run).read_card()["reference"]["scores"].split()[0])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@pytest.fixture(scope="module")
def swept(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A finished sweep of pairs, thumbs and a method without reference, and how many records it tokenized."""
    root = tmp_path_factory.mktemp("swept")
    words = ("dpo.beta=0.05,0.5", "kto.beta=0.1", f"kto.data={given['thumbs.jsonl']}", "simpo.beta=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        count = Counted(patch)
        record = run_sweep(plan(given, *words, output=root / "out"))
        assert record.content["status"] == "done", record.content
        yield root / "out", count.records


@pytest.mark.slow
def test_all_runs_are_held_to_the_same_rows(swept: tuple[Path, int]) -> None:
    root, _ = swept
    content = json.loads((root / "sweep.json").read_text(encoding="utf-8"))
    runs = [root / run["folder"] for run in content["runs"]]
    assert len(runs) == 4 and all(RunFolder(run).is_finished() for run in runs)
    assert len({tuple(sorted(set(sources(run)))) for run in runs}) == 1 and len(sources(runs[0])) == 6
    assert content["held_out"]["rows"] == 6 and "drawn by seed 42" in content["held_out"]["named"]
    assert {RunFolder(run).read_card()["sweep"]["held_out"]["hash"] for run in runs} == {content["held_out"]["hash"]}
    thumbs = json.loads((root / content["runs"][2]["folder"] / "audit.json").read_text(encoding="utf-8"))
    finding = thumbs["findings"][0]
    assert (finding["name"], finding["count"]) == ("held-out-prompt", 6)


@pytest.mark.slow
def test_a_runs_held_out_rows_are_found_again_whatever_its_seed(swept: tuple[Path, int]) -> None:
    root, _ = swept
    for run in json.loads((root / "sweep.json").read_text(encoding="utf-8"))["runs"]:
        card = RunFolder(root / run["folder"]).read_card()
        card["options"]["seed"] = 7  # a run with another seed than the file's
        held_out = {str(record.source) for record in recorded_data(RunCard.of(card), "a run").test}
        own = run["folder"].startswith("kto")  # on thumbs of its own
        assert held_out == (set() if own else set(sources(root / run["folder"])))


@pytest.mark.slow
def test_rows_are_tokenized_once_and_the_reference_is_asked_once(swept: tuple[Path, int]) -> None:
    root, records = swept
    assert records == 18 + 6 + 20  # pairs, held-out pairs, thumbs that are no pair's chosen answer
    first, second, kto, _ = (root / run["folder"] for run in json.loads((root / "sweep.json").read_text())["runs"])
    assert computed(first) == 2 * (18 + 6)
    assert computed(second) == 0
    card = RunFolder(kto).read_card()["reference"]["scores"]
    assert int(card.split("computed, ")[1].split()[0]) == 18 + 12  # of its thumbs, and of both held-out answers


@pytest.mark.slow
def test_a_run_of_a_sweep_is_the_run_alone(swept: tuple[Path, int], given: dict[str, str], tmp_path: Path) -> None:
    root, _ = swept
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(values(given, tmp_path / "alone", beta=0.5)), encoding="utf-8")
    assert cli.main(["train", str(config)]) == 0
    alone, within = weights(tmp_path / "alone"), weights(root / "dpo-beta-0.5-seed-42")
    assert all(torch.equal(alone[name], within[name]) for name in alone)
    assert sources(tmp_path / "alone") == sources(root / "dpo-beta-0.5-seed-42")


class Cut(BaseException):
    """As if the process were killed."""


def cut_at(patch: pytest.MonkeyPatch, step: int, beta: float) -> None:
    """Kill the run of this beta after the checkpoint of that step."""
    from likelier.training.trainer import PreferenceTrainer

    publish = PreferenceTrainer._save_checkpoint

    def save(self: Any, model: Any, trial: Any) -> None:
        publish(self, model, trial)
        if getattr(self.objective, "beta", None) == beta and self.state.global_step == step:
            raise Cut

    patch.setattr(PreferenceTrainer, "_save_checkpoint", save)


@pytest.mark.slow
def test_a_cut_sweep_goes_on_from_the_checkpoint(
    swept: tuple[Path, int], given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = ("dpo.beta=0.05,0.5",), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        cut_at(patch, 2, 0.5)
        with pytest.raises(Cut):
            run_sweep(plan(given, *words, output=out, save_steps=1))
    content = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    assert content["status"] == "failed" and [run["status"] for run in content["runs"]] == ["done", "failed"]
    with pytest.raises(RunFolderError, match="already holds a sweep; use --resume"):
        run_sweep(plan(given, *words, output=out, save_steps=1))
    before = (out / "dpo-beta-0.05-seed-42" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    record = run_sweep(plan(given, *words, output=out, save_steps=1, resume=True))
    said = capsys.readouterr().err
    assert "dpo-beta-0.05-seed-42: done already" in said and "going on from step 2" in said
    assert record.content["status"] == "done" and "error" not in record.content["runs"][1]
    assert (out / "dpo-beta-0.05-seed-42" / "model.safetensors").stat().st_mtime_ns == before
    whole, resumed = weights(swept[0] / "dpo-beta-0.5-seed-42"), weights(out / "dpo-beta-0.5-seed-42")
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        (("dpo.beta=0.05,0.5", "ipo"), {}, r"ipo-seed-42 is new; .*kto.* is gone"),
        (None, {"batch_size": 5}, r"batch_size of dpo-beta-0.05-seed-42: was 8, is 5"),
        (None, {"eval_fraction": 0.5}, r"eval_fraction of .*: was 0.25, is 0.5"),
    ],
)
def test_another_plan_does_not_go_on(
    swept: tuple[Path, int], given: dict[str, str], words: tuple[str, ...] | None, more: dict[str, Any], message: str
) -> None:
    own = ("dpo.beta=0.05,0.5", "kto.beta=0.1", f"kto.data={given['thumbs.jsonl']}", "simpo.beta=2")
    with pytest.raises(RunFolderError, match=message):
        run_sweep(plan(given, *(words or own), output=swept[0], resume=True, **more))


@pytest.mark.slow
def test_other_rows_in_the_same_file_are_another_sweep(given: dict[str, str], tmp_path: Path) -> None:
    """As many rows as before, and of the same prompts: what the answers say is looked at, and in their order."""
    data, rows = tmp_path / "pairs.jsonl", pair_rows(16)
    write_rows(data, rows)
    own: dict[str, Any] = {"data": str(data), "output": tmp_path / "out", "max_steps": 1, "warmup": 0}
    run_sweep(plan(given, **own))
    trained = load_shared(plan(given, **own)).of(plan(given, **own).base).train[0].source.number - 1
    edited = [{**row, "rejected": [{"role": "assistant", "content": "no more"}]} for row in rows]
    for number, changed in (
        (trained, edited[trained]),
        (trained, {**rows[trained], "chosen": rows[trained - 1]["chosen"]}),
    ):
        write_rows(data, [*rows[:number], changed, *rows[number + 1 :]])
        with pytest.raises(RunFolderError, match=r"another one: data: was .*'rows': 12.*, is .*'rows': 12"):
            run_sweep(plan(given, **own, resume=True))
    write_rows(data, pair_rows(17))
    with pytest.raises(RunFolderError, match=r"another one: held_out: was .*'rows': 4.*, is .*'rows': 5"):
        run_sweep(plan(given, **own, resume=True))
    write_rows(data, rows)
    assert [run["status"] for run in run_sweep(plan(given, **own, resume=True)).content["runs"]] == ["done"]


def test_folders_that_cannot_be_used_are_named(given: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no sweep to go on with"):
        run_sweep(plan(given, output=tmp_path / "none", resume=True))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"not empty \(it holds notes.txt\)"):
        run_sweep(plan(given, output=tmp_path / "taken"))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "sweep.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"sweep\.json cannot be read"):
        run_sweep(plan(given, output=tmp_path / "torn", resume=True))


@pytest.mark.slow
def test_a_run_that_fails_does_not_end_the_sweep(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "run.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(values(given, out)), encoding="utf-8")
    words = ["sweep", str(config), "--vary", "dpo.learning_rate=1e35,1e-2", "dpo.scheduler=constant"]
    assert cli.main(words) == 3
    found = capsys.readouterr()
    runs = json.loads((out / "sweep.json").read_text(encoding="utf-8"))["runs"]
    assert [run["status"] for run in runs] == ["failed", "done"] and "TrainingError" in runs[0]["error"]
    assert "1 of 2 runs failed; --resume tries them again" in found.err
    assert f"{runs[0]['name']} is not compared: failed" in found.out
    assert (out / "sweep.html").is_file()


@pytest.mark.slow
def test_a_fault_of_a_run_s_own_does_not_end_the_sweep_either(
    given: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours: its place is told, the held-out rows stand on the card, and the next run begins."""
    judge = tmp_path / "judge.py"
    judge.write_text("def score(prompts, answers):\n    return [1.0 for _ in answers]\n", encoding="utf-8")

    def faulty(evaluator: Evaluator, answers: list[Any], when: str) -> list[Any]:
        if evaluator.judge is None:
            return answers
        raise KeyError("spelling")

    monkeypatch.setattr(Evaluator, "_judged", faulty)
    words = (f"dpo.eval_reward='{judge}:score',null",)
    record = run_sweep(plan(given, *words, output=tmp_path / "out", max_steps=1, warmup=0))
    failed, done = record.content["runs"]
    assert (failed["status"], done["status"], record.content["status"]) == ("failed", "done", "failed")
    told = capsys.readouterr().err
    assert "KeyError" in failed["error"] and "Traceback" in told and "spelling" in told
    card = RunFolder(tmp_path / "out" / failed["folder"]).read_card()
    assert card["status"] == "failed" and card["sweep"]["held_out"]["from_own_data"]
    held_out = {str(record.source) for record in recorded_data(RunCard.of(card), "a run").test}
    assert held_out == set(sources(tmp_path / "out" / done["folder"]))


@pytest.mark.slow
def test_the_report_of_a_run_tells_how_to_make_it_again_on_the_same_rows(
    swept: tuple[Path, int], given: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(swept[0] / "dpo-beta-0.5-seed-42", folder)
    run = read_run(folder)
    words, command = how_again(run)
    assert "drew the held-out rows by seed 42" in words and command == "likelier sweep run.yaml"
    RunFolder(folder).update_card({"options": {**run.card.block("options"), "seed": 43}})
    run = read_run(folder)
    assert how_again(run)[1] == "likelier sweep run.yaml --seeds 42 43"
    shown = yaml.safe_load(run_file(run) or "")
    again = plan_sweep({**shown, "output": str(tmp_path / "again")}, [], [42, 43])
    original = plan(given, "dpo.beta=0.5", seeds=(42, 43)).runs
    assert [one.config.objective for one in again.runs] == [one.config.objective for one in original]
    assert [one.config.training for one in again.runs] == [one.config.training for one in original]
    rows = [{str(record.source) for record in load_shared(one).held_out} for one in (again, plan(given))]
    assert rows[0] == rows[1]
    other = read_run(next(swept[0].glob("kto-*")))
    words, command = how_again(other)
    assert run_file(other) is None and "held to rows of other data than its own" in words
    assert command == ("likelier sweep FILE --vary dpo.beta=0.05,0.5 kto.beta=0.1 kto.data=thumbs.jsonl simpo.beta=2")
    page = report_page(other)
    assert command in page and "Make the whole sweep again" in page and "likelier train run.yaml" not in page


# --- the whole, on a fourth of the built-in pairs ----------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_of_four_methods_survives_a_kill_and_ends_with_the_frontier(
    given: dict[str, str], tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out, data = tmp_path / "run.yaml", tmp_path / "out", tmp_path / "pairs.jsonl"
    rows_of_demo = DEMO.read_text(encoding="utf-8").splitlines(keepends=True)
    data.write_text("".join(rows_of_demo[::4]), encoding="utf-8")
    own = values(given, out, data=str(data), batch_size=16, epochs=0.3, warmup=0, eval_prompts=2)
    config.write_text(yaml.safe_dump(own), encoding="utf-8")
    vary = ["dpo.beta=0.05,0.5", "ipo.tau=2,5", "kto.beta=0.1,0.5", "simpo.beta=2,4"]
    words = ["sweep", str(config), "--vary", *vary, "--seeds", "2"]
    killed = kill_in_the_second_run(words, out)
    assert killed == ["done", "training"]
    before = (out / "dpo-beta-0.05-seed-42" / "model.safetensors").stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        count = Counted(patch)
        assert cli.main([*words, "--resume"]) == 0
    pairs = load_preferences(str(data), eval_fraction=0.25)
    rows, held = len(pairs.train), len(pairs.test)
    assert count.records == rows + held  # pairs for one method, labels for another: tokenized once
    assert (out / "dpo-beta-0.05-seed-42" / "model.safetensors").stat().st_mtime_ns == before
    runs = [entry["folder"] for entry in json.loads((out / "sweep.json").read_text(encoding="utf-8"))["runs"]]
    with_reference = [name for name in runs if not name.startswith("simpo")]
    asked = {name: computed(out / name) for name in with_reference if computed(out / name)}
    mismatched = 2 * (rows + held)  # KTO's baseline asks for answers under other prompts
    assert asked == {"dpo-beta-0.05-seed-42": 2 * (rows + held), "kto-beta-0.1-seed-42": mismatched}
    assert len(runs) == 16 and len({tuple(sorted(set(sources(out / name)))) for name in runs}) == 1
    printed = capsys.readouterr().out
    assert "ranking accuracy against KL" in printed and "ipo tau=5" in printed
    page = (out / "sweep.html").read_text(encoding="utf-8")
    frontier = page.split('id="frontier"')[1].split('id="paired"')[0]
    assert "before training" not in frontier.split("</figure>")[0]  # eight settings take all eight colours
    assert "<svg" in frontier and all(f"simpo beta=4 ({name})" in frontier for name in runs if "simpo-beta-4" in name)


def kill_in_the_second_run(words: list[str], out: Path) -> list[str]:
    """Start the command, kill it while the second run trains; returns how far the first two runs are said to be."""
    process = subprocess.Popen(
        [sys.executable, "-m", "likelier.cli.main", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        while process.poll() is None and not (out / "dpo-beta-0.5-seed-42" / "run.json").is_file():
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    runs = json.loads((out / "sweep.json").read_text(encoding="utf-8"))["runs"]
    return [run["status"] for run in runs[:2]]
