"""Evaluation during training: held-out pairs, the policy's own answers, judges, and what they cost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, TrainerCallback

from likelier import DPO, IPO, KTO, SFT, PreferenceTrainer, SimPO
from likelier.data.groups import Group
from likelier.data.records import Message, Source, to_labels
from likelier.models.adapter_copies import without_adapter
from likelier.models.generation import Decoding, Written, prompt_ids, write_answers
from likelier.models.options import LoraOptions
from likelier.models.policy import Policy, load_policy
from likelier.objectives import Objective
from likelier.runs.folder import RunFolder
from likelier.scoring import attach_scorer
from likelier.scoring.reference import ReferenceScoring
from likelier.training.evaluation import Evaluator, Judge, judge_of, planned_interval
from likelier.training.evaluation.answers import (
    Answer,
    Asked,
    is_refusal,
    kl_metrics,
    repetition,
    with_log_ratios,
    write,
)
from likelier.training.evaluation.schedule import SHARE, some_of
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError, LikelierWarning, ModelError, RunFolderError, TrainingError
from tests.helpers.small_runs import save_tiny
from tests.helpers.support import (
    chat_pairs,
    labelled_rows,
    lora_policy,
    naive_logp,
    numbers,
    tiny_policy,
    tiny_tokenizer,
)

SETTINGS: dict[str, Any] = {"batch_size": 8, "learning_rate": 1e-2, "seed": 1, "eval_new_tokens": 6, "eval_prompts": 4}


def trained(path: Path, objective: Objective | None = None, policy: Policy | None = None, **more: Any) -> RunFolder:
    judge, rows = more.pop("judge", None), more.pop("rows", chat_pairs(24))
    trainer = PreferenceTrainer(
        policy or lora_policy(dtype=torch.float32),
        objective or DPO(),
        rows,
        eval_data=more.pop("eval_data", chat_pairs(10, seed=1)),
        output_dir=path,
        judge=judge,
        **(SETTINGS | more),
    )
    trainer.train()
    return trainer.folder


def detail(folder: RunFolder, step: int) -> dict[str, Any]:
    found = folder.read_evaluation(step)
    assert found is not None
    return found


def evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    return [line for line in folder.read_metrics() if "eval_loss" in line]


# --- what is written ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_evaluation_at_each_interval_with_its_file(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", eval_steps=1)
    assert [line["step"] for line in evaluations(folder)] == [0, 1, 2, 3]
    assert [detail(folder, step)["when"] for step in range(4)] == ["start", "interval", "interval", "end"]
    start, end = detail(folder, 0), detail(folder, 3)
    assert len(end["items"]["source"]) == len(end["items"]["chosen"]["logps"]) == end["items_of"] == 10
    assert [one["prompt"] for one in start["samples"]] == [one["prompt"] for one in end["samples"]]
    assert len(end["samples"]) == 4 and "samples" not in detail(folder, 1) and "pairs" not in start
    words = [pair.prompt[-1].content for pair in chat_pairs(10, seed=1)]  # type: ignore[union-attr]
    assert all(one["prompt"] in words for one in end["samples"])
    account = folder.read_card()["evaluation"]
    assert account["eval_steps"] == 1 and set(account["seconds"]) == {"start", "interval", "end"}


@pytest.mark.slow
def test_kl_is_0_at_the_start_and_the_mean_log_ratio_of_drawn_answers_later(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", eval_steps=2)
    kls = {line["step"]: line["eval_kl"] for line in evaluations(folder)}
    assert kls[0] == pytest.approx(0, abs=1e-5) and set(kls) == {0, 2, 3}
    ratios = [one["sampled"]["logratio"] for one in detail(folder, 3)["samples"]]
    assert kls[3] == pytest.approx(sum(ratios) / len(ratios), abs=1e-5) and kls[3] != pytest.approx(0, abs=1e-4)
    end = evaluations(folder)[-1]
    tokens = sum(one["sampled"]["tokens"] for one in detail(folder, 3)["samples"])
    assert end["eval_kl_per_token"] == pytest.approx(sum(ratios) / tokens, abs=1e-5)


@pytest.mark.slow
def test_log_ratios_of_drawn_answers_are_those_of_a_plain_forward_pass(tmp_path: Path) -> None:
    policy = lora_policy(dtype=torch.float32)
    folder = trained(tmp_path / "run", policy=policy, eval_prompts=1)
    drawn = detail(folder, 3)["samples"][0]
    ids = prompt_ids(policy, (Message("user", drawn["prompt"]),))
    written = write_answers(policy.model, policy.tokenizer, [ids], Decoding(6, 1.0, seed=1))[0]
    assert written.text == drawn["sampled"]["text"]
    group = Group(np.array(ids, dtype=np.int32), (np.array(written.ids, dtype=np.int32),), Source("x", 1))
    with policy.model.disable_adapter():
        reference = naive_logp(policy.model, group, 0)
    expected = naive_logp(policy.model, group, 0) - reference
    assert drawn["sampled"]["logratio"] == pytest.approx(expected, abs=1e-4) and abs(expected) > 1e-3


@pytest.mark.slow
def test_tokens_of_telling_pairs_sum_to_their_answers(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run")
    pairs = detail(folder, 3)["pairs"]
    assert {"largest margin", "an ordinary pair"} <= {pair["why"] for pair in pairs}
    assert len({pair["source"] for pair in pairs}) == len(pairs)
    items = detail(folder, 3)["items"]
    for pair in pairs:
        place = items["source"].index(pair["source"])
        for side in ("chosen", "rejected"):
            scored = pair[side]
            assert sum(token["logp"] for token in scored["tokens"]) == pytest.approx(scored["logp"], abs=1e-4)
            assert items[side]["logps"][place] == pytest.approx(scored["logp"], abs=1e-4)
            assert items[side]["ref_logps"][place] == pytest.approx(scored["ref_logp"], abs=1e-4)
    margins = [pair["margin"] for pair in pairs if pair["why"] == "largest margin"]
    assert margins == sorted(margins, reverse=True) and margins[0] == max(pair["margin"] for pair in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("objective", [DPO(), IPO(), KTO(), SimPO(), SFT()], ids=lambda one: one.method)
def test_every_method_is_evaluated(tmp_path: Path, objective: Objective) -> None:
    end = evaluations(trained(tmp_path / "run", objective))[-1]
    assert "eval_kl" in end and "eval_repetition" in end and "eval_answer_length_ratio" in end
    assert ("eval_ranking_accuracy" in end) == (objective.method != "sft")
    assert ("eval_logratios/chosen" in end) == objective.needs_reference


@pytest.mark.slow
def test_kto_on_rows_made_of_pairs_is_judged_by_the_same_pairs(tmp_path: Path) -> None:
    start = evaluations(trained(tmp_path / "dpo"))[0]
    kto = evaluations(trained(tmp_path / "kto", KTO()))[0]
    for name in ("eval_ranking_accuracy", "eval_ranking_accuracy_per_token", "eval_ranking_accuracy_low"):
        assert kto[name] == pytest.approx(start[name])
    tables = [detail(RunFolder(tmp_path / name), 0)["items"] for name in ("dpo", "kto")]
    assert tables[0]["source"] == tables[1]["source"]
    assert tables[0]["chosen"]["logps"] == pytest.approx(tables[1]["chosen"]["logps"], abs=1e-4)


@pytest.mark.slow
def test_thumbs_alone_have_no_pairs(tmp_path: Path) -> None:
    rows = {"rows": labelled_rows(24), "eval_data": labelled_rows(10, seed=1)}
    folder = trained(tmp_path / "run", KTO(), **rows)
    assert "eval_ranking_accuracy" not in evaluations(folder)[-1] and "pairs" not in detail(folder, 3)
    assert {"label", "completion"} <= set(detail(folder, 3)["items"])


@pytest.mark.slow
def test_evaluating_changes_nothing_of_the_training(tmp_path: Path) -> None:
    often, never = lora_policy(dtype=torch.float32), lora_policy(dtype=torch.float32)
    trained(tmp_path / "often", policy=often, eval_steps=1)
    plain = {"eval_new_tokens": None, "eval_prompts": 0, "eval_steps": 0}
    trained(tmp_path / "never", policy=never, **plain)
    others = dict(never.model.named_parameters())
    assert all(torch.equal(weight, others[name]) for name, weight in often.model.named_parameters())


@pytest.mark.slow
def test_without_answers_nothing_is_written_and_no_reference_asked(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", eval_prompts=0, eval_new_tokens=None)
    assert not [name for name in evaluations(folder)[-1] if "kl" in name or "repetition" in name]
    assert "samples" not in detail(folder, 3) and "pairs" not in detail(folder, 3)


@pytest.mark.slow
def test_a_resumed_run_compares_with_the_answers_of_its_start(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", save_steps=2, eval_steps=1)
    cut = trained(tmp_path / "cut", save_steps=2, eval_steps=1)
    (cut.path / "evaluations" / "step-9.json").write_text('{"step": 9}')
    folder = trained(tmp_path / "cut", save_steps=2, eval_steps=1, resume=True)
    assert numbers(evaluations(folder)[-1]) == numbers(evaluations(whole)[-1])
    assert "eval_answer_length_ratio" in evaluations(folder)[-1]
    assert not (cut.path / "evaluations" / "step-9.json").exists()


# --- the reference asked again -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_whole_model_loads_its_reference_again_at_the_end(tmp_path: Path) -> None:
    policy = load_policy(save_tiny(tmp_path / "model"))
    folder = trained(tmp_path / "run", policy=policy, eval_steps=1)
    found = [line.get("eval_kl") for line in evaluations(folder)]
    assert found[0] == 0 and found[1:3] == [None, None] and found[3] > 0
    assert detail(folder, 3)["pairs"][0]["chosen"]["ref_logp"] < 0


@pytest.mark.slow
def test_a_whole_model_of_simpo_is_compared_with_its_beginning(tmp_path: Path) -> None:
    policy = load_policy(save_tiny(tmp_path / "model"))
    assert evaluations(trained(tmp_path / "run", SimPO(), policy))[-1]["eval_kl"] > 0


@pytest.mark.slow
def test_a_reference_that_is_another_by_now_is_told(tmp_path: Path) -> None:
    policy = load_policy(save_tiny(tmp_path / "model"))
    other = load_policy(save_tiny(tmp_path / "other", seed=7))
    with pytest.warns(LikelierWarning, match="KL to the reference is not measured: what .* is not the reference"):
        folder = trained(tmp_path / "run", policy=replace(policy, again=lambda: other))
    assert "eval_kl" not in evaluations(folder)[-1] and "eval_repetition" in evaluations(folder)[-1]


@pytest.mark.slow
def test_a_model_of_ones_own_has_no_kl_but_all_else(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", policy=tiny_policy(dtype=torch.float32))
    assert "eval_kl" not in evaluations(folder)[-1] and "eval_repetition" in evaluations(folder)[-1]


@pytest.mark.slow
def test_an_adapter_that_goes_on_is_compared_with_itself_at_the_start(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    first = load_policy(model, lora=LoraOptions(lora_r=4))
    trained(tmp_path / "first", policy=first)
    folder = trained(tmp_path / "second", policy=load_policy(tmp_path / "first"))
    assert evaluations(folder)[0]["eval_kl"] == pytest.approx(0, abs=1e-5)
    assert abs(evaluations(folder)[-1]["eval_kl"]) > 1e-4


# --- judges ------------------------------------------------------------------------------------------------------


def named(name: object) -> Judge:
    found = judge_of(TrainingOptions(eval_reward=str(name)), None, held_out=True)
    assert found is not None
    return found


def longer(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    return [float(len(answer)) for answer in answers]


@pytest.mark.slow
def test_a_function_judges_answers_and_gives_a_win_rate(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", judge=longer)
    start, end = (detail(folder, step)["samples"] for step in (0, 3))
    assert all(one["greedy"]["reward"] == len(one["greedy"]["text"]) for one in end)
    wins = [
        (new["sampled"]["reward"] > old["sampled"]["reward"])
        + (new["sampled"]["reward"] == old["sampled"]["reward"]) / 2
        for old, new in zip(start, end, strict=True)
    ]
    metrics = evaluations(folder)[-1]
    assert metrics["eval_win_rate"] == pytest.approx(sum(wins) / len(wins))
    assert metrics["eval_win_rate_low"] <= metrics["eval_win_rate"] <= metrics["eval_win_rate_high"]


def test_a_function_named_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "judge.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\n"
        "class Kept:\n    x: int = 0\ndef count(prompts, answers):\n    return [len(answer) for answer in answers]\n"
    )
    judge = named(f"{file}:count")
    assert judge(["a"], ["abc"]) == [3.0]


def test_a_judge_may_have_the_signature_of_a_reward(tmp_path: Path) -> None:
    file = tmp_path / "judge.py"
    file.write_text("def count(completions, **columns):\n    return [len(answer) for answer in completions]\n")
    assert named(f"{file}:count")(["a"], ["abc"]) == [3.0]


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "missing.py:f", "no such file"),
        ("x = 1", "judge.py:f", "has no function 'f'"),
        ("raise ValueError('no')", "judge.py:f", "fails: ValueError: no"),
        ("def f(prompts, answers):\n    return [1]", "judge.py:f", "2 answers got 1 rewards"),
        (
            "def f(prompts, answers):\n    return ['x', 'y']",
            "judge.py:f",
            "answer 1 got 'x'; it must give one number an answer",
        ),
        ("def f(prompts, answers):\n    return [1, None]", "judge.py:f", "answer 2 got None"),
        ("def f(prompts, answers):\n    return 1", "judge.py:f", "it returned 1; it must give one number an answer"),
        ("def f(prompts, answers):\n    return 1 / 0", "judge.py:f", "answer 1: it raised ZeroDivisionError"),
        ("def f(completions, solution):\n    return [1]", "judge.py:f", "it takes 'solution', which is no column"),
        ("def f(answer):\n    return [1]", "judge.py:f", "it must take prompts and completions"),
        ("def f(prompts, answers):\n    return [1, float('nan')]", "judge.py:f", "answer 2 got nan"),
    ],
)
def test_a_bad_judge_is_named(tmp_path: Path, source: str, name: str, message: str) -> None:
    (tmp_path / "judge.py").write_text(source)
    with pytest.raises(ConfigError, match=message):
        named(tmp_path / name)(["p", "q"], ["a", "b"])


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_sequence_classifier_judges(tmp_path: Path, outputs: int) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=384, num_key_value_heads=2, num_labels=outputs, pad_token_id=0, **sizes)
    model = LlamaForSequenceClassification(config)
    model.save_pretrained(tmp_path / "judge")
    tiny_tokenizer().save_pretrained(tmp_path / "judge")
    rewards = named(tmp_path / "judge")(["the cat", "the dog"], ["sat on the mat", "ran"])
    assert len(rewards) == 2 and rewards[0] != rewards[1]
    text = tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat on the mat"}], tokenize=False
    )
    logits = model.eval()(**tiny_tokenizer()(text, return_tensors="pt", add_special_tokens=False)).logits[0].tolist()
    assert rewards[0] == pytest.approx(logits[-1] - (logits[0] if outputs == 2 else 0), abs=1e-5)


# --- figures -----------------------------------------------------------------------------------------------------


def test_repetition_is_the_share_of_runs_that_stood_before() -> None:
    assert repetition([1, 2, 3]) == 0 and repetition(list(range(20))) == 0
    assert repetition([1] * 8) == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot provide instructions for this.", True),
        ("As an AI language model, I have no opinion.", True),
        ("我无法提供这个信息", True),
        ("I can help with that.", False),
        ("You cannot provide more than one answer.", False),
        ("Paris is the capital of France.", False),
    ],
)
def test_refusals(text: str, refuses: bool) -> None:
    assert is_refusal(text) == refuses


@pytest.mark.parametrize("scorer", ["auto", "plain"])  # the plain one scores the policy's own answers again
def test_log_ratios_of_two_sets_are_those_of_each_answer_scored_alone(scorer: Any) -> None:
    policy = lora_policy(dtype=torch.float32)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    attach_scorer(policy.model, scorer=scorer)
    asked = [Asked(ids, "", Source("x", number)) for number, ids in enumerate([(5, 6, 7, 9), (8, 4), (12, 4, 13)])]
    how: dict[str, Any] = {"new_tokens": 6, "seed": 2, "token_budget": 64}
    sets = [write(policy, asked, temperature=temperature, **how) for temperature in (1.0, 0.0)]
    scoring = ReferenceScoring(Path("unused"), 64, torch.device("cpu"))
    found = with_log_ratios(policy, partial(without_adapter, policy.model), asked, sets, scoring)
    for written, answers in zip(sets, found, strict=True):
        assert [answer.written for answer in answers] == written
        for one, answer in zip(asked, answers, strict=True):
            ids, own = (np.array(tokens, dtype=np.int32) for tokens in (one.ids, answer.written.ids))
            group = Group(ids, (own,), one.source)
            with policy.model.disable_adapter():
                reference = naive_logp(policy.model, group, 0)
            expected = naive_logp(policy.model, group, 0) - reference
            assert answer.logratio == pytest.approx(expected, abs=1e-4) and abs(expected) > 1e-3


def test_kl_with_its_standard_error() -> None:
    written = Written([1, 2], "a", True)
    found = kl_metrics([Answer(written, 1.0), Answer(written, 3.0)])
    assert found == pytest.approx({"kl": 2.0, "kl_per_token": 1.0, "kl_standard_error": math.sqrt(2) / math.sqrt(2)})
    assert kl_metrics([Answer(written)]) == {}


# --- when --------------------------------------------------------------------------------------------------------


def groups(count: int, tokens: int, rows: int = 1) -> list[Group]:
    half = torch.zeros(tokens // 4, dtype=torch.int32).numpy()
    return [Group(half, (half, half), Source("x", number // rows)) for number in range(count)]


def test_the_interval_keeps_evaluation_within_its_share() -> None:
    options = TrainingOptions(batch_size=32)
    train, held_out = groups(32 * 400, 400), groups(500, 400)
    interval = planned_interval(options, train, held_out, 400, "cpu")
    assert interval is not None
    cost = 256 * 400 + 2 * 16 * (100 + 64) + 64 * 180
    step = 2 * 32 * 400
    assert cost / (interval * step) <= SHARE < cost / ((interval - 1) * step)


def test_a_long_run_is_evaluated_ten_times_and_a_short_one_not_at_all() -> None:
    train, held_out = groups(64, 400), groups(8, 400)
    assert planned_interval(TrainingOptions(), train, held_out, 100_000, "cpu") == 10_000
    assert planned_interval(TrainingOptions(), train, held_out, 8, "cpu") is None
    assert planned_interval(TrainingOptions(), train, [], 100_000, "cpu") is None


def test_an_interval_that_is_given_is_taken() -> None:
    train, held_out = groups(64, 400), groups(8, 400)
    assert planned_interval(TrainingOptions(eval_steps=3), train, held_out, 10, "cpu") == 3
    assert planned_interval(TrainingOptions(eval_steps=0), train, held_out, 100_000, "cpu") is None


def test_some_of_the_items_keeps_rows_of_one_place_together() -> None:
    both = groups(40, 8, rows=2)
    kept = some_of(both, 10)
    places = [group.source.number for group in kept]
    assert len(kept) == 10 and all(places.count(place) == 2 for place in places)
    assert some_of(both, 100) == both
    assert places[-1] >= 16  # spread over the whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_prompts": 0, "eval_new_tokens": 8}, "eval_new_tokens has no effect with eval_prompts=0"),
        ({"eval_prompts": 0, "eval_reward": "x"}, "eval_reward has no effect with eval_prompts=0"),
        ({"eval_steps": 0, "eval_items": 8}, "eval_items has no effect with eval_steps=0"),
        ({"eval_prompts": -1}, "eval_prompts=-1 is out of range"),
        ({"eval_items": 0}, "eval_items=0 is out of range"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**options)


@pytest.mark.parametrize("name", ["eval_items", "eval_prompts", "eval_new_tokens", "eval_reward"])
def test_without_held_out_data_every_option_of_evaluation_is_refused(tmp_path: Path, name: str) -> None:
    value = "x" if name == "eval_reward" else 4
    with pytest.raises(ConfigError, match=f"{name} has no effect without evaluation data"):
        PreferenceTrainer(tiny_policy(), DPO(), chat_pairs(4), output_dir=tmp_path / "run", **{name: value})


@pytest.mark.slow
def test_the_audit_of_the_rows_is_kept(tmp_path: Path) -> None:
    rows = chat_pairs(24)
    folder = trained(tmp_path / "run", rows=[*rows, rows[0]], eval_data=[rows[1], *chat_pairs(5, seed=1)])
    audit = json.loads((folder.path / "audit.json").read_text(encoding="utf-8"))["audit"]
    names = {finding["name"] for finding in audit["findings"]}
    assert {"exact-duplicates", "eval-overlap"} <= names


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_judge_that_fails_at_the_end_does_not_cost_the_training(tmp_path: Path) -> None:
    calls: list[int] = []

    def twice(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        calls.append(1)
        if len(calls) > 2:
            raise KeyError("gone")
        return [0.0] * len(answers)

    with pytest.warns(LikelierWarning, match="not judged: eval_reward='twice': answer 1: it raised KeyError: 'gone'"):
        folder = trained(tmp_path / "run", judge=twice)
    assert folder.read_card()["status"] == "done" and "eval_reward" not in evaluations(folder)[-1]


@pytest.mark.slow
def test_the_model_is_saved_before_its_last_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Evaluator.evaluate

    def fail_at_the_end(self: Evaluator, when: Any, step: int) -> Any:
        if when == "end":
            raise OSError("no space left")
        return evaluate(self, when, step)

    monkeypatch.setattr(Evaluator, "evaluate", fail_at_the_end)
    for name, steps in (("due", 3), ("not due", 0)):
        with pytest.raises(OSError, match="no space left"):
            trained(tmp_path / name, eval_steps=steps)
        assert (tmp_path / name / "adapter_model.safetensors").is_file()
        assert RunFolder(tmp_path / name).read_card()["status"] == "failed"


@pytest.mark.slow
def test_a_refused_resume_leaves_the_card_alone(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", save_steps=2)
    before = folder.card_file.read_bytes()
    with pytest.raises(RunFolderError, match="cannot go on"):
        trained(tmp_path / "run", DPO(beta=0.7), save_steps=2, resume=True)
    assert folder.card_file.read_bytes() == before


@pytest.mark.slow
def test_a_policy_that_is_not_finite_is_told(tmp_path: Path) -> None:
    policy = lora_policy(dtype=torch.float32)
    trainer = PreferenceTrainer(
        policy, DPO(), chat_pairs(24), eval_data=chat_pairs(10, seed=1), output_dir=tmp_path / "run", **SETTINGS
    )
    trainer.add_callback(Damage(policy))
    with pytest.raises(TrainingError, match="is not finite"):
        trainer.train()
    assert "is not finite" in trainer.folder.read_card()["error"]


class Damage(TrainerCallback):
    """Makes a weight infinite after the last step."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            next(weight for name, weight in self.policy.model.named_parameters() if "lora_B" in name).fill_(math.inf)


