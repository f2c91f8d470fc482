"""Against an independent implementation: TRL 1.16 on the same rows, order and model, loss and margin step by step."""

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from likelier import DPO, IPO, KTO, APODown, APOZero, Hinge, PreferenceTrainer, RobustDPO, SigmoidNorm, SimPO
from likelier.data.records import Labelled, Message, Pair
from likelier.objectives import AOT, EXO, FDPO, LDDPO, NCA, WPO, AOTUnpaired, BCOPair, DiscoPOP, Objective, WeightedSum
from likelier.objectives.base import State
from tests.helpers.support import chat_pairs, labelled_rows, tiny_policy

pytestmark = pytest.mark.slow

STEPS, BATCH, RATE = 5, 4, 2e-3


class WithoutShift(BCOPair):
    """BCO whose d stays 0, which TRL's is since 1.0: it has no running mean of rewards (see `test_running_means`)."""

    def next_state(self, statistics: torch.Tensor) -> State:
        return self.state


COMPARED: dict[str, tuple[Objective, dict[str, object]]] = {
    "dpo": (DPO(beta=0.2), {"loss_type": ["sigmoid"], "beta": 0.2}),
    "ipo": (IPO(tau=0.3), {"loss_type": ["ipo"], "beta": 0.3}),
    "hinge": (Hinge(beta=0.2), {"loss_type": ["hinge"], "beta": 0.2}),
    "robust": (RobustDPO(flip_probability=0.1), {"loss_type": ["robust"], "beta": 0.1, "label_smoothing": 0.1}),
    "sigmoid_norm": (SigmoidNorm(beta=0.5), {"loss_type": ["sigmoid_norm"], "beta": 0.5}),
    "apo_zero": (APOZero(beta=0.2), {"loss_type": ["apo_zero"], "beta": 0.2}),
    "apo_down": (APODown(beta=0.2), {"loss_type": ["apo_down"], "beta": 0.2}),
    "exo": (
        EXO(beta=0.2, label_smoothing=1e-3),
        {"loss_type": ["exo_pair"], "beta": 0.2, "label_smoothing": 1e-3},
    ),
    "nca": (NCA(beta=0.2), {"loss_type": ["nca_pair"], "beta": 0.2}),
    "bco_pair without its running mean": (WithoutShift(beta=0.2), {"loss_type": ["bco_pair"], "beta": 0.2}),
    "discopop": (
        DiscoPOP(beta=0.2, discopop_tau=0.3),
        {"loss_type": ["discopop"], "beta": 0.2, "discopop_tau": 0.3},
    ),
    "aot": (
        AOT(beta=0.2, label_smoothing=0.1),
        {"loss_type": ["aot"], "beta": 0.2, "label_smoothing": 0.1},
    ),
    "aot_unpaired": (AOTUnpaired(beta=0.2), {"loss_type": ["aot_unpaired"], "beta": 0.2}),
    # Its weights stay below 1 here; above, TRL does not clamp them, which the paper's code does (see test_losses).
    "wpo": (WPO(beta=0.2), {"loss_type": ["sigmoid"], "beta": 0.2, "use_weighting": True}),
    "f_dpo js": (
        FDPO(beta=0.2, divergence="js"),
        {"loss_type": ["sigmoid"], "beta": 0.2, "f_divergence_type": "js_divergence"},
    ),
    "f_dpo forward kl": (
        FDPO(beta=0.05, divergence="forward-kl"),  # a ratio of its own multiplies each rounding
        {"loss_type": ["sigmoid"], "beta": 0.05, "f_divergence_type": "forward_kl"},
    ),
    "f_dpo alpha": (
        FDPO(beta=0.2, divergence="alpha", trl_alpha=0.3),
        {
            "loss_type": ["sigmoid"],
            "beta": 0.2,
            "f_divergence_type": "alpha_divergence",
            "f_alpha_divergence_coef": 0.3,
        },
    ),
    # The first two are MPO's; its `sft` is per token of each answer here (see test_mpo).
    "a list of four": (
        WeightedSum(
            loss=(
                *((DPO(beta=0.2), 0.8), (WithoutShift(beta=0.2), 0.2)),
                *((NCA(beta=0.2), 0.5), (APOZero(beta=0.2), 2.0)),
            )
        ),
        {
            "loss_type": ["sigmoid", "bco_pair", "nca_pair", "apo_zero"],
            "loss_weights": [0.8, 0.2, 0.5, 2.0],
            "beta": 0.2,
        },
    ),
}
COMMON = {
    "per_device_train_batch_size": BATCH,
    "max_steps": STEPS,
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "train_sampling_strategy": "sequential",
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}


