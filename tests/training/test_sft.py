"""SFT, the NLL term of paired methods, and DPO-Positive: against transformers' own loss, and in runs."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier import DPO, DPOP, IPO, KTO, SFT, PreferenceTrainer, SimPO, load_preferences
from likelier.data.formats import convert
from likelier.data.prepare import fitting_records
from likelier.data.records import Demonstration, Labelled, Message, Record, to_demonstrations
from likelier.data.sources import read_rows
from likelier.data.tokenize import tokenize_records
from likelier.objectives import METHODS
from likelier.objectives.pairwise import Paired
from likelier.scoring import attach_scorer, collate
from likelier.scoring.engine import as_scored
from likelier.utils.errors import DataError
from tests.helpers.methods import usual
from tests.helpers.support import chat_pairs, labelled_rows, lora_policy, tiny_policy


def _scored(records: list[Record], policy: Any) -> Any:
    groups = tokenize_records(records, policy.tokenizer, max_length=512).groups
    attach_scorer(policy.model, autocast=False, groups=groups)
    batch = collate(groups, collisions=True)
    return groups, as_scored(batch, policy.model(batch=batch))


def test_the_loss_and_its_gradient_are_transformers_own() -> None:
    policy, other = tiny_policy(), tiny_policy()
    groups, scored = _scored(list(to_demonstrations(chat_pairs(5))), policy)
    SFT().losses(scored).sum().backward()
    expected = []
    for group in groups:
        ids = torch.tensor([[*group.prompt.tolist(), *group.answers[0].tolist()]])
        labels = ids.clone()
        labels[:, : len(group.prompt)] = -100
        expected.append(other.model(input_ids=ids, labels=labels).loss)
    torch.stack(expected).sum().backward()
    assert torch.allclose(SFT().losses(scored), torch.stack(expected).double(), atol=1e-6)  # transformers' is in fp32
    grads = [torch.cat([p.grad.flatten() for p in one.model.parameters()]) for one in (policy, other)]
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) < 1e-6


@pytest.mark.parametrize("method", [name for name, kind in METHODS.items() if issubclass(kind, Paired)])
def test_nll_weight_adds_the_chosen_answers_nll_to_every_paired_method(method: str) -> None:
    own = usual(method).resolved(8.0)
    assert isinstance(own, Paired)
    objective = replace(own, nll_weight=0.0)
    with torch.no_grad():
        _, scored = _scored(list(chat_pairs(4)), tiny_policy())
    scored = scored.with_items(ref_logps=scored.logps + torch.randn_like(scored.logps), ref_head_logps=scored.heads)
    chosen = scored.items.pairs[:, 0]
    expected = objective.losses(scored) - 0.7 * scored.logps[chosen] / scored.lengths[chosen]
    found = replace(objective, nll_weight=0.7)  # type: ignore[call-arg]
    assert torch.allclose(found.losses(scored), expected, atol=1e-12)
    assert "0.7 times the chosen answer's negative log-likelihood" in found.explain(8.0)
    with pytest.raises(ValueError, match="nll_weight=-1 is out of range"):
        replace(objective, nll_weight=-1)  # type: ignore[call-arg]


def test_dpop_without_a_penalty_is_dpo_and_with_one_never_smaller() -> None:
    with torch.no_grad():
        _, scored = _scored(list(chat_pairs(6)), tiny_policy())
    scored = scored.with_items(ref_logps=scored.logps + torch.randn_like(scored.logps))
    plain, free, bound = (one.losses(scored) for one in (DPO(), DPOP(penalty=0.0), DPOP(penalty=5.0)))
    falls = scored.logratios[scored.items.pairs[:, 0]] < 0
    assert torch.equal(plain, free)
    assert bool(falls.any()) and torch.equal(bound > plain, falls)
    with pytest.raises(ValueError, match="penalty=-1 is out of range"):
        DPOP(penalty=-1)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [SFT(), DPOP(), DPO(nll_weight=1.0), SimPO(nll_weight=1.0)])
def test_runs_raise_the_chosen_answer(tmp_path: Path, objective: Any) -> None:
    trainer = PreferenceTrainer(
        lora_policy() if objective.method == "sft" else tiny_policy(),
        objective,
        chat_pairs(16),
        eval_data=chat_pairs(8, seed=5),
        output_dir=tmp_path / "run",
        batch_size=8,
        max_steps=6,
        learning_rate=2e-2 if objective.method == "sft" else 2e-3,
    )
    trainer.train()
    card = trainer.folder.read_card()
    start, end = card["evaluation_start"], card["evaluation_end"]
    assert end["eval_logps/chosen"] > start["eval_logps/chosen"]
    if objective.method == "sft":
        assert card["reference"] == {"words": "none: this method needs no reference"}
        assert end["eval_loss"] < start["eval_loss"] and not any("accurac" in name for name in end)
    if objective.method == "dpop":
        assert start["eval_loss"] == pytest.approx(math.log(2))


@pytest.mark.slow
def test_a_step_of_several_micro_batches_is_the_same_step(tmp_path: Path) -> None:
    losses = []
    for name, budget in (("one", 100_000), ("many", 16)):
        trainer = PreferenceTrainer(
            tiny_policy(), SFT(), chat_pairs(8), output_dir=tmp_path / name, batch_size=8, token_budget=budget,
            max_steps=2, learning_rate=1e-3,
        )  # fmt: skip
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.folder.read_metrics()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)


ROWS = {
    "prompt, completion": {"prompt": "a cat", "completion": "sat"},
    "messages": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "ShareGPT conversations": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "instruction, output": {"instruction": "say", "input": "it", "output": "b", "system": "be brief"},
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_without_a_judgement_are_recognised(name: str) -> None:
    found = convert(read_rows([ROWS[name]]))
    assert found.format == name and not found.unread_columns
    record = found.records[0]
    assert isinstance(record, Demonstration)
    if name == "instruction, output":
        assert record.prompt == (Message("system", "be brief"), Message("user", "say\nit"))


@pytest.mark.parametrize(("output", "reason"), [(None, "empty-answer"), (["b"], "not-text"), ("  ", "empty-answer")])
def test_an_instruction_without_an_answer_is_counted(output: Any, reason: str) -> None:
    rows = [ROWS["instruction, output"], {"instruction": "say", "input": None, "output": output}]
    assert convert(read_rows(rows)).unusable.counts() == {reason: 1}


def test_sft_takes_what_is_worth_writing() -> None:
    pairs, labels = chat_pairs(3), labelled_rows(20)
    answers = to_demonstrations([*pairs, *labels])
    assert [row.answer for row in answers[:3]] == [pair.chosen for pair in pairs]
    assert len(answers) == 3 + sum(row.desirable for row in labels)
    with pytest.raises(DataError, match="every row is undesirable"):
        fitting_records([replace(labels[0], desirable=False)], "sft", "answers")


def test_rows_that_a_method_cannot_use_name_the_method_that_can() -> None:
    demonstration = to_demonstrations(chat_pairs(1))[0]
    with pytest.raises(DataError, match=r"dpo learns from pairs .* use --method sft"):
        fitting_records([demonstration], "dpo", "pairs")
    with pytest.raises(DataError, match=r"kto learns from answers with a label, or pairs, .* use --method sft"):
        fitting_records([demonstration], KTO.method, KTO.data)
    with pytest.raises(DataError, match=r"ipo learns from pairs .* use --method kto"):
        fitting_records([*chat_pairs(1), *labelled_rows(1)], IPO.method, IPO.data)
    mixed = fitting_records([*chat_pairs(1), *labelled_rows(1)], "kto", "labels")
    assert len(mixed) == 3 and all(isinstance(row, Labelled) for row in mixed)


def test_the_kind_of_mixed_rows_is_what_they_all_can_be() -> None:
    rows = [ROWS["prompt, completion"], {"prompt": "b", "completion": "c"}]
    assert load_preferences(rows).kind == "answers"