def test_every_weight_frozen_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    policy = tiny_policy(dtype=torch.float32)
    policy.model.requires_grad_(False)
    with pytest.raises(TrainingError, match="no weight is trained"):
        trained(tmp_path / "run", policy=policy)


@pytest.mark.slow
def test_what_the_user_froze_of_an_adapter_stays_frozen(tmp_path: Path) -> None:
    policy = lora_policy(dtype=torch.float32)
    frozen = {name: weight.clone() for name, weight in policy.model.named_parameters() if "lora_A" in name}
    for name, weight in policy.model.named_parameters():
        if name in frozen:
            weight.requires_grad_(False)
    trained(tmp_path / "run", policy=policy, eval_steps=1)
    after = dict(policy.model.named_parameters())
    assert all(torch.equal(after[name], weight) for name, weight in frozen.items())


@pytest.mark.slow
def test_prompts_without_room_for_an_answer_are_not_asked(tmp_path: Path) -> None:
    policy = tiny_policy(dtype=torch.float32, max_position_embeddings=64)
    long = replace(chat_pairs(1, seed=2)[0], prompt=(Message("user", "the cat sat on the mat and " * 4),))
    data = [*chat_pairs(9, seed=1), long]
    with pytest.warns(LikelierWarning, match="1 of 10 held-out prompts leave no room for an answer of 30 tokens"):
        more = {"eval_prompts": 10, "eval_new_tokens": 30}
        folder = trained(tmp_path / "run", policy=policy, eval_data=data, **more)
    assert len(detail(folder, 3)["samples"]) == 9 and len(detail(folder, 3)["items"]["source"]) == 10


