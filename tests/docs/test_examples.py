"""The examples run as they stand, on a tiny model."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from examples import follow_one_pair, kto_from_a_log, one_sentence, plain_loop, score_answers
from likelier import DPO, load_preferences
from likelier.cli.main import main
from likelier.data.prompts import load_prompts
from likelier.data.tokenize import tokenize_records
from likelier.experiments.stages import parse_stages
from likelier.models.policy import load_policy
from likelier.online.config import parse_online
from likelier.online.rewards.load import load_rewards
from likelier.scoring import collate, score_plain
from likelier.scoring.engine import as_scored
from likelier.training.config import parse, read_yaml
from tests.helpers.support import chat_pairs, naive_logp, tiny_policy

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def as_demo(model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`demo` is the tiny model, and commands run from the root of the repository."""
    for module in ("policy", "loading"):
        monkeypatch.setattr(f"likelier.models.{module}.demo_model_folder", lambda: model)
    monkeypatch.chdir(ROOT)
    return model


def write_pairs(path: Path, count: int = 12) -> Path:
    pairs = chat_pairs(count)
    rows = [
        {side: [asdict(turn) for turn in getattr(pair, side)] for side in ("prompt", "chosen", "rejected")}
        for pair in pairs
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.slow
def test_the_plain_loop_runs_from_a_model_folder_and_a_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl")
    plain_loop.main(str(model), str(pairs), 0.1, 0.01, 2)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "step 1: loss 0.6931"
    assert float(second.split()[-1]) < 0.6931


def test_examples_are_short() -> None:
    for file in (ROOT / "examples").glob("*.py"):
        assert len(file.read_text().splitlines()) < (100 if file.name == "plain_loop.py" else 60), file.name


# --- one pair, followed --------------------------------------------------------------------------------------------

NUMBER = r"[+-]?\d+\.\d+(?:e-\d+)?|[+-]?\d+"


def numbers(line: str) -> list[float]:
    return [float(found) for found in re.findall(rf"(?<![\w.])(?:{NUMBER})", line)]


def check_story(text: str) -> dict[str, float]:
    """Recompute every number of the eight parts from those before it; returns some of them."""
    lines = text.rstrip().splitlines()
    assert [line[:2] for line in lines if re.match(r"\d\. ", line)] == [f"{part}." for part in range(1, 9)]
    sums = []
    for place in (4, 5):
        tokens, total = lines[place].split(" sum ")
        assert sum(numbers(tokens)) == pytest.approx(float(total), abs=5e-4 * (len(numbers(tokens)) + 1))
        sums.append(float(total))
    assert numbers(lines[6])[1:] == sums
    assert numbers(lines[7])[1:] == [0, 0] and numbers(lines[8])[2:] == [0, 0, 0]
    assert numbers(lines[9])[2] == pytest.approx(math.log(2), abs=5e-5)
    beta = numbers(lines[8])[1]
    up, down, norm = numbers(lines[10])
    assert (up, down) == (-beta / 2, beta / 2) and norm > 0
    steps = [numbers(line.replace(":", "", 1)) for line in lines[13:]]
    assert [step[0] for step in steps] == list(range(len(steps))) and len(steps) > 3
    for _, chosen, rejected, logit, loss, weight in steps:
        assert logit == pytest.approx(beta * (chosen - rejected), abs=1e-4)
        assert loss == pytest.approx(math.log1p(math.exp(-logit)), abs=1e-4)
        assert weight == pytest.approx(1 / (1 + math.exp(logit)), abs=1e-4)
    assert steps[0][1:4] == [0, 0, 0] and steps[-1][4] < steps[0][4]
    return {"chosen": sums[0], "rejected": sums[1], "norm": norm, "beta": beta}


@pytest.mark.slow
def test_one_pair_is_followed_to_its_gradient(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    follow_one_pair.follow(str(model))
    found = check_story(capsys.readouterr().out)
    policy = load_policy(model, dtype="float32")
    group = tokenize_records(load_preferences([follow_one_pair.ROW]).train, policy.tokenizer, max_length=512).groups[0]
    assert found["chosen"] == pytest.approx(naive_logp(policy.model, group, 0), abs=1e-3)
    assert found["rejected"] == pytest.approx(naive_logp(policy.model, group, 1), abs=1e-3)
    batch = collate([group])  # the objective that the trainer takes, on the same pair
    scored = as_scored(batch, score_plain(policy.model, batch))
    at_start = scored.with_items(ref_logps=scored.logps.detach())
    DPO(beta=found["beta"]).losses(at_start).sum().backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
    assert float(norm) == pytest.approx(found["norm"], rel=1e-3)


@pytest.mark.slow
def test_the_page_quotes_what_the_example_prints(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs/from-math-to-code.md").read_text(encoding="utf-8")
    quoted = next(block for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) if block.startswith("1. data"))
    check_story(quoted)
    follow_one_pair.follow(str(model))

    def shape(text: str) -> list[str]:
        lines = text.rstrip().splitlines()
        lines[1:3], lines[4:6] = ["tokens"] * 2, ["log-probabilities"] * 2  # another tokenizer has others
        return [re.sub(NUMBER, "#", line) for line in lines]

    assert shape(quoted) == shape(capsys.readouterr().out)


# --- run files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpo", "kto", "mix"])
def test_run_files_parse(name: str) -> None:
    config = parse(read_yaml(str(ROOT / "examples" / f"{name}.yaml")))
    assert config.run.method == ("dpo" if name == "mix" else name)
    paths = [config.run.data] if isinstance(config.run.data, str) else [one.path for one in config.run.data]
    assert all((ROOT / path).is_file() for path in paths)


def test_every_run_file_is_tested() -> None:
    recipes = {"70b-qlora", "8b-eight-gpus", "8b-one-gpu", "laptop"}  # in test_recipes.py
    known = {"dpo", "kto", "mix", "stages", "rounds", "grpo", "ppo", *recipes}
    assert {file.stem for file in (ROOT / "examples").glob("*.yaml")} == known


def test_the_online_run_file_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = parse_online(read_yaml("examples/grpo.yaml"))
    assert config.run.method == "grpo" and isinstance(config.run.data, str)
    questions = load_prompts(config.run.data).train
    assert len(questions) == len({str(one.prompt) for one in questions}) == 96
    load_rewards(config.online.reward).close()


@pytest.mark.parametrize(
    ("text", "stop", "earned", "kept"),
    [
        ("The sky scatters blue light more than red light.", "eos", 1.0, 1.0),
        ("The sky scatters blue light more than red light.", "length", 0.0, 0.0),
        ("Light scatters. Blue light scatters most.", "eos", 0.5, 0.0),
        ("Because.", "eos", 0.0, 0.0),
        ("You are a friend of mine.", "eos", 0.1, 0.0),
        ("blue " * 24 + "end.", "eos", 0.24, 0.0),
    ],
)
def test_the_reward_of_one_sentence(text: str, stop: str, earned: float, kept: float) -> None:
    asked = ["Why is the sky blue?"]
    assert one_sentence.reward([text], [stop], asked) == [pytest.approx(earned)]
    assert one_sentence.success([[{"role": "assistant", "content": text}]], [stop], asked) == [kept]


@pytest.mark.slow
def test_several_data_sets_are_mixed_by_weight(as_demo: Path, tmp_path: Path) -> None:
    words = ["train", "examples/mix.yaml", "--output", str(tmp_path / "mix"), "--max-steps", "2", "--lora-r", "2"]
    assert main(words) == 0
    card = json.loads((tmp_path / "mix" / "run.json").read_text(encoding="utf-8"))
    assert "eval_rewards/accuracies/brief" in card["evaluation_end"]


@pytest.mark.slow
def test_three_stages_run_one_after_the_other(as_demo: Path, tmp_path: Path) -> None:
    values = read_yaml("examples/stages.yaml")
    assert [stage.name for stage in parse_stages(values).stages] == ["sft", "dpo", "kto"]
    words = ["train", "examples/stages.yaml", "--output", str(tmp_path / "staged"), "--max-steps", "2"]
    assert main(words) == 0
    card = json.loads((tmp_path / "staged" / "run.json").read_text(encoding="utf-8"))
    assert [stage["status"] for stage in card["stages"]] == ["done"] * 3


@pytest.mark.slow
def test_rounds_write_judge_and_train_again(as_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = "def reward(completions, **more):\n    return [float(len(text[0]['content'])) for text in completions]\n"
    (tmp_path / "judge.py").write_text(judged, encoding="utf-8")  # the tiny model keeps no rule
    values = read_yaml("examples/rounds.yaml")
    for reward in ("reward", "eval_reward"):
        assert len(load_rewards([values["stages"][0][reward]]).rewards) == 1
    values["stages"][0] |= {"reward": f"{tmp_path / 'judge.py'}:reward", "keep_cut": True, "max_new_tokens": 6}
    values["stages"][1]["max_steps"] = 2
    file = tmp_path / "rounds.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    words = ["train", str(file), "--output", str(tmp_path / "rounds")]
    assert main(words) == 0
    stages = json.loads((tmp_path / "rounds" / "run.json").read_text(encoding="utf-8"))["stages"]
    assert [stage["method"] for stage in stages] == ["sample", "dpo"] * 3 + ["sample"]
    assert len(counts := [stage["pairs"]["count"] for stage in stages if "pairs" in stage]) == 3 and min(counts) > 24
    assert {stage["evaluation"]["prompts"] for stage in stages if "evaluation" in stage} == {24}


@pytest.mark.slow
def test_a_reward_model_and_ppo_follow_from_own_answers(as_demo: Path, tmp_path: Path) -> None:
    values = read_yaml("examples/ppo.yaml")
    sample, reward, ppo = values["stages"]
    sample |= {"reward": "length:3", "max_new_tokens": 6}  # the tiny model keeps no rule
    reward |= {"max_steps": 2, "batch_size": 4}
    ppo |= {"max_steps": 6, "max_new_tokens": 6}
    file = tmp_path / "ppo.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["train", str(file), "--output", str(tmp_path / "run")]) == 0
    roles = json.loads((tmp_path / "run" / "3-ppo" / "run.json").read_text(encoding="utf-8"))["roles"]
    assert [role["name"] for role in roles] == ["actor", "critic", "reference", "reward model"]
    base = roles[0]["weights"]
    assert sum(role["weights"] for role in roles[1:]) < base, "one base for all four"


# --- thumbs, and best of n -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_thumbs_of_a_log_become_rows_for_kto(as_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows_file = tmp_path / "thumbs.jsonl"
    kto_from_a_log.main("examples/assistant_log.jsonl", str(rows_file))
    said = capsys.readouterr().out
    page = (ROOT / "docs/tutorials/thumbs.md").read_text(encoding="utf-8")
    assert said.replace(str(rows_file), "thumbs.jsonl") in page
    rows = [json.loads(line) for line in rows_file.read_text(encoding="utf-8").splitlines()]
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    changed = next(row for row in rows if "Norway is 12" in row["messages"][-1]["content"])
    assert changed["label"] is True and len(changed["messages"]) == 4
    data = load_preferences(rows_file)
    assert len(data.train) == len(rows) and data.kind == "labels" and not data.unusable
    words = ["--method", "kto", "--model", "demo", "--data", str(rows_file), "--output", str(tmp_path / "run")]
    assert main(["train", *words, "--max-steps", "1", "--warmup", "0", "--batch-size", "12"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [[], ["--lora-r", "2"]], ids=["whole model", "adapter"])
def test_sampled_answers_are_ordered_by_reward(
    as_demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], adapter: list[str]
) -> None:
    pairs, run = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "run"
    words = ["--model", "demo", "--data", str(pairs), "--output", str(run), "--max-steps", "2", "--batch-size", "4"]
    assert main(["train", *words, "--learning-rate", "1e-2", *adapter]) == 0
    capsys.readouterr()
    score_answers.main(str(run), "the cat", 3)
    rewards = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert len(rewards) == 3 and rewards == sorted(rewards, reverse=True) and any(rewards)


@pytest.mark.slow
def test_a_run_without_a_reference_has_no_rewards(as_demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--method", "sft", "--model", "demo", "--data", str(write_pairs(tmp_path / "pairs.jsonl"))]
    assert main(["train", *words, "--output", str(run), "--max-steps", "1", "--warmup", "0"]) == 0
    with pytest.raises(SystemExit, match="no reward scale"):
        score_answers.main(str(run), "the cat", 2)
