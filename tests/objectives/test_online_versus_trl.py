"""The GRPO family against TRL 1.16: the same completions, rewards and weights give the same loss and gradient.

TRL tokenizes, pads, scores with the policy before the update and with the reference, and computes advantages, all by
itself; only its sampling is replaced by completions from here. Then the weights move, so that ratios differ from 1 and
clips hold. All answers of the step are in one micro-batch, because TRL's `grpo`, `bnpo` and `dr_grpo` divide by a
micro-batch's numbers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from likelier.objectives.grpo_family import PolicyGradient
from likelier.objectives.online import online_method
from likelier.objectives.online_metrics import policy_metrics
from likelier.objectives.policy_gradient import answer_sums
from likelier.objectives.rollout import RolloutItems, StepCounts
from likelier.objectives.scored import SequenceScores
from tests.helpers.support import sentence, tiny_model, tiny_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

PROMPTS, GROUP, LONGEST = 2, 4, 12
REWARDS = [1.0, 0.0, 0.5, 0.0, 2.0, 2.0, -1.0, 0.25]
GROUP_OF = torch.arange(PROMPTS).repeat_interleave(GROUP)
KL = 0.3
Found = tuple[float, dict[str, Tensor], dict[str, float]]  # loss, gradient of each weight, metrics
SHARES = [f"clip_ratio/{side}_mean" for side in ("low", "high", "region")]

GRPO_FAMILY: dict[str, tuple[PolicyGradient, dict[str, Any]]] = {
    "grpo": (online_method("grpo", paper=True, kl_coefficient=0.0), {"loss_type": "grpo"}),
    "bnpo": (online_method("grpo", advantage="std", clip_high=0.2), {"loss_type": "bnpo"}),
    "dapo": (online_method("dapo", overlong_cache=0.0), {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dr_grpo": (online_method("dr_grpo"), {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "cispo": (online_method("cispo", weight_high=5.0), {"loss_type": "cispo", "epsilon_high": 5.0}),
    "cispo that clamps": (online_method("cispo", weight_high=1.05), {"loss_type": "cispo", "epsilon_high": 1.05}),
    "gspo": (
        online_method("gspo"),
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "dual clip": (
        online_method("dapo", overlong_cache=0.0, clip_dual=1.3),
        {"loss_type": "dapo", "epsilon_high": 0.28, "delta": 1.3},
    ),
    "grpo with a sampler that differs": (
        online_method("grpo", paper=True, kl_coefficient=0.0, tis="token"),
        {"loss_type": "grpo"},
    ),
}


@dataclass(frozen=True)
class Rollout:
    """What was written, and the models: before the update, after it, and the reference."""

    prompts: list[str]
    completions: list[list[int]]
    before: LlamaForCausalLM
    after: LlamaForCausalLM
    reference: LlamaForCausalLM

    @staticmethod
    def made() -> Rollout:
        rng, tokenizer = random.Random(5), tiny_tokenizer(chat=False)
        prompts = [sentence(rng) for _ in range(PROMPTS)]
        lengths = [rng.randint(2, LONGEST - 1) for _ in REWARDS]
        completions = [[*(rng.randint(3, 383) for _ in range(length)), tokenizer.eos_token_id] for length in lengths]
        before, after, reference = (tiny_model(seed, torch.float32) for seed in (0, 0, 0))
        for model, seed, size in ((after, 1, 0.01), (reference, 2, 0.02)):
            generator = torch.Generator().manual_seed(seed)
            for weight in model.parameters():
                weight.data += size * torch.randn(weight.shape, generator=generator)
        return Rollout(prompts, completions, before, after, reference)

    def scores(self, model: LlamaForCausalLM) -> SequenceScores:
        """Of every completion by itself, without padding."""
        tokenizer, found = tiny_tokenizer(chat=False), []
        for number, completion in enumerate(self.completions):
            prompt = tokenizer(self.prompts[number // GROUP])["input_ids"]
            ids = torch.tensor([*prompt, *completion])
            logits = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1]
            found.append(logits.log_softmax(-1).gather(-1, ids[len(prompt) :, None])[:, 0])
        return SequenceScores.of(torch.cat(found), torch.tensor([len(one) for one in found]))

    @property
    def sampler_drift(self) -> Tensor:
        """(tokens,) made up: how much more likely the scorer finds what another program drew."""
        tokens = sum(map(len, self.completions))
        return 0.8 * torch.randn(tokens, generator=torch.Generator().manual_seed(9))


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    return Rollout.made()


def ours(method: PolicyGradient, rollout: Rollout) -> Found:
    """What comes of it here."""
    with torch.no_grad():
        old, ref = (rollout.scores(model) for model in (rollout.before, rollout.reference))
    scores = rollout.scores(rollout.after)
    kl = answer_sums(old.token_logps - ref.token_logps, old.answer_of, old.lengths)
    rewards = torch.tensor(REWARDS)
    advantages = method.advantages(rewards, GROUP_OF, lengths=scores.lengths, max_length=LONGEST, kl=kl)
    drawn = old.token_logps - rollout.sampler_drift
    items = RolloutItems(advantages.values, advantages.counts, old.token_logps, ref.token_logps, drawn)
    loss = method.losses(scores, items, StepCounts.of(scores.lengths, advantages.counts, LONGEST)).sum()
    rollout.after.zero_grad()
    loss.backward()
    return loss.item(), gradients(rollout.after), policy_metrics(method, scores, items).means()


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def trl(kind: Any, settings: Any, rollout: Rollout, folder: Path, drift: Tensor | None = None) -> Found:
    """What comes of it in a trainer of TRL's."""
    rollout.before.save_pretrained(folder / "model")
    trainer = kind(
        model=LlamaForCausalLM.from_pretrained(folder / "model"),
        reward_funcs=lambda completions, **columns: REWARDS,
        args=settings,
        train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in rollout.prompts]),
        processing_class=tiny_tokenizer(chat=False),
    )
    if trainer.ref_model is not None:
        trainer.ref_model.load_state_dict(rollout.reference.state_dict())
    grouped = issubclass(kind, GRPOTrainer)
    trainer._generate_single_turn = lambda *given: (rollout.completions, None) if grouped else rollout.completions
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    batch = trainer._generate_and_score_completions([{"prompt": one} for one in rollout.prompts for _ in range(GROUP)])
    if drift is not None:
        trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
        weights = torch.ones(batch["completion_mask"].shape)
        weights[batch["completion_mask"].bool()] = drift.exp().clamp(max=2.0)
        batch["importance_sampling_ratio"] = weights
    trainer.model.load_state_dict(rollout.after.state_dict())
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return (
        loss.item(),
        gradients(trainer.model),
        {name: values[-1] for name, values in trainer._metrics["train"].items()},
    )