@pytest.mark.slow
def test_one_answer_that_is_lost_leaves_the_pairs_of_the_others(tmp_path: Path) -> None:
    rows = [row for pair in chat_pairs(10, seed=1) for row in to_labels([pair])][1:]
    items = detail(trained(tmp_path / "run", KTO(), eval_data=rows), 6)["items"]  # 48 rows are 6 steps
    assert len(items["chosen"]["logps"]) == 9


def test_some_of_the_items_is_never_nothing() -> None:
    assert len(some_of(groups(12, 8, rows=6), 2)) == 6


@pytest.mark.slow
def test_pairs_of_simpo_are_told_by_its_own_margin(tmp_path: Path) -> None:
    pairs = detail(trained(tmp_path / "run", SimPO()), 3)["pairs"]
    assert "chosen answer lost most" not in {pair["why"] for pair in pairs}
    assert all(pair["correct"] for pair in pairs if pair["why"] == "largest margin")
    assert not any(pair["correct"] for pair in pairs if pair["why"] == "largest margin the wrong way")


@pytest.mark.parametrize("options", [{"eval_data": []}, {"eval_prompts": 0, "eval_new_tokens": None}])
def test_a_judge_without_answers_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = options | ({"eval_prompts": None, "eval_new_tokens": None} if "eval_data" in options else {})
    with pytest.raises(ConfigError, match="judge has no effect"):
        trained(tmp_path / "run", judge=longer, **settings)


def test_a_classifier_without_a_trained_head_is_no_judge(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no trained head for a reward"):
        named(save_tiny(tmp_path / "model"))(["p"], ["a"])


@pytest.mark.slow
def test_eval_items_without_an_interval_is_told(tmp_path: Path) -> None:
    with pytest.warns(LikelierWarning, match="eval_items has no effect"):
        trained(tmp_path / "run", eval_items=5)
