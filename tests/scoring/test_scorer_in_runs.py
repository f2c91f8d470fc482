"""The scorer of a run: named in its card, without influence on what is learned, part of what stored scores are."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier import DPO, IPO, KTO, PreferenceTrainer, SimPO
from likelier.cli import main as cli
from likelier.models.policy import Policy
from likelier.objectives import Objective
from likelier.objectives.metrics import MetricSums
from likelier.runs.folder import RunFolder
from likelier.scoring import attach as attach_room
from likelier.scoring import attach_scorer, score_plain, score_shared_prefix
from likelier.scoring.reference.identity import identities
from likelier.utils.errors import ModelError, RunFolderError
from tests.helpers.architectures import tiny
from tests.helpers.support import (
    chat_pairs,
    labelled_rows,
    lora_policy,
    numbers,
    tiny_model,
    tiny_policy,
    tiny_tokenizer,
)

OBJECTIVES: list[Objective] = [DPO(), IPO(tau=0.5), KTO(desirable_weight=1.3), SimPO()]
BASIC = {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-3, "scheduler": "constant", "token_budget": 150}
PLAIN_BUDGET = 400


def trained(folder: Path, objective: Objective, policy: Policy, **options: Any) -> dict[str, Any]:
    """Train, and give the run's card."""
    pairs = chat_pairs(12)
    shared = [*pairs, *(_with_prompt_of(pairs[number], pairs[number + 6]) for number in range(6))]
    data = labelled_rows(18) if objective.data == "labels" else shared
    trainer = PreferenceTrainer(policy, objective, data, output_dir=folder, **{**BASIC, **options})
    trainer.train()
    return RunFolder(folder).read_card()


def _with_prompt_of(pair: Any, other: Any) -> Any:
    """Another pair under the same prompt, so that a step holds prompts with several pairs."""
    return type(pair)(pair.prompt, other.chosen, other.rejected, other.source)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_policy, lora_policy])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.method)
def test_both_scorers_train_to_the_same_weights(tmp_path: Path, objective: Objective, make: Any) -> None:
    plain, shared = make(), make()
    cards = [
        trained(tmp_path / "plain", objective, plain, scorer="plain", token_budget=PLAIN_BUDGET),
        trained(tmp_path / "shared", objective, shared, scorer="shared-prefix"),
    ]
    assert [card["scorer"]["name"] for card in cards] == ["plain", "shared-prefix"]
    others, start = dict(shared.model.named_parameters()), dict(make().model.named_parameters())
    moved = 0.0
    for name, parameter in plain.model.named_parameters():
        torch.testing.assert_close(parameter, others[name], atol=1e-10, rtol=0, msg=name)
        moved = max(moved, float((parameter - start[name]).detach().abs().max()))
    assert moved > 1e-3
    metrics = [RunFolder(tmp_path / name).read_metrics()[1:] for name in ("plain", "shared")]
    for mine, theirs in zip(*metrics, strict=True):  # the first step's accuracies are ties that rounding decides
        assert numbers(mine) == pytest.approx(numbers(theirs), abs=1e-9)


@pytest.mark.slow
def test_the_card_names_the_scorer_and_the_reason(tmp_path: Path) -> None:
    card = trained(tmp_path / "auto", DPO(), tiny_policy())
    assert card["scorer"]["name"] == "shared-prefix"
    assert card["scorer"]["reason"].startswith("equal to the plain scorer within ")
    asked = trained(tmp_path / "plain", DPO(), tiny_policy(), scorer="plain", token_budget=PLAIN_BUDGET)
    assert asked["scorer"] == {"name": "plain", "reason": "asked for"}
    assert (card["options"]["scorer"], asked["options"]["scorer"]) == ("auto", "plain")


def _state_policy() -> Policy:
    model = tiny("lfm2", vocab_size=384)
    return Policy(model, tiny_tokenizer(), "tiny", "a tiny random LFM2")


@pytest.mark.slow
def test_a_model_that_cannot_share_trains_plainly_and_the_card_says_why(tmp_path: Path) -> None:
    card = trained(tmp_path / "run", DPO(), _state_policy(), token_budget=PLAIN_BUDGET)
    assert card["status"] == "done" and card["scorer"]["name"] == "plain"
    assert "Lfm2ForCausalLM cannot share a prompt" in card["scorer"]["reason"]


def test_asking_that_model_for_it_ends_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Lfm2ForCausalLM cannot share a prompt"):
        trained(tmp_path / "run", DPO(), _state_policy(), scorer="shared-prefix")
    assert not (tmp_path / "run" / "run.json").exists()


# --- stored scores ---


@pytest.mark.slow
@pytest.mark.parametrize("scorer", ["plain", "shared-prefix"])
def test_a_second_run_asks_the_reference_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scorer: str) -> None:
    calls: list[bool] = []
    first_way = {"plain": score_plain, "shared-prefix": score_shared_prefix}[scorer]
    monkeypatch.setitem(attach_room._SCORERS, scorer, _counted(first_way, calls))
    monkeypatch.setattr(attach_room, "recall", lambda kind, key: None)  # the scorer's trial is in both
    counts, cards = [], []
    for name in ("first", "second"):
        calls.clear()
        cards.append(trained(tmp_path / name, DPO(), tiny_policy(), scorer=scorer, token_budget=100_000))
        counts.append(calls.count(False))
    assert cards[0]["reference"]["scores"].startswith("36 computed, 0 found")
    assert cards[1]["reference"]["scores"].startswith("0 computed, 36 found")
    assert counts[1] == counts[0] - 1  # the one micro-batch in which all were scored


