"""Random Llamas of two layers, groups of random tokens, and the package's own steps on them, in several precisions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.models.options import LoraOptions
from likelier.models.policy import add_lora
from likelier.objectives import DPO, IPO, KTO, Hinge, Objective, SimPO
from likelier.scoring import attach_scorer, collate, score_plain
from likelier.scoring.engine import micro_batches
from likelier.scoring.reference import ReferenceScoring, base_reference
from likelier.scoring.reference.store import score_live
from likelier.training.step import StepWalker
from studies.exact import SEEDS

VOCABULARY, WHOLE, CUT = 64, 100_000, 60  # tokens that a step in one piece may hold, and one that is cut
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
PRECISIONS = ("float64", "float64, norms in float32", "float32", "bfloat16")
CPU = torch.device("cpu")
Step = tuple[Tensor, Tensor]  # the mean loss and the gradient
METHODS = {"dpo": DPO(), "ipo": IPO(tau=0.5), "kto": KTO(), "simpo": SimPO()}
ALONE = "one answer"  # as chosen and rejected, or as a row and its mismatched answer: scored once
# Common tokens, then each answer's own, by case: what pairs of answers are made of.
PAIRS = {
    "nothing in common": (0, (6, 3)),
    "a common beginning": (3, (4, 2)),
    "one begins the other": (4, (3, 0)),
    "one token each": (0, (1, 1)),
}


def llama(precision: str, seed: int) -> Any:
    """A model with weights large enough that it looks at what came before; in each precision the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEEDS + seed)
        config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, initializer_range=0.1, **SIZES)
        model: Any = LlamaForCausalLM(config).eval()
    model.to(torch.float64 if precision.startswith("float64") else torch.float32)
    if precision == "float64":
        _keep_norms(model)
    return model


def _keep_norms(model: nn.Module) -> None:
    """Norms in float64: transformers' own compute in float32, whatever comes."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(len(child.weight), eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(parent, name, norm)


def with_adapter(precision: str, seed: int) -> Any:
    """The same model under a new LoRA adapter."""
    base = llama(precision, seed)
    with torch.random.fork_rng(devices=[]):
        return add_lora(base, LoraOptions(lora_r=4), seed).to(base.dtype)


def attached(model: Any, precision: str) -> Any:
    """The model with the shared-prefix scorer, in whose place a call may name another."""
    attach_scorer(model, autocast=precision == "bfloat16", scorer="shared-prefix")
    return model


@torch.no_grad()
def move(model: nn.Module, seed: int, share: str = "") -> None:
    """Weights whose names hold `share` go a little way from where they are."""
    source = torch.Generator().manual_seed(SEEDS + seed)
    for name, weight in model.named_parameters():
        if share in name:
            weight += 0.03 * torch.randn(weight.shape, dtype=torch.double, generator=source).to(weight.dtype)


def groups_by_case(seed: int) -> dict[str, list[Group]]:
    """Pairs of answers that share what the case says, all of different prompts but for the one with five answers."""
    source = np.random.default_rng(SEEDS + seed)

    def drawn(length: int) -> Any:
        return source.integers(3, VOCABULARY, length).astype(np.int32)

    def pair(prompt: Any, chosen: Any, rejected: Any) -> Group:
        return Group(prompt, (chosen, rejected), Source("drawn", int(source.integers(1 << 30))))

    found = {}
    for case, (common, own) in PAIRS.items():
        found[case] = []
        for length in (1, 7, 12):
            prompt, begun = drawn(length), drawn(common)
            found[case].append(pair(prompt, *(np.concatenate([begun, drawn(more)]) for more in own)))
    prompt, answers = drawn(9), [drawn(length) for length in (5, 9, 3, 1, 6)]
    found["five answers of a prompt"] = [pair(prompt, answers[k], answers[j]) for k, j in ((0, 1), (2, 3), (0, 4))]
    found[ALONE] = [pair(drawn(length), *[drawn(5)] * 2) for length in (1, 7, 12)]
    return found


def labelled(groups: Sequence[Group]) -> list[Group]:
    """Each chosen answer as a row, thumbs up and down in turns, with the rejected one as the mismatched answer."""
    return [replace(one, desirable=number % 2 == 0) for number, one in enumerate(groups)]


def step(
    model: Any,
    objective: Objective,
    groups: Sequence[Group],
    budget: int = WHOLE,
    how: Callable[..., Any] | None = None,
) -> Step:
    """The mean loss and the gradient of an optimizer step, in doubles; `how` is a scorer other than the model's own."""
    model.zero_grad(set_to_none=True)
    wrapped: Any = partial(model, how=how)
    walked = StepWalker(model, objective, budget, CPU).walk(wrapped, groups, Tensor.backward, lambda _: None)
    gradient = torch.cat([one.grad.double().flatten() for one in model.parameters() if one.grad is not None])
    return walked.losses.double().mean(), gradient


def rows(method: str, groups: Sequence[Group], turned: bool = False) -> list[Group]:
    """Pairs, or for KTO rows: every other one is a thumb up, also where the order is `turned` round."""
    if METHODS[method].data == "pairs":
        return list(groups)
    return labelled(groups[::-1])[::-1] if turned else labelled(groups)


