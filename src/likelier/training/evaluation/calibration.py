"""Whether a model's confidence is earned: how often it is right, against how often it claims to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from likelier.utils.statistics import share_of

EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the claimed share: below one half nobody claims anything


def calibration(margins: Tensor, prompts: Sequence[int]) -> tuple[dict[str, float], list[dict[str, float | int]]]:
    """Metrics and bins of held-out pairs with these `margins` (n,), score of the chosen answer less the rejected one's;
    `prompts` (n,) number their prompts.

    Whichever answer stands first, the model prefers the one with the higher score, and claims to be right with
    probability sigma(|margin|), which is never below one half: the other order of the same pair would say the same
    again. Each bin has its `pairs`, their mean `claimed`, the
    share that is `right` (a tie is wrong) and its 95 % interval. `confidence` is the mean claim; `calibration_error`
    is the mean over pairs of a bin's distance between claim and share. Noise alone makes it positive: in bins of n
    pairs it is up to .4 / sqrt(n) where nothing is wrong.
    """
    values = margins.detach().double().cpu().numpy()
    claimed, right, number = 1 / (1 + np.exp(-np.abs(values))), values > 0, np.asarray(prompts)
    places = np.clip(np.digitize(claimed, EDGES) - 1, 0, len(EDGES) - 2)
    bins: list[dict[str, float | int]] = []
    for place in range(len(EDGES) - 1):
        own = places == place
        if own.any():
            share, mean = share_of(right[own], number[own]), float(claimed[own].mean())
            told = {"claimed": mean, "right": share.value, "low": share.low, "high": share.high}
            bins.append({"pairs": share.cases, **told})
    distance = sum(one["pairs"] * abs(one["claimed"] - one["right"]) for one in bins) / len(values)
    return {"confidence": float(claimed.mean()), "calibration_error": float(distance)}, bins
