"""S18: what raises the ceiling, where the gold reward is known exactly. `python -m studies.s18 [--quick]`"""

from __future__ import annotations

from studies import ceiling, sayings, tabular
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.plots import Plot, line

PAIRS, KLS = (4, 8, 32), (0.5, 1.0)
GOLD = 0  # no pairs: what needs the gold reward alone
NAMES = {
    "linear": "reward model that knows the features, exact RL",
    "tabular": "reward model of the policy's capacity, exact RL",
    "dpo": "DPO",
    "ipo": "IPO",
    "kto": "KTO",
    "simpo": "SimPO",
    "online_dpo": "online DPO, as many labels",
    "grpo_tabular": "Dr. GRPO, reward model of the policy's capacity",
    "grpo_gold": "Dr. GRPO, gold reward",
    "ppo_tabular": "PPO, reward model of the policy's capacity",
    "ppo_gold": "PPO, gold reward",
    "twin_tabular": "Dr. GRPO with as many answers as PPO, that reward model",
    "twin_gold": "Dr. GRPO with as many answers as PPO, gold reward",
    "best_of_n": "best of n, gold reward",
}
WITHOUT_PAIRS = ("grpo_gold", "best_of_n", "ppo_gold", "twin_gold")
DRAWN = ("linear", "tabular", "dpo", "online_dpo", "grpo_tabular", "ppo_tabular", "grpo_gold", "best_of_n")


TEXT = """
It is said that reinforcement learning from a reward model reaches further than DPO. Here 64 prompts have 16 possible
answers each. An answer has 8 features, and the gold reward is a sum of them; people compare two answers of the
reference by Bradley and Terry's model of that reward. Policies are tables, so that the divergence from the reference
and the gold reward are exact, and so is the frontier, the most gold reward that any policy has at a divergence:
$\\pi_{\\mathrm{ref}} \\exp(r / \\beta) / Z$. What a method gains is told as a share of what the frontier gains at the
method's own divergence, between two of its strengths. All learn from the same pairs, by the package's losses;
PPO draws 1,600 answers to a prompt, its twin as many, and Dr. GRPO otherwise 4,800.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Each method's share at each divergence, by name: `dpo@0.5`."""
    world, steps, each = ceiling.world_of(seed, quick), 100 if quick else tabular.STEPS, setting["pairs"]
    if setting.get("by") == "rollouts":
        policies = ceiling.from_as_many_rollouts(world, each, seed, steps)
    else:
        policies = ceiling.from_pairs(world, each, seed, steps) if each else ceiling.from_gold(world, seed, steps)
    return {f"{name}@{kl}": world.share_at(policy, kl) for name, policy in policies.items() for kl in KLS}


CASES = {f"{pairs} pairs, KL {kl}": Case({"pairs": pairs}, f"@{kl}") for kl in KLS for pairs in PAIRS}
ALONE = {f"KL {kl}": Case({"pairs": GOLD}, f"@{kl}") for kl in KLS}
CLAIMS = [
    Claim(
        *sayings.KNOWLEDGE,
        "the linear reward model is more than 0.1 above the tabular one, by the whole interval",
        compared(CASES, "linear", "tabular", 0.1),
    ),
    Claim(
        *sayings.IN_ONE_STEP,
        "the shares differ by less than 0.05, by the whole interval",
        compared(CASES, "dpo", "tabular", -0.05, 0.05),
    ),
    Claim(
        *sayings.RL_BEYOND_DPO,
        "Dr. GRPO on the tabular reward model is above DPO, by the whole interval",
        compared(CASES, "grpo_tabular", "dpo", 0.0),
    ),
    Claim(
        *sayings.PPO_BEYOND_DPO,
        "PPO on the tabular reward model is above DPO, by the whole interval",
        compared(CASES, "ppo_tabular", "dpo", 0.0),
    ),
    *(
        Claim(
            *saying,
            "PPO is above Dr. GRPO, by the whole interval",
            compared(cases, f"ppo_{reward}", f"twin_{reward}", 0.0),
        )
        for reward, saying, cases in (("tabular", sayings.PPO_BEYOND_GRPO, CASES), ("gold", sayings.PPO_ON_GOLD, ALONE))
    ),
    Claim(
        *sayings.VERIFIER,
        "Dr. GRPO on the gold reward has more than 0.9 of the frontier's gain, by the whole interval",
        lies(ALONE, "grpo_gold", 0.9),
    ),
    Claim(
        *sayings.OWN_ANSWERS,
        "online DPO is above DPO, by the whole interval",
        compared(CASES, "online_dpo", "dpo", 0.0),
    ),
    *(
        Claim(
            *saying,
            "the shares differ by less than 0.05, by the whole interval",
            compared(CASES, name, "dpo", -0.05, 0.05),
        )
        for name, saying in sayings.AS_MUCH.items()
    ),
    Claim(
        *sayings.BEST_OF_N,
        "more than 0.85 of the frontier's gain, by the whole interval",
        lies(ALONE, "best_of_n", 0.85),
    ),
]


def tables(results: Results) -> list[Table]:
    """The shares, one table a divergence; what needs no pairs is the same for every number of them."""
    found = []
    for kl in KLS:
        alone = dict.fromkeys(WITHOUT_PAIRS, ALONE[f"KL {kl}"])
        columns = {f"{pairs} pairs a prompt": {"": CASES[f"{pairs} pairs, KL {kl}"], **alone} for pairs in PAIRS}
        found.append(table(results, f"Share of the frontier's gain at a KL of {kl} nats", NAMES, columns))
    return found


def plots(results: Results) -> list[Plot]:
    """The shares at a KL of 1 over the number of pairs."""
    lines = []
    for name in DRAWN:
        cases = {
            pairs: ALONE["KL 1.0"] if name in WITHOUT_PAIRS else CASES[f"{pairs} pairs, KL 1.0"] for pairs in PAIRS
        }
        lines.append(line(NAMES[name], {pairs: case.mean(results, name) for pairs, case in cases.items()}))
    label = "share of the gain at a KL of 1"
    return [Plot("shares", "Share of the exact frontier's gain", "pairs a prompt", label, lines, logarithmic=True)]


SETTINGS = [{"pairs": pairs} for pairs in (GOLD, *PAIRS)]
SETTINGS += [{"pairs": pairs, "by": "rollouts"} for pairs in (GOLD, *PAIRS)]
READING = """
What the reward knows that the pairs do not decides, and not the algorithm. Whether DPO or an exact optimization, GRPO
or PPO on a reward model of the policy's capacity learns from the same pairs is a matter of a hundredth. Where the rule
finds a difference, it probably is one of where each stops on the way to a likelihood without a maximum, as few pairs
contradict each other: with five times the steps it was smaller. A reward model that has 8 numbers to learn, a verifier,
or the best of some answers by it, are worth far more; labels on the policy's own answers some hundredths. On the gold
reward PPO, which learns four times from its answers, is two hundredths ahead of Dr. GRPO, which makes that good with
three times as many answers.
"""
QUICK = [*SETTINGS[:2], SETTINGS[5]]
STUDY = Study(
    *("s18", "What raises the ceiling", TEXT, 1, SETTINGS, 12, run, CLAIMS, tables, plots, QUICK, READING),
    setup="64 prompts of 16 answers, tables as policies; shares of the gain that is possible at the same divergence",
)

if __name__ == "__main__":
    main(STUDY)