def _dicts(messages: object) -> list[dict[str, str]]:
    assert isinstance(messages, tuple)
    return [{"role": message.role, "content": message.content} for message in messages if isinstance(message, Message)]


def _ours(folder: Path, objective: Objective, data: list) -> list[dict[str, float]]:
    trainer = PreferenceTrainer(
        tiny_policy(dtype=torch.float32),
        objective,
        data,
        output_dir=folder,
        batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=RATE,
        scheduler="constant",
        order="file",
        token_budget=150,
    )
    trainer.train()
    return trainer.folder.read_metrics()


def _compare(ours: list[dict[str, float]], theirs: list[dict[str, float]], names: list[str]) -> None:
    theirs = [logs for logs in theirs if "loss" in logs]
    assert len(ours) == len(theirs) == STEPS
    for mine, other in zip(ours, theirs, strict=True):
        for name in names:
            # TRL rounds nothing here but Trainer's own loss, which is a float32 mean
            assert mine[name] == pytest.approx(other[name], abs=1e-5, rel=1e-5), name


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMPARED)
def test_five_steps_of_a_paired_method(tmp_path: Path, name: str) -> None:
    objective, settings = COMPARED[name]
    pairs: list[Pair] = chat_pairs(STEPS * BATCH)
    names = ["loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"]
    names += ["logps/chosen", "logps/rejected"]
    _compare(_ours(tmp_path / "ours", objective, pairs), _theirs(tmp_path / "trl", pairs, **settings), names)


