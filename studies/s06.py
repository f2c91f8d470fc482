"""S6: a network instead of a table, and answers that no comparison has. `python -m studies.s06 [--quick]`"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from likelier.objectives.losses import dpo_loss, reward_model_loss
from studies import exact, sayings
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import compared, lies, table
from studies.plots import Plot, line

SIDE, COVERED, WIDTH, RATE, STEPS = 8, 4, 32, 0.01, 1_000
BETAS = (0.1, 0.5, 1.0)

TEXT = """
Section 4.2 of Xu and others: 8 prompts with 8 answers each, a policy that is a perceptron which sees the prompt's
number, and of every prompt only some answers compared. The best answer to a prompt is the one of its own number; of the
others, drawn rewards say which is better. Four answers to each prompt are drawn to be compared, all with all, the
better one preferred; the other four are never seen. DPO trains the perceptron (8, 32, 8; Adam at 0.01, 1,000 steps)
from its random start, which is the reference. The same perceptron learns a reward from the same comparisons, and
reinforcement learning that is held to the reference is solved exactly for it. The paper shows one answer that nobody
compared and that rises from 0.11 to 0.23 under DPO: so we ask of all uncovered answers together, and whether there is
any that doubles. Our rule asks for more than half of 20 seeds by the whole interval (at least 15) rather than for
60 % of them, which chance alone would often have.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """What uncovered answers have in the reference, after DPO, and after a reward model and exact optimization."""
    source, start, steps = exact.generator(seed), (seed, SIDE, WIDTH, SIDE), 100 if quick else STEPS
    gold = exact.normal(source, SIDE, SIDE) + 10 * torch.eye(SIDE, dtype=torch.double)
    covered = torch.stack([torch.randperm(SIDE, generator=source)[:COVERED] for _ in range(SIDE)])
    pairs = _pairs(gold, covered)
    unseen = torch.ones(SIDE, SIDE, dtype=torch.bool).scatter(1, covered, torch.zeros_like(covered, dtype=torch.bool))
    prompts = torch.eye(SIDE, dtype=torch.double)
    ref = torch.log_softmax(exact.network(*start)(prompts), -1).detach()
    rewards = exact.network(*start)
    exact.descend(rewards, lambda: reward_model_loss(*_sides(rewards(prompts), pairs)).mean(), steps, RATE)
    found: dict[str, float] = {"ref": float((ref.exp() * unseen).sum(-1).mean())}
    for beta in BETAS:
        policy = exact.network(*start)

        def loss(policy: nn.Module = policy, beta: float = beta) -> Tensor:
            return dpo_loss(*_sides(torch.log_softmax(policy(prompts), -1) - ref, pairs), beta=beta).mean()

        exact.descend(policy, loss, steps, RATE)
        by_dpo = torch.log_softmax(policy(prompts), -1).detach()
        by_reward = torch.log_softmax(ref + rewards(prompts).detach() / beta, -1)
        for name, logps in (("dpo", by_dpo), ("reward", by_reward)):
            mass = float((logps.exp() * unseen).sum(-1).mean())
            found |= {f"{name}@{beta:g}": mass, f"{name}_rose@{beta:g}": float(mass > found["ref"])}
            found[f"{name}_doubled@{beta:g}"] = float(((logps.exp() > 2 * ref.exp()) & unseen).any())
        found[f"ref@{beta:g}"] = found["ref"]
    return found


def _pairs(gold: Tensor, covered: Tensor) -> Tensor:
    """(3, n): prompt, better and worse answer, of all comparisons of covered answers."""
    one, two = exact.ordered(COVERED)
    prompts = torch.arange(SIDE).repeat_interleave(len(one))
    all_pairs = torch.stack([prompts, covered[:, one].flatten(), covered[:, two].flatten()])
    better = gold[prompts, all_pairs[1]] > gold[prompts, all_pairs[2]]
    return all_pairs[:, better]


def _sides(scores: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    return scores[pairs[0], pairs[1]], scores[pairs[0], pairs[2]]


CASES = exact.at("beta", BETAS)
CLAIMS = [
    Claim(
        "DPO moves probability to answers that the data do not have.",
        sayings.XU,
        "uncovered answers have more than in the reference in more than half of the seeds, by the whole interval",
        lies(CASES, "dpo_rose", 0.5),
    ),
    Claim(
        "DPO gives them more than a reward model and reinforcement learning held to the reference.",
        sayings.XU,
        "uncovered answers have more after DPO, by the whole interval",
        compared(CASES, "dpo", "reward", 0.0),
    ),
    Claim(
        "Under DPO single answers that the data do not have gain a lot.",
        sayings.XU,
        "some uncovered answer has twice what it had, in more than half of the seeds, by the whole interval",
        lies(CASES, "dpo_doubled", 0.5),
    ),
    Claim(
        "With a reward model and reinforcement learning held to the reference they do not.",
        sayings.XU,
        "some uncovered answer doubles in fewer than half of the seeds, by the whole interval",
        lies(CASES, "reward_doubled", -1.0, 0.5),
    ),
]
ROWS = {
    "ref": "the reference",
    "dpo": "DPO",
    "reward": "reward model, exact RL",
    "dpo_rose": "seeds in which they have more after DPO",
    "reward_rose": "seeds in which they have more after RL",
    "dpo_doubled": "seeds in which one of them doubles, DPO",
    "reward_doubled": "seeds in which one of them doubles, RL",
}


def tables(results: Results) -> list[Table]:
    """The probability of uncovered answers."""
    columns = {label: {"": case} for label, case in CASES.items()}
    return [table(results, "What answers that nobody compared have together, a prompt", ROWS, columns)]


def plots(results: Results) -> list[Plot]:
    """The same over beta."""
    cases = dict(zip(BETAS, CASES.values(), strict=True))
    lines = [
        line(ROWS[name], {beta: case.mean(results, name) for beta, case in cases.items()})
        for name in ("ref", "dpo", "reward")
    ]
    return [Plot("unseen", "Answers that nobody compared", "beta", "probability a prompt", lines, True)]


READING = """
Not so here: DPO takes nearly all from answers that nobody compared, and a reward model with exact optimization leaves
them no less. Single answers that double occur in some seeds, after the reward model as often. Prompts share little in
this network; where answers share much (S8), it is otherwise. The paper tells its setting in few words: ours may differ.
"""
STUDY = Study(
    *(
        "s06",
        "A network, and answers that no comparison has",
        TEXT,
        1,
        [{}],
        20,
        run,
        CLAIMS,
        tables,
        plots,
        [{}],
        READING,
    ),
    setup="8 prompts of 8 answers, 4 of them compared; a perceptron as policy and as reward model",
)

if __name__ == "__main__":
    main(STUDY)