def steps(model: Any, groups: Sequence[Group], *, turned: bool = False, **how: Any) -> dict[str, Step]:
    """A step by each method."""
    return {name: step(model, one, rows(name, groups, turned), **how) for name, one in METHODS.items()}


def averaged(model: Any, groups: Sequence[Group]) -> dict[str, Step]:
    """Each micro-batch as a step of its own, and the mean over them."""
    found = {}
    for name, objective in METHODS.items():
        parts = micro_batches(model, rows(name, groups), CUT)
        losses, gradients = zip(*(step(model, objective, part) for part in parts), strict=True)
        found[name] = torch.stack(losses).mean(), torch.stack(gradients).mean(0)
    return found


def gap(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """How far a loss and a gradient are from what they should be, relative: the larger of the two, and not below
    1e-16.
    """
    return max(1e-16, *(float((one - other).norm() / other.norm()) for one, other in zip(found, wanted, strict=True)))


def scoring(folder: str, budget: int) -> ReferenceScoring:
    """Reference scores in a store of this folder, computed so many tokens at once."""
    return ReferenceScoring(Path(folder), budget, CPU)


@torch.no_grad()
def row_by_row(model: Any, groups: Sequence[Group]) -> Tensor:
    """(groups, 2) mean log-probabilities of answers' tokens, by the model's own forward, one row at a time."""
    found = []
    for group, answer in ((one, answer) for one in groups for answer in one.answers):
        ids = torch.from_numpy(np.concatenate([group.prompt, answer]).astype(np.int64))[None]
        logps = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), -1)
        found.append(logps.gather(1, ids[0, 1:, None])[len(group.prompt) - 1 :].mean())
    return torch.stack(found).view(-1, 2)


@torch.no_grad()
def token_logps(model: Any, groups: Sequence[Group]) -> tuple[Tensor, list[int]]:
    """Those of all tokens, and of how many tokens each answer is."""
    scores = model(batch=collate(groups))
    return scores.token_logps.double(), scores.lengths.tolist()


def number(group: Group) -> int:
    """Its place in the order in which groups are taken."""
    return group.source.number


def without_adapter(precision: str, seed: int, groups: Sequence[Group]) -> list[Group]:
    """The groups with the scores of the same model under an adapter that has learnt and is switched off."""
    model = attached(with_adapter(precision, seed), precision)
    move(model, seed, "lora_")
    with tempfile.TemporaryDirectory() as folder:
        found = score_live(groups, base_reference(model, precision=precision), scoring(folder, WHOLE))
    return sorted(found, key=number)


def gaps(
    what: str, one: dict[str, Step], other: dict[str, Step], methods: Sequence[str] = tuple(METHODS)
) -> dict[str, float]:
    """Of each method, as `what@method`."""
    return {f"{what}@{name}": gap(one[name], other[name]) for name in methods}


def gaps_at_start(model: Any, groups: list[Group]) -> dict[str, float]:
    """Losses where the policy is the reference, held to closed forms; and SimPO's to sums row by row."""
    means, simpo, taken = row_by_row(model, groups), SimPO(), steps(model, groups)
    by_hand = -logsigmoid(simpo.beta * (means[:, 0] - means[:, 1] - simpo.gamma_beta_ratio)).mean()
    wanted = {"dpo": log(2), "ipo": 1.0, "kto": 0.5, "simpo": float(by_hand)}
    return {
        f"start@{name}": gap(taken[name][:1], [torch.tensor(loss, dtype=torch.double)]) for name, loss in wanted.items()
    }


def drift(model: Any, seed: int, groups: list[Group]) -> dict[str, float]:
    """Nats between bfloat16 and float32, a token and an answer."""
    other = attached(llama("float32", seed), "float32")
    (one, lengths), (two, _) = (token_logps(each, groups) for each in (model, other))
    tokens, answers = one - two, torch.stack([part.sum() for part in (one - two).split(lengths)])
    found = {"mean": tokens.abs().mean(), "worst": tokens.abs().max(), "answer": answers.abs().mean()}
    return {f"drift@{name}": float(value) for name, value in found.items()}


def gaps_to_hinge(model: Any, groups: list[Group], betas: Sequence[float]) -> dict[str, float]:
    """How far DPO's gradient is from half of the hinge's, both of them per beta."""
    hinge = step(model, Hinge(beta=1e-6), groups)[1] / 2e-6
    return {f"limit@{beta:g}": gap([step(model, DPO(beta=beta), groups)[1] / beta], [hinge]) for beta in betas}


def gaps_of_sharing(model: Any, cases: Mapping[str, list[Group]]) -> dict[str, float]:
    """Between the scorer with a row an answer and the one that shares prompts, case by case: pairs of one answer have
    no gradient, and rows of it do.
    """
    found = {}
    for case, groups in cases.items():
        what, methods = case if case == "shared" else f"shared, {case}", ["kto"] if case == ALONE else list(METHODS)
        found |= gaps(what, steps(model, groups, how=score_plain), steps(model, groups), methods)
    return found