def settings_of(kind: Any, folder: Path, **changes: Any) -> Any:
    common = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": len(REWARDS),
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 1,
        "num_iterations": 2,  # so that it remembers the policy before the update
        "num_generations": GROUP,
        "max_completion_length": LONGEST,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": "none",
    }
    return kind(**common | changes)


def compare(mine: Found, theirs: Found) -> None:
    assert mine[0] == pytest.approx(theirs[0], abs=1e-5, rel=1e-5) and abs(mine[0]) > 1e-3
    assert mine[1].keys() == theirs[1].keys()
    largest = max(float(one.abs().max()) for one in mine[1].values())
    assert largest > 1e-2
    for name, found in mine[1].items():
        torch.testing.assert_close(found, theirs[1][name], rtol=1e-5, atol=1e-5 * max(1.0, largest), msg=name)


@pytest.mark.parametrize("coefficient", [0.0, KL])
@pytest.mark.parametrize("name", GRPO_FAMILY)
def test_the_grpo_family(name: str, coefficient: float, rollout: Rollout, tmp_path: Path) -> None:
    method, changes = GRPO_FAMILY[name]
    mine = ours(replace(method, kl_coefficient=coefficient), rollout)
    settings = settings_of(GRPOConfig, tmp_path, beta=coefficient, use_bias_correction_kl=True, **changes)
    theirs = trl(GRPOTrainer, settings, rollout, tmp_path, rollout.sampler_drift if method.tis else None)
    compare(mine, theirs)
    shares = [] if "cispo" in name else SHARES
    assert [mine[2][one] for one in shares] == pytest.approx([theirs[2][one] for one in shares], abs=1e-6)
    assert name == "cispo" or mine[2]["clip_ratio/region_mean"] > 0


@pytest.mark.parametrize("coefficient", [0.0, KL])
def test_rloo(coefficient: float, rollout: Rollout, tmp_path: Path) -> None:
    mine = ours(online_method("rloo", kl_coefficient=coefficient), rollout)
    settings = settings_of(RLOOConfig, tmp_path, beta=coefficient)
    theirs = trl(RLOOTrainer, settings, rollout, tmp_path)
    compare(mine, theirs)
    assert [mine[2][one] for one in SHARES] == pytest.approx([theirs[2][one] for one in SHARES], abs=1e-6)


def test_trls_default_upper_bound_for_cispo_scales_the_gradient_down(rollout: Rollout, tmp_path: Path) -> None:
    """Why `weight_high` below 1 is refused: every ratio is clamped to 0.2, and with it every gradient."""
    settings = settings_of(GRPOConfig, tmp_path, loss_type="cispo", beta=0.0)
    small = trl(GRPOTrainer, settings, rollout, tmp_path)[1]
    plain = ours(online_method("cispo", weight_low=1.0, weight_high=1.0), rollout)[1]
    for name, found in small.items():
        torch.testing.assert_close(found, 0.2 * plain[name], rtol=1e-5, atol=1e-5)
