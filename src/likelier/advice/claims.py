"""What speaks for and against each method: where studies contradict the folklore, it stands here."""

from __future__ import annotations

# What is doubtful about a recommendation, by the row of the table or by the method.
DOUBTS: dict[str, tuple[str, ...]] = {
    "dpo": (
        "DPO often lowers the chosen answers' probability as well (drops in up to nearly all pairs are reported): "
        "watch logps/chosen, and add --nll-weight 1 or take dpop where it matters",
        "the divergence from the reference is not bounded by DPO's loss: on preferences that never contradict each "
        "other it grows as long as one trains. More epochs are not safer",
    ),
    "ipo": (
        "that IPO is steadier than DPO on small data has no primary source: in a small pilot on bandits it drifted "
        "less from the reference and was neither better nor steadier in reward. What is proven is that its margin "
        "stops at 1 / (2 tau), where DPO's goes on",
    ),
    "robust": (
        "robust DPO beats plain DPO under label noise in its paper and in a small pilot; it pays with a larger "
        "divergence from the reference. Its loss is unbounded below, and a rate that is too high makes it worse",
    ),
    "kto": (
        "that KTO matches DPO is supported by its own paper (1B to 30B) and contradicted by SimPO's tables (13.1 "
        "against 15.1 and 33.1 against 40.3 on AlpacaEval 2)",
        "that KTO holds out against rare labels was seen in the divergence only, not in the reward; and it does not "
        "weigh losses above gains unless undesirable_weight is the larger one",
    ),
    "simpo": (
        "the folklore row (20 % faster, 10 % less memory than DPO) compares with a DPO that holds two models. Here the "
        "reference is scored beforehand and is not in memory, so that argument falls: SimPO is for runs without any",
        "without a reference nothing holds the policy to its start: learning rates above 1e-6 are known to break it "
        "(its authors), and on ties it drifts where DPO does not move",
    ),
    "both kinds": (
        "no paper with numbers was found for DPO and then KTO. Train each alone as well, and compare all three on the "
        "same evaluation set: the second stage may forget some of the first",
    ),
    "ceiling": (
        "online methods lead most tables, with a good reward and a budget for sampling; with a poor reward they learn "
        "to please it",
    ),
}

# What a method would gain and cost instead of another.
GAINS: dict[str, str] = {
    "dpo": "the most experience and the fewest surprises; no protection from wrong labels",
    "robust": "corrects for wrong labels, if their rate is known; a larger divergence from the reference",
    "ipo": "a margin that stops at a target, so less drift on few or never contradicted pairs; learns more slowly",
    "kto": "reads labels, and each pair as two of them, so both files train in one run; two extra passes a step for "
    "its baseline, which is noisy in small steps",
    "simpo": "saves one forward pass over the data for the reference, and divides by length; no tie to the start, and "
    "two hyperparameters that must fit the model",
    "sigmoid_norm": "DPO divided by length, against length bias; needs beta around 5, little used outside Tulu 3",
}

# Which methods to weigh against the recommended one.
RIVALS: dict[str, tuple[str, ...]] = {
    "dpo": ("robust", "ipo", "simpo"),
    "robust": ("dpo", "ipo"),
    "ipo": ("dpo", "simpo"),
    "kto": (),
    "simpo": ("dpo",),
}


def doubts_of(row: str, methods: tuple[str, ...]) -> list[str]:
    """Everything that is doubtful about a recommendation."""
    keys = [row.split(",")[0], *methods]
    return [doubt for key in dict.fromkeys(keys) for doubt in DOUBTS.get(key, ())]
