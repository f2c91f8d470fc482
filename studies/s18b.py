"""S18B: what raises the ceiling of a small character model. `python -m studies.s18b [--quick]`"""

from __future__ import annotations

from dataclasses import asdict

from studies import learners, rollouts, sayings
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.learners import Sizes, World
from studies.plots import Plot, line

SEEDS = 5000  # those of the study; none of them was looked at while it was made
LABELS, KL = (250, 2000), 1.0
GRID = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)  # where exact lines are drawn
GOLD = 0  # no labels: what needs the gold reward alone
SMALL = Sizes(steps=24, rollouts=4, reading=40, pool=64, judged=4)
NAMES = {
    "linear": "reward model that knows the counts, exact RL",
    "own": "reward model of the policy's size, exact RL",
    "dpo": "DPO",
    "ipo": "IPO",
    "kto": "KTO",
    "simpo": "SimPO",
    "online_dpo": "online DPO, as many labels",
    "grpo_own": "Dr. GRPO, reward model of the policy's size",
    "ppo_own": "PPO, reward model of the policy's size",
    "grpo_gold": "Dr. GRPO, gold reward",
    "ppo_gold": "PPO, gold reward",
    "best_of_n": "best of n, gold reward",
}
EXACT = ("frontier", "best_of_n", "linear", "own")
WITHOUT_LABELS = ("frontier", "grpo_gold", "ppo_gold", "best_of_n")
TEXT = """
The question of S18 where answers are written token by token, and nothing is a table. A Llama of 48,000 parameters has
read lines of made-up words in four dialects, and ends lines of which it sees 2 to 8 characters, by at most 16 more. The
gold reward is a sum of 8 counts (vowels, letters that the prompt has, different letters, words, length, ...) with
weights drawn anew for each seed; people compare two answers of the reference by Bradley and Terry's model of it. A
linear reward model is given these counts; the other one is the reference with a head, and learns from the text.

The share is that of the frontier's gain at a divergence of 1 nat an answer. DPO, IPO, KTO and online DPO are trained
at two strengths, as GRPO and PPO are, and a method's gain is read between them; a policy is judged by 2,048 answers to
32 held-out prompts, and its divergence summed over all that could have come at each place of these answers. The
frontier, exact optimization of a reward model, and the best of n are the reference's own 1,024 answers to each of these
prompts, weighted. PPO and Dr. GRPO write 64 answers in each of 150 rollouts.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """Each method's share of the frontier's gain (`dpo`), and its stations (`dpo kl@0`, `dpo gain@0`, ...)."""
    world = World.made(SEEDS + seed, SMALL if quick else Sizes())
    best = learners.gain_at(learners.tilted(world, world.pool_gold), KL)
    found: dict[str, float | None] = {}
    for name, stations in rollouts.ends(world, setting, SEEDS + seed).items():
        gain = learners.gain_at(stations, KL)
        found[name] = None if gain is None or best is None else gain / best
        for number, place in enumerate(learners.places(stations, GRID) if name in EXACT else stations):
            found |= {f"{name} {measure}@{number}": value for measure, value in asdict(place).items()}
    return found


CASES = {f"{labels:,} labels": Case({"labels": labels}) for labels in LABELS}
ALONE = {"gold reward": Case({"labels": GOLD})}
RULES = {
    sayings.KNOWLEDGE: ("linear", "own", 0.1),
    sayings.RL_BEYOND_DPO: ("grpo_own", "dpo", 0.0),
    sayings.PPO_BEYOND_DPO: ("ppo_own", "dpo", 0.0),
    sayings.PPO_BEYOND_GRPO: ("ppo_own", "grpo_own", 0.0),
    sayings.PPO_ON_GOLD: ("ppo_gold", "grpo_gold", 0.0),
    sayings.OWN_ANSWERS: ("online_dpo", "dpo", 0.0),
}
EQUALS = {"own": sayings.IN_ONE_STEP, **sayings.AS_MUCH}
LEAST = {
    "grpo_gold": (sayings.VERIFIER, 0.8),
    "best_of_n": (sayings.BEST_OF_N, 0.85),
}


def _above(name: str, other: str, margin: float) -> str:
    more = f"more than {margin} " if margin else ""
    return f"the share of {NAMES[name]} is {more}above that of {NAMES[other]}, by the whole interval"


CLAIMS = [
    *(
        Claim(*said, _above(*rule), compared(ALONE if rule[0] in WITHOUT_LABELS else CASES, *rule))
        for said, rule in RULES.items()
    ),
    *(
        Claim(
            *said, "the shares differ by less than 0.1, by the whole interval", compared(CASES, name, "dpo", -0.1, 0.1)
        )
        for name, said in EQUALS.items()
    ),
    *(
        Claim(*said, f"more than {least} of the frontier's gain, by the whole interval", lies(ALONE, name, least))
        for name, (said, least) in LEAST.items()
    ),
]


def tables(results: Results) -> list[Table]:
    """The shares; what needs no labels is the same for every number of them."""
    columns = {
        words: {"": case, **dict.fromkeys(WITHOUT_LABELS, ALONE["gold reward"])} for words, case in CASES.items()
    }
    return [table(results, f"Share of the frontier's gain at a KL of {KL:g} nat", NAMES, columns)]


def plots(results: Results) -> list[Plot]:
    """The gold reward gained against the divergence, for each number of labels: a point for each strength."""
    found = []
    for labels in LABELS:
        lines = []
        for name, words in {"frontier": "the exact frontier", **NAMES}.items():
            setting, by_kl = {"labels": GOLD if name in WITHOUT_LABELS else labels}, {}
            for number in range(len(GRID)):
                kl, gain = (Case(setting, f" {what}@{number}").mean(results, name) for what in ("kl", "gain"))
                by_kl |= {} if kl is None else {kl.value: gain}
            lines.append(line(words, dict(sorted(by_kl.items()))))
        title = f"Gold reward gained, {labels:,} labels"
        found.append(Plot(f"gain-{labels}", title, "KL to the reference, nats an answer", "gold reward gained", lines))
    return found


SETTINGS = [{"labels": GOLD}, *({"labels": labels, "by": by} for labels in LABELS for by in ("pairs", "rewards"))]
READING = """
Three seeds leave wide intervals, and at some strengths a method ends before a divergence of 1 nat, so that a few shares
are those of two seeds or one. What is beyond doubt is the first row: 250 labels are enough for who knows what people
count, and 2,000 are not for who must find it out from the text. With 2,000 labels DPO is as good as the reward model
of its own size with exact optimization, and PPO and Dr. GRPO on that model add a few hundredths; with 250 they reach
further than DPO, which goes by the pairs alone. That PPO beats Dr. GRPO, or that own answers are worth more, is not
seen here.
"""
TITLE = "What raises the ceiling of a character model"
STUDY = Study(
    *("s18b", TITLE, TEXT, 1, SETTINGS, 3, run, CLAIMS, tables, plots, SETTINGS[:3], READING),
    setup="a Llama of 48,000 parameters; shares of the gain that is possible at the same divergence",
)

if __name__ == "__main__":
    main(STUDY)
