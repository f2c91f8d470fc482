"""The trainer's manners: what it writes, when it stops, and that it needs no network."""

import json
import math
from pathlib import Path

import pytest
import torch

from likelier import DPO, KTO, PreferenceTrainer, SimPO, TrainingOptions, load_policy, load_preferences
from likelier.data.records import Labelled, Message, Pair, Source
from likelier.runs.folder import RunFolder
from likelier.utils.errors import (
    ConfigError,
    DataError,
    LikelierError,
    LikelierWarning,
    RunFolderError,
    TrainingError,
)
from tests.helpers.support import SHARED, chat_pairs, labelled_rows, lora_policy, numbers, tiny_policy

TRL_NAMES = {
    "loss",
    "grad_norm",
    "learning_rate",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "lengths/chosen",
    "lengths/rejected",
    "num_tokens",
    "items",
    "seconds",
    "memory_gib",
    "epoch",
    "step",
}


def _trainer(folder: Path, objective: object = None, data: list | None = None, **options: object) -> PreferenceTrainer:
    settings = {"batch_size": 8, "max_steps": 3, "learning_rate": 1e-3, **options}
    policy = settings.pop("policy", None) or tiny_policy()
    return PreferenceTrainer(policy, objective or DPO(), data or chat_pairs(24), output_dir=folder, **settings)  # type: ignore[arg-type]


@pytest.mark.slow
def test_metrics_have_trls_names_and_one_line_a_step(tmp_path: Path) -> None:
    _trainer(tmp_path / "run").train()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert [entry["step"] for entry in metrics] == [1, 2, 3]
    assert all(set(entry) == TRL_NAMES for entry in metrics)


