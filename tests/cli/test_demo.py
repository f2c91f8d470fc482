"""The demo from start to end, on a tiny model."""

import json
from pathlib import Path

import pytest
import torch

from likelier.cli.demo import free_folder
from likelier.cli.main import main
from likelier.data.records import Message
from likelier.models.generation import Decoding, prompt_ids, write_answers
from likelier.models.policy import Policy
from tests.helpers.support import lora_policy, tiny_policy


@pytest.fixture
def model(tmp_path: Path) -> str:
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.slow
def test_the_demo_shows_accuracy_and_answers_before_and_after(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    assert main(["demo", "--model", model, "--output", str(run), "--max-steps", "3"]) == 0
    shown = capsys.readouterr().out
    for word in ("before", "after", "95 % interval", "prompt  Learning maths is completely useless, right?"):
        assert word in shown
    assert shown.count("prompt  ") == 6
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    card = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for when in ("evaluation_start", "evaluation_end"):
        assert 0 <= card[when]["eval_ranking_accuracy_low"] <= card[when]["eval_ranking_accuracy"] <= 1
    assert card["reference"]["step0_loss"] == pytest.approx(0.693147, abs=1e-6)
    assert (run / "adapter_model.safetensors").is_file()


def test_a_second_demo_takes_the_next_free_folder(tmp_path: Path) -> None:
    name = str(tmp_path / "demo")
    assert free_folder(name) == name
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo-2").mkdir()
    assert free_folder(name) == f"{name}-3"


def ids_of(policy: Policy, *texts: str) -> list[list[int]]:
    return [prompt_ids(policy, (Message("user", text),)) for text in texts]


def test_greedy_answers_do_not_depend_on_the_batch() -> None:
    policy = tiny_policy(dtype=torch.float32)
    prompts = ids_of(policy, "the cat", "the dog ran fast on the hill", "yes")
    together = write_answers(policy.model, policy.tokenizer, prompts, Decoding(8))
    alone = [write_answers(policy.model, policy.tokenizer, [prompt], Decoding(8))[0] for prompt in prompts]
    assert together == alone


def test_a_trained_adapter_writes_something_else_than_its_base() -> None:
    policy = lora_policy(dtype=torch.float32)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    prompts = ids_of(policy, "the cat")
    after = write_answers(policy.model, policy.tokenizer, prompts, Decoding(8))
    with policy.model.disable_adapter():
        before = write_answers(policy.model, policy.tokenizer, prompts, Decoding(8))
    assert before != after