def _counted(way: Any, calls: list[bool]) -> Any:
    """Notes for each call of a scorer whether gradients were wanted."""

    def counted(*arguments: Any) -> Any:
        calls.append(torch.is_grad_enabled())
        return way(*arguments)

    return counted


@pytest.mark.slow
def test_scores_of_the_other_scorer_are_not_taken(tmp_path: Path) -> None:
    first = trained(tmp_path / "first", DPO(), tiny_policy(), scorer="plain", token_budget=PLAIN_BUDGET)["reference"]
    other = trained(tmp_path / "other", DPO(), tiny_policy(), scorer="shared-prefix")["reference"]
    assert other["scores"].startswith("36 computed, 0 found")
    assert first["weights"] == other["weights"] and first["identity"] != other["identity"]


def test_precision_and_scorer_change_the_identity_but_not_the_weights() -> None:
    def known(precision: str, scorer: Any, seed: int = 0) -> dict[str, str]:
        model = tiny_model(seed)
        attach_scorer(model, scorer=scorer)
        return identities(model, adapter=False, precision=precision)

    plain = known("float64", "plain")
    assert plain == known("float64", "plain")
    for other in (known("bfloat16-autocast", "plain"), known("float64", "shared-prefix")):
        assert other["weights"] == plain["weights"] and other["identity"] != plain["identity"]
    assert known("float64", "plain", seed=1)["weights"] != plain["weights"]


@pytest.mark.slow
def test_a_run_does_not_go_on_with_another_scorer(tmp_path: Path) -> None:
    trained(tmp_path / "run", DPO(), tiny_policy(), save_steps=1)
    with pytest.raises(RunFolderError, match="scorer: was 'shared-prefix-1', is 'plain-2'"):
        trained(tmp_path / "run", DPO(), tiny_policy(), save_steps=1, scorer="plain", resume=True, max_steps=4)


# --- the commands ---


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A model in a folder, pairs in a file."""
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {
            "prompt": [asdict(part) for part in pair.prompt],
            **{side: [asdict(part) for part in getattr(pair, side)] for side in ("chosen", "rejected")},
        }
        for pair in chat_pairs(12)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"model": str(tmp_path / "model"), "data": str(tmp_path / "pairs.jsonl")}


def run_and_score(folder: Path, files: dict[str, str], *more: str) -> list[dict[str, Any]]:
    words = ["--model", files["model"], "--data", files["data"], "--output", str(folder), "--max-steps", "2"]
    assert cli.main(["train", *words, "--batch-size", "4", "--learning-rate", "1e-2", *more]) == 0
    output = folder / "scores.jsonl"
    assert cli.main(["score", "--model", str(folder), "--data", files["data"], "--output", str(output)]) == 0
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_a_run_with_either_scorer_is_scored_against_its_own_reference(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`score` tries for itself what is fast; the reference is known again by its weights, however it was computed."""
    found = {}
    for scorer in ("plain", "shared-prefix"):
        found[scorer] = run_and_score(tmp_path / scorer, files, "--scorer", scorer)
        said = capsys.readouterr().err
        assert f"scorer: {scorer} (" in said  # of the training
        assert "scorer: shared-prefix (equal to the plain scorer within" in said  # of the scoring
        assert f"reference: the model {files['model']}" in said
        card = RunFolder(tmp_path / scorer).read_card()
        assert card["scorer"]["name"] == scorer and card["reference"]["weights"]
    for one, other in zip(*found.values(), strict=True):
        assert one["margin"] == pytest.approx(other["margin"], abs=1e-4)
    assert any(abs(row["margin"]) > 1e-3 for row in found["plain"])


@pytest.mark.slow
def test_an_adapter_trained_plainly_is_scored_against_its_base(tmp_path: Path, files: dict[str, str]) -> None:
    rows = run_and_score(tmp_path / "run", files, "--scorer", "plain", "--lora-r", "4")
    assert len(rows) == 12 and any(abs(row["margin"]) > 1e-4 for row in rows)


def test_an_unknown_scorer_is_refused(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", files["model"], "--data", files["data"], "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", *words, "--scorer", "fast"])
    assert "shared-prefix" in capsys.readouterr().err


# --- sums that stay on their device ---


def test_sums_and_counts_may_be_tensors() -> None:
    sums, values = MetricSums(), torch.tensor([1.0, 5.0, 3.0], requires_grad=True)
    sums.add("all", values)
    sums.add("some", values, torch.tensor([True, False, True]))
    sums.add("none", values, torch.tensor([False, False, False]))
    sums.add_sum("given", 6.0, 4)
    assert isinstance(sums.sums["all"], torch.Tensor) and not sums.sums["all"].requires_grad
    merged = MetricSums().merge([sums, sums])
    assert merged.means() == {"all": 3.0, "some": 2.0, "given": 1.5}
    assert float(merged.counts["some"]) == 4


def test_a_value_that_is_not_selected_does_no_harm() -> None:
    sums = MetricSums()
    sums.add("x", torch.tensor([1.0, float("nan"), float("inf")]), torch.tensor([True, False, False]))
    assert sums.means() == {"x": 1.0}