@pytest.mark.slow
def test_kto_logs_its_baseline_with_its_error(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", KTO(), labelled_rows(24))
    trainer.train()
    last = trainer.folder.read_metrics()[-1]
    assert last["kl"] >= 0 and last["kl_standard_error"] > 0


@pytest.mark.slow
def test_a_logging_window_is_a_mean_over_items_not_over_steps(tmp_path: Path) -> None:
    fine = _trainer(tmp_path / "fine", data=chat_pairs(20))  # steps of 8, 8 and 4 pairs
    fine.train()
    coarse = _trainer(tmp_path / "coarse", data=chat_pairs(20), logging_steps=3)
    coarse.train()
    steps = fine.folder.read_metrics()
    first, window = coarse.folder.read_metrics()  # the first step is always logged; then steps 2 and 3 together
    assert first["loss"] == pytest.approx(steps[0]["loss"], abs=1e-12)
    assert window["loss"] == pytest.approx((8 * steps[1]["loss"] + 4 * steps[2]["loss"]) / 12, abs=1e-12)


@pytest.mark.slow
def test_evaluation_at_start_at_intervals_and_at_the_end(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", eval_data=chat_pairs(10, seed=1), eval_steps=2)
    trainer.train()
    evaluations = [entry for entry in trainer.folder.read_metrics() if "eval_loss" in entry]
    assert [entry["step"] for entry in evaluations] == [0, 2, 3]
    card = RunFolder(tmp_path / "run").read_card()
    start, end = card["evaluation_start"], card["evaluation_end"]
    assert start["eval_loss"] == pytest.approx(math.log(2))
    assert end["eval_loss"] == evaluations[-1]["eval_loss"]
    for name in ("eval_ranking_accuracy", "eval_rewards/accuracies"):
        assert end[f"{name}_low"] <= end[name] <= end[f"{name}_high"]


@pytest.mark.slow
def test_evaluation_counts_a_short_last_batch_rightly(tmp_path: Path) -> None:
    whole = _trainer(tmp_path / "a", eval_data=chat_pairs(7, seed=1)).train()
    assert whole is not None
    cut = _trainer(tmp_path / "b", eval_data=chat_pairs(7, seed=1), token_budget=130)
    cut.train()
    ends = [numbers(RunFolder(tmp_path / name).read_card()["evaluation_end"]) for name in ("a", "b")]
    assert ends[1] == pytest.approx(ends[0], abs=1e-10)


@pytest.mark.slow
def test_the_card_tells_the_run(tmp_path: Path) -> None:
    _trainer(tmp_path / "run", card={"caller": "me"}).train()
    card = RunFolder(tmp_path / "run").read_card()
    assert card["status"] == "done" and card["steps"] == 3 and card["caller"] == "me"
    assert card["method"] == "dpo" and card["hyperparameters"] == {
        "nll_weight": 0.0,
        "beta": 0.1,
        "label_smoothing": 0.0,
    }
    assert "sums of log-ratios" in card["explained"]
    assert card["data"]["train"]["groups"] == 24 and len(card["data"]["hash"]) == 32
    assert card["learning_rate"] == {"value": 1e-3, "source": "given"}
    assert card["versions"]["torch"].startswith(torch.__version__.split("+")[0])


def test_learning_rates_when_none_is_given(tmp_path: Path) -> None:
    full = _trainer(tmp_path / "full", learning_rate=None)
    assert full.args.learning_rate == 1e-6
    lora = _trainer(tmp_path / "lora", learning_rate=None, policy=lora_policy())
    assert lora.args.learning_rate == pytest.approx(2e-5)
    assert _trainer(tmp_path / "simpo", SimPO(), learning_rate=None).args.learning_rate == 6e-7


@pytest.mark.slow
def test_ipos_tau_comes_from_the_data_and_is_told_in_nats(tmp_path: Path) -> None:
    from likelier import IPO

    trainer = _trainer(tmp_path / "run", IPO())
    assert trainer.objective == IPO(tau=0.1 * trainer.run.data.median_length)
    trainer.train()
    assert "5 nats at the median answer" in RunFolder(tmp_path / "run").read_card()["explained"]


@pytest.mark.slow
def test_checkpoints_lie_in_their_folder_and_the_oldest_go(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", save_steps=1, save_total_limit=2)
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-2", "step-3"]


@pytest.mark.slow
def test_nothing_but_model_and_reports_lies_in_the_root(tmp_path: Path) -> None:
    _trainer(tmp_path / "run").train()
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        ".lock",
        "run.json",
        "audit.json",
        "metrics.jsonl",
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }


# --- when it stops ---


@pytest.mark.slow
def test_nan_loss_names_the_rows(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run")
    step = trainer.training_step

    def poisoned(model: torch.nn.Module, inputs: list, *rest: object) -> torch.Tensor:
        if trainer.state.global_step == 1:
            with torch.no_grad():
                trainer.policy.model.model.norm.weight.fill_(float("nan"))
        return step(model, inputs, *rest)

    trainer.training_step = poisoned  # type: ignore[method-assign]
    with (
        pytest.warns(LikelierWarning, match=r"step 2 is skipped: the loss is not finite for 8 rows: tiny\.jsonl:\d+"),
        pytest.raises(TrainingError, match=r"step 3: the loss is not finite for 8 rows: tiny\.jsonl:\d+"),
    ):
        trainer.train()
    card = RunFolder(tmp_path / "run").read_card()
    assert card["status"] == "failed" and "not finite" in card["error"]


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_leaves_the_weights_alone(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run")
    weight = trainer.policy.model.model.layers[0].mlp.up_proj.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    with (
        pytest.warns(LikelierWarning, match="step 1 is skipped"),
        pytest.raises(TrainingError, match="gradient norm is"),
    ):
        trainer.train()
    torch.testing.assert_close(weight.detach(), before)


@pytest.mark.slow
def test_a_folder_with_a_run_is_refused(tmp_path: Path) -> None:
    _trainer(tmp_path / "run").train()
    with pytest.raises(RunFolderError, match="already holds a run; use --resume"):
        _trainer(tmp_path / "run")


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    first = _trainer(tmp_path / "run")
    with pytest.raises(RunFolderError, match="in use by another run"):
        _trainer(tmp_path / "run")
    first.folder.close()


def test_an_unwritable_output_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be written"):
        _trainer(tmp_path / "file" / "run")


@pytest.mark.slow
def test_resume_without_a_checkpoint_or_with_other_options_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no checkpoint to resume from"):
        _trainer(tmp_path / "empty", resume=True)
    _trainer(tmp_path / "run", save_steps=2).train()
    other = _trainer(tmp_path / "run", DPO(beta=0.5), save_steps=2, resume=True, batch_size=4)
    with pytest.raises(RunFolderError, match=r"batch_size: was 8, is 4") as caught:
        other.train()
    assert "hyperparameters" in str(caught.value)
    changed = _trainer(tmp_path / "run", data=chat_pairs(24, seed=3), save_steps=2, resume=True)
    with pytest.raises(RunFolderError, match="data_hash"):
        changed.train()


def test_labels_under_a_paired_method_name_kto(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="use --method kto"):
        _trainer(tmp_path / "run", data=labelled_rows(8))


def test_pairs_under_kto_become_labels(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", KTO(), chat_pairs(10))
    labels = [group.desirable for group in trainer.train_groups]
    assert len(labels) == 20 and sum(labels) == 10  # type: ignore[arg-type]
    order = [labels[number] for step in trainer.run.sampler() for number in step]
    runs = [len(list(run)) for run in _runs(order)]
    assert max(runs) < 8  # shuffled: never all desirable first


def _runs(values: list) -> list[list]:
    found: list[list] = []
    for value in values:
        if not found or found[-1][-1] != value:
            found.append([])
        found[-1].append(value)
    return found


def test_kto_warns_about_tiny_steps_and_one_sided_labels(tmp_path: Path) -> None:
    with pytest.warns(LikelierWarning, match="very noisy below 8 rows"):
        _trainer(tmp_path / "a", KTO(), labelled_rows(8), batch_size=4)
    same = [Labelled(row.prompt, row.answer, True, row.source) for row in labelled_rows(8)]
    with pytest.warns(LikelierWarning, match="labels of one kind only"):
        _trainer(tmp_path / "b", KTO(), same)


def test_kto_proposes_weights_from_the_counts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    few = [Labelled(row.prompt, row.answer, number < 2, row.source) for number, row in enumerate(labelled_rows(10))]
    _trainer(tmp_path / "run", KTO(), few)
    assert "2 desirable and 8 undesirable rows" in capsys.readouterr().err


def test_many_rows_over_the_limit_are_a_loud_warning(tmp_path: Path) -> None:
    long = Pair(
        (Message("user", "a " * 200),), (Message("assistant", "yes"),), (Message("assistant", "no"),), Source("f", 1)
    )
    with pytest.warns(LikelierWarning, match="do not fit in 100 tokens"):
        _trainer(tmp_path / "run", data=[*chat_pairs(8), long], max_length=100)


def test_options_that_contradict_or_do_nothing_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eval_steps has no effect without evaluation data"):
        _trainer(tmp_path / "run", eval_steps=2)
    with pytest.raises(ConfigError, match=r"trainer\.bf16 would contradict ours; use dtype"):
        TrainingOptions(trainer={"bf16": True})
    with pytest.raises(ConfigError, match=r"is no field of transformers\.TrainingArguments; did you mean weight_decay"):
        TrainingOptions(trainer={"weight_decai": 0.1})
    with pytest.raises(ConfigError, match="unknown option 'batchsize'; did you mean batch_size"):
        _trainer(tmp_path / "run", batchsize=2)
    with pytest.raises(ConfigError, match="simpo uses no reference; drop reference_scores"):
        _trainer(tmp_path / "run", SimPO(), reference_scores="live")
    with pytest.raises(ConfigError, match="report_to='nowhere' is no tracker that transformers knows"):
        _trainer(tmp_path / "run", report_to="nowhere")


def test_the_trainer_block_reaches_transformers(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", trainer={"weight_decay": 0.25, "adam_beta2": 0.9})
    assert trainer.args.weight_decay == 0.25 and trainer.args.adam_beta2 == 0.9


@pytest.mark.slow
def test_dropout_is_off(tmp_path: Path) -> None:
    policy = load_policy(_saved(tmp_path, attention_dropout=0.5))
    trainer = _trainer(tmp_path / "run", policy=policy)
    trainer.train()  # the step-0 check and the stored scores hold
    assert policy.model.model.layers[0].self_attn.attention_dropout == 0.0
    assert policy.model.config.attention_dropout == 0.5


def _saved(tmp_path: Path, **changes: object) -> Path:
    policy = tiny_policy(dtype=torch.float32, **changes)
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_bfloat16_scores_policy_and_reference_alike(tmp_path: Path) -> None:
    """Reference, step-0 check, training and evaluation all compute in the same arithmetic."""
    with pytest.warns(LikelierWarning, match="many times slower than float32"):
        policy = load_policy(_saved(tmp_path), dtype="bfloat16")
    trainer = _trainer(tmp_path / "run", policy=policy, eval_data=chat_pairs(4, seed=1))
    trainer.train()
    card = RunFolder(tmp_path / "run").read_card()
    assert card["precision"] == "bfloat16-autocast" and policy.model.dtype == torch.float32
    assert card["reference"]["step0_largest_difference_per_token"] <= 0.02
    assert trainer.folder.read_metrics()[0]["eval_loss"] == pytest.approx(math.log(2), abs=1e-3)
    exact = _trainer(tmp_path / "exact", policy=load_policy(tmp_path / "model"))
    exact.train()
    rounded, plain = (
        [entry["logps/chosen"] for entry in run.folder.read_metrics() if "loss" in entry] for run in (trainer, exact)
    )
    assert rounded != plain and rounded == pytest.approx(plain, rel=0.02)
    assert trainer.reference.identity != exact.reference.identity  # type: ignore[union-attr]


def test_an_error_of_an_interrupted_run_leaves_the_card_when_it_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.update_card({"status": "failed", "error": "something"})
    folder.update_card({"status": "training", "error": None})
    assert folder.read_card() == {"status": "training"}


# --- no network ---


@pytest.mark.slow
def test_training_and_scoring_open_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from likelier.cli.main import main

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # sockets are refused for every test
    model = _saved(tmp_path)
    data = tmp_path / "prefs.jsonl"
    rows = [
        {"prompt": f"the cat {n}", "chosen": f" sat on the mat {n}", "rejected": f" ran up the hill {n} times"}
        for n in range(8)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    for name, more in (("full", []), ("lora", ["--lora-r", "2"])):
        run = str(tmp_path / name)
        flags = ["--model", str(model), "--data", str(data), "--output", run, "--max-steps", "2", "--batch-size", "4"]
        assert main(["train", *flags, *more]) == 0
        scored = ["--model", run, "--data", str(data), "--output", str(tmp_path / f"{name}.jsonl")]
        assert main(["score", *scored]) == 0
    assert len((tmp_path / "lora.jsonl").read_text().splitlines()) == 8


# --- real files ---

FILES = {
    "dpo_en": "llama-factory/dpo_en_demo.json",
    "dpo_zh": "llama-factory/dpo_zh_demo.json",
    "kto_en": "llama-factory/kto_en_demo.json",
    "hh": "hh-rlhf/harmless-base_test.jsonl.gz",
}


@pytest.mark.slow
@pytest.mark.skipif(
    not SHARED.exists(), reason="the real preference data lie beside the repository only in development"
)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("method", ["dpo", "ipo", "kto", "simpo"])
def test_twenty_steps_on_real_files_without_a_warning(tmp_path: Path, file: str, method: str) -> None:
    from likelier import METHODS

    data = load_preferences(SHARED / FILES[file])
    # Every character is several tokens here; the shorter rows keep the test short, whole rows keep it real.
    rows = sorted(data.train, key=lambda record: len(str(record)))[:32]
    objective = METHODS[method]()
    policy = tiny_policy(dtype=torch.float32)
    options = TrainingOptions(batch_size=8, max_steps=20, learning_rate=1e-4, max_length=4096)
    if file == "kto_en" and objective.data == "pairs":
        with pytest.raises(LikelierError, match="use --method kto"):
            PreferenceTrainer(policy, objective, rows, output_dir=tmp_path / "run", options=options)
        return
    trainer = PreferenceTrainer(policy, objective, rows, output_dir=tmp_path / "run", options=options)
    trainer.train()
    metrics = trainer.folder.read_metrics()
    assert len(metrics) == 20 and all(math.isfinite(entry["loss"]) for entry in metrics)
    margins = [entry["rewards/margins"] for entry in metrics]  # an epoch is four steps of pairs, eight of labels
    assert sum(margins[-4:]) > sum(margins[:4])


def test_audit_counts_every_row_that_was_left_out(tmp_path: Path) -> None:
    rows = [
        {"prompt": "the cat", "chosen": " sat", "rejected": " ran"},
        {"prompt": "the cat", "chosen": " ", "rejected": " ran"},
        {"prompt": "the cat " * 40, "chosen": " sat", "rejected": " ran"},
    ]
    data = load_preferences(rows)
    with pytest.warns(LikelierWarning, match="do not fit"):
        trainer = _trainer(tmp_path / "run", data=data.train, unusable=data.unusable, max_length=30)
    assert not (tmp_path / "run" / "audit.json").exists()
    trainer.run.audited()
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert (audit["rows"], audit["usable"]) == (3, 1)
    assert {(found["name"], found["count"]) for found in audit["findings"]} == {
        ("empty-answer", 1),
        ("over-max-length", 1),
    }


# --- what a review found ---


def test_a_folder_with_a_model_is_never_trained_into(tmp_path: Path) -> None:
    folder = _saved(tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match="already holds a model"):
        _trainer(folder, policy=load_policy(folder))
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_resume_with_another_adapter_or_other_evaluation_data_is_refused(tmp_path: Path) -> None:
    def start(policy: object, seed: int, **more: object) -> PreferenceTrainer:
        return _trainer(tmp_path / "run", policy=policy, eval_data=chat_pairs(4, seed=seed), save_steps=2, **more)

    start(lora_policy(), 1).train()
    with pytest.raises(RunFolderError, match=r"adapter: was .*'alpha': 8.* is .*'alpha': 64"):
        start(lora_policy(lora_alpha=64), 1, resume=True).train()
    with pytest.raises(RunFolderError, match="eval_hash"):
        start(lora_policy(), 2, resume=True).train()


def test_a_length_beyond_the_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="beyond the model's context of 4096 tokens"):
        _trainer(tmp_path / "run", max_length=5000)


@pytest.mark.slow
def test_a_last_logging_window_that_is_not_full_is_logged(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path / "run", max_steps=3, logging_steps=2)
    trainer.train()
    assert [entry["step"] for entry in trainer.folder.read_metrics()] == [1, 2, 3]


def test_answers_that_do_not_end_are_a_warning(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.tokenizer.chat_template = policy.tokenizer.chat_template.replace("<|im_end|>", "")
    with pytest.warns(LikelierWarning, match="hold no end-of-sequence token"):
        _trainer(tmp_path / "run", policy=policy)


@pytest.mark.slow
def test_rubbish_of_a_killed_checkpoint_is_cleared(tmp_path: Path) -> None:
    _trainer(tmp_path / "run", save_steps=2, max_steps=4).train()
    rubbish = tmp_path / "run" / "checkpoints" / ".staging" / "checkpoint-9"
    rubbish.mkdir(parents=True)
    (rubbish / "half").write_text("")
    again = _trainer(tmp_path / "run", save_steps=2, max_steps=4, resume=True)
    assert not rubbish.exists()
    again.train()


@pytest.mark.slow
def test_an_adapter_that_would_be_written_empty_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As happens where a wrapper changes the names of the weights: peft then writes none, without a word."""
    trainer = _trainer(tmp_path / "run", policy=lora_policy(), save_steps=1)
    monkeypatch.setattr("peft.peft_model.get_peft_model_state_dict", lambda *args, **kwargs: {})
    with pytest.raises(TrainingError, match="was written without weights"):
        trainer.train()
    assert not list((tmp_path / "run").rglob("adapter_model.safetensors"))
