"""`likelier recommend`: every row of its table, what it says of doubt, and the run files that it writes."""

import argparse
import json
import random
from pathlib import Path
from typing import Any, get_args

import pytest

from likelier.advice.choice import batch_size, choose, settings_of
from likelier.advice.evidence import flip_rate_of, gather
from likelier.advice.recommend import Recommendation, recommend
from likelier.cli import main as cli
from likelier.cli.recommend import add_flags
from likelier.cli.train import add_flags as add_train_flags
from likelier.experiments.stages import parse_stages
from likelier.objectives.advice import Goal, Situation, Subject
from likelier.online.config import parse_run
from likelier.runs.folder import RunFolder
from likelier.training.config import parse, read_yaml
from likelier.utils.errors import ConfigError
from tests.helpers.small_runs import save_tiny, write_rows
from tests.helpers.support import WORDS


def words(rng: random.Random, count: int = 6) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def pair_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs that no check finds anything in but words: prompts and answers drawn at random."""
    rng = random.Random(seed)
    return [
        {"prompt": f"{number} {words(rng)}", "chosen": f"{number} {words(rng)}", "rejected": f"{words(rng)} {number}"}
        for number in range(count)
    ]


def label_rows(count: int, desirable: float = 0.5, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {"prompt": f"{number} {words(rng)}", "completion": words(rng), "label": number < desirable * count}
        for number in range(count)
    ]


def contradictory_rows(count: int, wrong: float) -> list[dict[str, Any]]:
    """Every pair judged twice, each judgement wrong with the chance `wrong`."""
    rng = random.Random(2)
    found = []
    for row in pair_rows(count // 2):
        for _ in range(2):
            flipped = row | {"chosen": row["rejected"], "rejected": row["chosen"]}
            found.append(flipped if rng.random() < wrong else row)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("advice") / "tiny")


@pytest.mark.parametrize(
    ("known", "methods", "row"),
    [
        (Situation(10_000, 0), ("dpo",), "pairs"),
        (Situation(0, 3_000), ("kto",), "labels only"),
        (Situation(300, 300), ("dpo", "kto"), "both kinds"),
        (Situation(499, 4_989), ("dpo", "kto"), "both kinds"),
        (Situation(500, 4_989), ("dpo",), "pairs"),
        (Situation(10_000, 2_000), ("dpo",), "pairs"),
        (Situation(1_000, 50_000), ("kto",), "labels dominate"),
        (Situation(499, 100), ("dpo", "kto"), "both kinds"),
        (Situation(495, 99), ("dpo",), "pairs"),
        (Situation(1_000, 9_999), ("dpo",), "pairs"),
        (Situation(250, 2_500), ("kto",), "labels dominate"),
        (Situation(1_000, 10_000), ("kto",), "labels dominate"),
        (Situation(5_000, 0, has_reference=False), ("simpo",), "memory too tight for a reference"),
        (Situation(100, 0), ("dpo",), "pairs"),
        (Situation(5_000, 0, flip_rate=0.2), ("robust",), "noisy or contradictory"),
        (Situation(5_000, 0, flip_rate=0.1), ("dpo",), "pairs"),
        (Situation(300, 0, flip_rate=0.2), ("robust",), "noisy or contradictory"),
        (Situation(300, 300, flip_rate=0.2), ("robust", "kto"), "both kinds, noisy"),
        (Situation(3_000, 3_000, flip_rate=0.2), ("robust",), "noisy or contradictory"),
        (Situation(5_000, 0, goal="quick"), ("dpo",), "quick validation"),
        (Situation(0, 900, goal="quick"), ("kto",), "labels only"),
        (Situation(5_000, 0, goal="robust"), ("robust",), "noisy or contradictory"),
        (Situation(5_000, 0, goal="ceiling"), ("dpo",), "ceiling"),
    ],
)
def test_the_table(known: Situation, methods: tuple[str, ...], row: str) -> None:
    choice = choose(known)
    assert (choice.methods, choice.row) == (methods, row)
    assert choice.online == (known.goal == "ceiling")


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (Situation(10_000, 2_000), "aside: 10,000 pairs say more"),
        (Situation(3_000, 3_000), "trained policy's own answers are worth more"),
        (Situation(3_000, 3_000, flip_rate=0.2), "trained policy's own answers are worth more"),
        (Situation(300, 300, goal="quick"), "to a later stage"),
        (Situation(300, 300, has_reference=False), "needs a reference"),
        (Situation(300, 300), ""),
        (Situation(300, 0), ""),
        (Situation(300, 3_000), ""),
    ],
)
def test_labels_that_no_stage_learns_from_are_spoken_of(known: Situation, said: str) -> None:
    left = [words for words in choose(known).reasons if "labels are left" in words]
    assert len(left) == bool(said) and all(said in words for words in left)


def advise(model: Path, folder: Path, *sets: list[dict[str, Any]], **more: Any) -> Recommendation:
    paths = [str(write_rows(folder / f"{number}.jsonl", rows)) for number, rows in enumerate(sets)]
    return recommend(gather(paths), str(model), memory=24 * 10**9, device="cpu", **more)


def parses(found: Recommendation, folder: Path) -> dict[str, Any]:
    """The written file says what the recommendation says, and the real parser takes it."""
    path = folder / "run.yaml"
    path.write_text(found.run_file, encoding="utf-8")
    values = read_yaml(str(path))
    reader: Any = parse_stages if "stages" in values else parse
    assert reader(values) == reader(found.options)
    return values


SETS: dict[str, tuple[list[list[dict[str, Any]]], dict[str, Any], str]] = {
    "pairs": ([pair_rows(600), label_rows(130)], {}, "dpo"),
    "labels only": ([label_rows(120, 0.2)], {}, "kto"),
    "labels dominate": ([pair_rows(20), label_rows(200)], {}, "kto"),
    "both kinds": ([pair_rows(120), label_rows(120)], {}, "dpo kto"),
    "noisy or contradictory": ([contradictory_rows(800, 0.2)], {}, "robust"),
    "memory too tight for a reference": ([pair_rows(600)], {"has_reference": False}, "simpo"),
    "quick validation": ([pair_rows(600)], {"goal": "quick"}, "dpo"),
    "ceiling": ([pair_rows(600)], {"goal": "ceiling"}, "dpo"),
}


@pytest.mark.slow
@pytest.mark.parametrize("row", SETS)
def test_a_set_for_every_row_gives_a_run_file_that_parses(row: str, model: Path, tmp_path: Path) -> None:
    sets, more, methods = SETS[row]
    found = advise(model, tmp_path, *sets, **more)
    assert found.choice.row == row and " ".join(found.choice.methods) == methods
    values = parses(found, tmp_path)
    blocks = values.get("stages", [values])
    assert [block["method"] for block in blocks] == methods.split()
    assert all(setting.source for stage in found.stages for setting in (*stage.settings, *found.shared))
    assert found.doubts and found.alternatives
    assert row != "quick validation" or values["lora_r"] == 16
    assert bool(found.online_needs) == (row == "ceiling")
    assert row != "pairs" or any(line.startswith("kto: ") for line in found.alternatives)


@pytest.mark.slow
def test_the_estimated_flip_rate_goes_into_the_run(model: Path, tmp_path: Path) -> None:
    found = advise(model, tmp_path, contradictory_rows(800, 0.2))
    rate = found.options["flip_probability"]
    assert rate == pytest.approx(0.2, abs=0.04)
    assert any(f"{found.evidence.flip_rate:.1%}" in line for line in found.evidence.lines())


def test_rare_labels_are_weighed_up(model: Path, tmp_path: Path) -> None:
    assert advise(model, tmp_path, label_rows(120, 0.2)).options["desirable_weight"] == pytest.approx(4.0)


def test_a_handful_of_repeated_pairs_says_nothing_about_noise() -> None:
    noise = {"judged_twice": 3, "flip_rate": 0.5, "from": "repeated rows", "ceilings": {"of_rows": 0.99}}
    rate, told = flip_rate_of(noise)
    assert rate is None and "3 cases" in told
    assert flip_rate_of(noise | {"judged_twice": 400, "ceilings": {"of_rows": 0.8}})[0] == pytest.approx(0.2)


def test_majorities_are_wrong_less_often_than_votes() -> None:
    ceilings = {"of_rows": 1.0, "of_majority": 0.95}
    noise = {"judged_twice": 400, "flip_rate": 0.2, "from": "votes", "ceilings": ceilings}
    assert flip_rate_of(noise)[0] == pytest.approx(0.05)


@pytest.mark.slow
def test_doubt_is_not_hidden(model: Path, tmp_path: Path) -> None:
    few = advise(model, tmp_path, pair_rows(120))
    assert any(line.startswith("ipo: ") and "was no steadier" in line for line in few.alternatives)
    tight = advise(model, tmp_path, pair_rows(600), has_reference=False)
    assert any("that argument falls" in doubt for doubt in tight.doubts)
    both = advise(model, tmp_path, pair_rows(120), label_rows(120))
    assert any("no paper with numbers" in doubt for doubt in both.doubts)


@pytest.mark.slow
def test_what_does_not_fit_is_said(model: Path, tmp_path: Path) -> None:
    path = str(write_rows(tmp_path / "pairs.jsonl", pair_rows(60)))
    found = recommend(gather([path]), str(model), memory=10**6, device="cpu")
    assert not found.fitted.fits and any("no way of training fits" in doubt for doubt in found.doubts)
    assert len(found.fitted.tried) == 4


@pytest.mark.parametrize(("rows", "size"), [(20, 8), (400, 8), (800, 16), (3_200, 64), (10**6, 64)])
def test_small_sets_get_small_batches(rows: int, size: int) -> None:
    assert batch_size(rows).value == size


def test_simpo_takes_its_authors_settings_for_the_model() -> None:
    subject = Subject("gemma2", True, 1000, adapter=False)
    found = {one.name: one for one in settings_of("simpo", subject)}
    assert (found["beta"].value, found["learning_rate"].value) == (10.0, 8e-7)
    unknown = settings_of("simpo", Subject("qwen3", True, 1000, adapter=True))
    assert "nothing is published for qwen3" in unknown[0].source and unknown[-1].value == pytest.approx(1.2e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::likelier.utils.errors.LikelierWarning")
@pytest.mark.parametrize("kinds", ["pairs", "both"])
def test_the_written_run_trains_as_it_stands(
    kinds: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("pairs.jsonl"), pair_rows(60))
    write_rows(Path("labels.jsonl"), label_rows(60, 0.3))
    files = ["pairs.jsonl"] if kinds == "pairs" else ["pairs.jsonl", "labels.jsonl"]
    asked = [*files, "--model", str(model), "--memory", "24GB", "--device", "cpu", "--output", "run.yaml"]
    assert cli.main(["recommend", *asked]) == 0
    said = capsys.readouterr().out
    assert "row of the table" in said and "doubts" in said and "run.yaml, each value with its source" in said
    assert cli.main(["train", "run.yaml"]) == 0
    folders = ["runs/dpo"] if kinds == "pairs" else ["runs/dpo-then-kto/1-dpo", "runs/dpo-then-kto/2-kto"]
    assert all(RunFolder(folder).is_finished() for folder in folders)
    assert cli.main(["recommend", *asked]) == 2  # run.yaml is there already


def test_every_goal_can_be_asked_for() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert parser.parse_args(["a.jsonl", "--model", "demo", "--goal", "quick"]).goal in get_args(Goal)
    assert next(one.choices for one in parser._actions if one.dest == "goal") == list(get_args(Goal))


def parser_of_train() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_train_flags(parser)

    return parser


def typed(line: str) -> Any:
    """The run whose command ends the line."""
    flags = parser_of_train().parse_args(line.partition("likelier train ")[2].split())
    return parse_run({name: value for name, value in vars(flags).items() if name != "config"})


@pytest.mark.slow
def test_json_has_stable_names(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", pair_rows(60))
    asked = [str(path), "--model", str(model), "--memory", "24GB", "--device", "cpu", "--format", "json"]
    assert cli.main(["recommend", *asked, "--goal", "ceiling"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["row"] == "ceiling" and found["online"]
    assert any("--method ppo" in line and "a critic and a reference" in line for line in found["online_needs"])
    runs = [typed(line) for line in found["online_needs"] if "likelier train " in line]
    assert [run.run.method for run in runs] == ["grpo", "reward", "grpo", "ppo"]
    assert all(run.run.data == str(path) and run.run.model == str(model) for run in runs)
    assert [run.online.reward for run in runs[2:]] == [(f"model:{runs[1].run.output}",)] * 2
    assert found["run"]["method"] == "dpo" and found["memory"]["fits"] is True
    assert {"reasons", "evidence", "doubts", "alternatives", "hyperparameters"} <= set(found)


def test_data_that_cannot_be_advised_on(tmp_path: Path) -> None:
    answers = write_rows(tmp_path / "answers.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(ConfigError, match=r"without a judgement.*--method sft"):
        gather([str(answers)])
    pairs = write_rows(tmp_path / "pairs.jsonl", pair_rows(4))
    with pytest.raises(ConfigError, match="named twice"):
        gather([str(pairs), str(pairs)])
