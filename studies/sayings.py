"""Sentences that several studies put to the test, each as people say it, with who says it."""

Saying = tuple[str, str]

OURS = "this project"
DPO, IPO = "DPO's paper, arXiv 2305.18290", "IPO's paper, arXiv 2310.12036"
FACE = "Hugging Face's comparison of DPO, IPO and KTO (blog, 2024)"
KTO, SIMPO = "KTO's paper, arXiv 2402.01306", "SimPO's paper, arXiv 2405.14734"
XU = "Xu and others, arXiv 2404.10719"
UNSOURCED = "often heard; we know of no paper"

ROBUST, SMOOTH = "arXiv 2403.00409", "E. Mitchell, A note on DPO with noisy preferences"
AFTER_IPO, RATERS, TUTORIALS = "tutorials, after arXiv 2310.12036", "annotation practice", "tutorials"

IN_ONE_STEP: Saying = (
    "DPO is a reward model of the policy's capacity and exact optimization, in one step.",
    DPO,
)
KNOWLEDGE: Saying = ("What the reward model knows raises the ceiling.", OURS)
RL_BEYOND_DPO: Saying = (
    "Reinforcement learning from a reward model has a higher ceiling than DPO on the same pairs.",
    XU,
)
PPO_BEYOND_DPO: Saying = ("PPO has a higher ceiling than DPO on the same pairs.", XU)
PPO_BEYOND_GRPO: Saying = ("PPO reaches further than GRPO with as many answers, on a reward model.", UNSOURCED)
PPO_ON_GOLD: Saying = ("PPO reaches further than GRPO with as many answers, on the gold reward.", UNSOURCED)
VERIFIER: Saying = ("A verifier lifts the ceiling.", "DeepSeek-R1's paper, arXiv 2501.12948")
OWN_ANSWERS: Saying = (
    "Labels on the policy's own answers are worth more than as many on the reference's.",
    "Online AI feedback's paper, arXiv 2402.04792",
)
ASKED_OF_OWN: Saying = (
    "A verifier that is asked about the policy's own answers is worth more than pairs of the start's.",
    OURS,
)
BEYOND_THE_START: Saying = ("Training by the verifier goes beyond the best of 8 answers of the start.", OURS)
BEST_OF_N: Saying = (
    "Best of n comes near the frontier without any training.",
    "BoNBoN's paper, arXiv 2406.00832",
)
AS_MUCH: dict[str, Saying] = {
    "ipo": ("IPO gets as much out of the pairs as DPO.", FACE),
    "kto": ("KTO gets as much out of the pairs as DPO.", KTO),
    "simpo": ("SimPO gets as much out of the pairs as DPO.", SIMPO),
}
WRONG_LABELS: Saying = ("A fifth of the labels wrong costs accuracy.", "arXiv 2404.09824")
FEW_WRONG: Saying = ("A few wrong labels hardly matter to DPO.", TUTORIALS)
AGAINST_WRONG: dict[str, Saying] = {
    "robust": ("Where labels are wrong, robust DPO is more accurate than DPO.", ROBUST),
    "cdpo": ("Where labels are wrong, DPO with label smoothing is more accurate.", SMOOTH),
    "ipo": ("IPO is more robust to wrong labels than DPO.", AFTER_IPO),
    "soft": ("A judge's doubts, kept as soft labels, make up for its errors.", RATERS),
}
RATE_BEFORE_BETA: Saying = ("A learning rate four times off costs more than a beta three times off.", UNSOURCED)
FULL_IS_SLOW: Saying = ("Training all weights needs a rate far below LoRA's.", "LoRA Without Regret (blog, 2025)")
LORA_KEEPS_UP: Saying = ("LoRA learns as much as training all weights.", "LoRA Without Regret (blog, 2025)")
BETA_HOLDS: Saying = ("A smaller beta lets the chosen answer fall further.", UNSOURCED)
CHOSEN_FALLS: Saying = (
    "DPO makes the chosen answer less likely.",
    "likelihood displacement, arXiv 2410.08847, and many reports",
)
NEAR_THE_FRONTIER: Saying = ("DPO gets within 5 % of the frontier.", "the register of studies")
FURTHER: Saying = ("A smaller beta takes DPO further from the reference.", DPO)
EARNS_MORE: Saying = ("A smaller beta earns DPO more reward.", DPO)