@pytest.mark.filterwarnings("ignore")
def test_aot_of_trl_depends_on_its_micro_batches(tmp_path: Path) -> None:
    """It sorts what is on a device at once; here the step is sorted, in however many micro-batches it is computed."""
    pairs, losses = chat_pairs(STEPS * BATCH), []
    for size in (BATCH, BATCH // 2):
        cut = {"per_device_train_batch_size": size, "gradient_accumulation_steps": BATCH // size}
        logs = _theirs(tmp_path / str(size), pairs, loss_type=["aot_unpaired"], beta=0.2, **cut)
        losses.append([one["loss"] for one in logs if "loss" in one])
    assert losses[0][0] == pytest.approx(losses[1][0], abs=1e-6)  # at the reference the order does not matter
    assert max(abs(left - right) for left, right in zip(*losses, strict=True)) > 1e-3
    ours = _ours(tmp_path / "ours", AOTUnpaired(beta=0.2), pairs)  # of three micro-batches, by its token budget
    assert [one["loss"] for one in ours] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_five_steps_of_ld_dpo_whose_rewards_are_of_whole_answers_here(tmp_path: Path) -> None:
    """TRL logs the desensitized sums as rewards and log-probabilities; here both are of the answers, as in DPO."""
    pairs: list[Pair] = chat_pairs(STEPS * BATCH)
    ours = _ours(tmp_path / "ours", LDDPO(beta=0.2, ld_alpha=0.4), pairs)
    theirs = _theirs(tmp_path / "trl", pairs, loss_type=["sigmoid"], beta=0.2, ld_alpha=0.4)
    _compare(ours, theirs, ["loss", "grad_norm"])
    last = [logs for logs in theirs if "loss" in logs][-1]
    assert abs(ours[-1]["rewards/margins"] - last["rewards/margins"]) > 1e-3
    assert abs(ours[-1]["logps/chosen"] - last["logps/chosen"]) > 0.1


def _theirs(folder: Path, pairs: list[Pair], **settings: object) -> list[dict[str, float]]:
    policy = tiny_policy(dtype=torch.float32)
    rows = [{side: _dicts(getattr(pair, side)) for side in ("prompt", "chosen", "rejected")} for pair in pairs]
    trainer = DPOTrainer(
        model=policy.model,
        ref_model=tiny_policy(dtype=torch.float32).model,
        args=DPOConfig(output_dir=str(folder), **(COMMON | settings)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=policy.tokenizer,
    )
    trainer.train()
    return trainer.state.log_history


@pytest.mark.filterwarnings("ignore")
def test_five_steps_of_kto_with_the_same_partners(tmp_path: Path) -> None:
    rows: list[Labelled] = labelled_rows(STEPS * BATCH)
    theirs = tiny_policy(dtype=torch.float32)
    data = [{"prompt": _dicts(row.prompt), "completion": _dicts(row.answer), "label": row.desirable} for row in rows]
    trl_trainer = KTOTrainer(
        model=theirs.model,
        ref_model=tiny_policy(dtype=torch.float32).model,
        args=KTOConfig(output_dir=str(tmp_path / "trl"), beta=0.2, undesirable_weight=1.5, **COMMON),
        train_dataset=datasets.Dataset.from_list(data),
        processing_class=theirs.tokenizer,
    )
    trl_trainer.train()

    with pytest.warns(UserWarning, match="very noisy below 8 rows"):
        trainer = PreferenceTrainer(
            tiny_policy(dtype=torch.float32),
            KTO(beta=0.2, undesirable_weight=1.5),
            rows,
            output_dir=tmp_path / "ours",
            batch_size=BATCH,
            max_steps=STEPS,
            learning_rate=RATE,
            scheduler="constant",
            order="file",
            token_budget=150,
        )
    groups = trainer.train_groups  # TRL takes the answer of the row before, within each batch
    before = [(number // BATCH) * BATCH + (number - 1) % BATCH for number in range(len(groups))]
    trainer.train_groups = [
        replace(group, answers=(group.answers[0], groups[number].answers[0]))
        for group, number in zip(groups, before, strict=True)
    ]
    trainer.train()
    names = ["loss", "grad_norm", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins"]
    ours = trainer.folder.read_metrics()
    both = [number for number, logs in enumerate(ours) if "rewards/margins" in logs]
    assert len(both) >= 3
    _compare(ours, trl_trainer.state.log_history, ["loss", "grad_norm", "kl"])
    theirs_logs = [logs for logs in trl_trainer.state.log_history if "loss" in logs]
    for number in both:
        for name in names:
            assert ours[number][name] == pytest.approx(theirs_logs[number][name], abs=1e-5, rel=1e-5), name


def test_five_steps_of_simpo_against_numpy(tmp_path: Path) -> None:
    """TRL has no SimPO without a likelihood term, so a NumPy oracle on the policy's own log-probabilities stands in."""
    pairs = chat_pairs(STEPS * BATCH)
    objective = SimPO(beta=2.0, gamma_beta_ratio=0.4)
    policy = tiny_policy(dtype=torch.float32)
    trainer = PreferenceTrainer(
        policy,
        objective,
        pairs,
        output_dir=tmp_path / "run",
        batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=RATE,
        scheduler="constant",
        order="file",
    )
    expected = []
    step = trainer.training_step

    def with_oracle(model: torch.nn.Module, inputs: list, *rest: object) -> torch.Tensor:
        means = []
        for group in inputs:
            for answer in group.answers:
                ids = np.concatenate([group.prompt, answer])
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor(ids)[None].long()).logits[0].double().numpy()
                logits -= logits.max(-1, keepdims=True)
                logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
                places = np.arange(len(group.prompt), len(ids))
                means.append(logps[places - 1, ids[places]].mean())
        chosen, rejected = np.array(means).reshape(-1, 2).T
        expected.append(np.log1p(np.exp(-(2.0 * (chosen - rejected) - 0.8))).mean())
        return step(model, inputs, *rest)

    trainer.training_step = with_oracle  # type: ignore[method-assign]
    trainer.train()
    assert [logs["loss"] for logs in trainer.folder.read_metrics()] == pytest.approx(expected, abs=1e-5)
