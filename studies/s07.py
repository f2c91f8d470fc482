"""S7: what happens to chosen, rejected and unseen answers along the way. `python -m studies.s07 [--quick]`"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from likelier.objectives.losses import dpo_loss
from studies import exact
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, lies, table
from studies.plots import Plot, line

PROMPTS, ANSWERS, WIDTH, BETA, RATE = 4, 10, 32, 0.1, 1e-3
STATIONS = (1, 10, 30, 100, 200, 400, 800)
ON, OFF = 0.3, 0.01  # of the reference, on answers that it would write itself and on others
SCENARIOS = {"on-on": (ON, ON), "on-off": (ON, OFF), "off-on": (OFF, ON), "off-off": (OFF, OFF)}

TEXT = r"""
The toy of "3D-properties" (arXiv 2406.07327), as far as it is described: a perceptron of three layers sees one of 4
prompts and gives 10 answers their probabilities: four are chosen, one for each prompt, four are rejected, and two are
in no pair at all. In four scenarios the reference, which the perceptron has learnt, gives 0.3 to an answer that it
would write itself ("on") and 0.01 to another ("off"), the chosen one named first. DPO trains it by Adam at 0.001 with a
beta of 0.1 for 800 steps.

First the paper's identity: by the probabilities themselves the loss has gradients in the ratio of $\pi^+$ to $\pi^-$,
so that the rejected answer is pushed the harder, the less is left of it. Then three properties: the rejected answer
falls drastically (it halves before the chosen one has moved by a factor of two), learning turns into suppression (the
chosen one rises by 5 % or more and falls by as much from its peak), and probability disperses to unseen answers (they
have more in the end than at the start), in a scenario's mean over prompts.
"""


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """The events of each scenario, the probabilities at stations (`chosen 100@on-on`), and the identity's error."""
    found: dict[str, float] = {"identity": _identity(seed)}
    for name, (chosen, rejected) in SCENARIOS.items():
        track = _track(seed, chosen, rejected, 40 if quick else STATIONS[-1])
        for column, what in enumerate(("chosen", "rejected", "unseen")):
            found |= {f"{what} {at}@{name}": float(track[min(at, len(track) - 1), column]) for at in (0, *STATIONS)}
        peak, up, down = track[:, 0].max(), track[:, 0], track[:, 1]
        halved = _first(down < down[0] / 2)
        found[f"drops@{name}"] = float(halved < _first((up / up[0]).log().abs() > log(2)))
        found[f"suppressed@{name}"] = float(peak > 1.05 * up[0] and up[-1] < 0.95 * peak)
        found[f"disperses@{name}"] = float(track[-1, 2] > track[0, 2])
        found[f"spread@{name}"] = float(track[-1, 2] - track[0, 2])
    return found | {"off_more": found["spread@off-off"] - found["spread@on-on"]}


def _identity(seed: int) -> float:
    """How far the ratio of the gradients by the probabilities is from that of the probabilities, relatively."""
    chances = torch.rand(2, dtype=torch.double, generator=exact.generator(seed)).requires_grad_(True)
    by_chosen, by_rejected = torch.autograd.grad(dpo_loss(*chances.log(), beta=BETA), chances)[0].abs()
    ratio = (by_rejected / by_chosen) / (chances[0] / chances[1])
    return float(exact.error(ratio.detach(), torch.ones(())))


def _track(seed: int, chosen: float, rejected: float, steps: int) -> Tensor:
    """(steps + 1, 3) the mean probabilities of the chosen, the rejected and both unseen answers."""
    two = torch.arange(PROMPTS)[:, None] + torch.tensor([0, PROMPTS])
    rest = torch.softmax(exact.normal(exact.generator(seed), PROMPTS, ANSWERS).scatter(1, two, -torch.inf), -1)
    wanted = (1 - chosen - rejected) * rest
    wanted = wanted.scatter(1, two, torch.tensor([[chosen, rejected]], dtype=torch.double).expand(PROMPTS, 2))
    policy = exact.network(seed, PROMPTS, WIDTH, WIDTH, ANSWERS)
    prompts, track = torch.eye(PROMPTS, dtype=torch.double), []

    def logps() -> Tensor:
        return torch.log_softmax(policy(prompts), -1)

    exact.descend(policy, lambda: -(wanted * logps()).sum(-1).mean(), 500, 0.01)
    ref = logps().detach()

    def loss() -> Tensor:
        now = logps()
        chances = now.detach().exp()
        unseen = chances[:, 2 * PROMPTS :].sum(1, keepdim=True)
        track.append(torch.cat([chances.gather(1, two), unseen], 1).mean(0))
        return dpo_loss(*(now - ref).gather(1, two).T, beta=BETA).mean()

    exact.descend(policy, loss, steps + 1, RATE)
    return torch.stack(track)


def _first(when: Tensor) -> int:
    """The number of the first that is so, or one behind all."""
    return int(when.int().argmax()) if bool(when.any()) else len(when)


CASES = {name: Case({}, f"@{name}") for name in SCENARIOS}
PAPER, HALF = "3D-properties, arXiv 2406.07327", "in more than half of the seeds, by the whole interval"
CLAIMS = [
    Claim(
        "The gradients by the rejected and by the chosen answer's probability are as pi+ is to pi-.",
        PAPER,
        "the ratios differ by less than 1e-6, by the whole interval",
        lies({"all scenarios": Case({})}, "identity", -1.0, 1e-6),
    ),
    Claim(
        "Under DPO the rejected answer's probability drops drastically, before anything else happens.",
        PAPER,
        f"it halves before the chosen one's has doubled or halved, {HALF}",
        lies(CASES, "drops", 0.5),
    ),
    Claim(
        "DPO degrades into suppression: the chosen answer rises, and then falls.",
        PAPER,
        f"it rises by 5 % and falls by 5 % from its peak, {HALF}",
        lies(CASES, "suppressed", 0.5),
    ),
    Claim("Probability disperses to unseen answers.", PAPER, f"they have more, {HALF}", lies(CASES, "disperses", 0.5)),
    Claim(
        "It is worse where the pairs are not the policy's own answers.",
        PAPER,
        "unseen answers gain more in the scenario off-off than in on-on, by the whole interval",
        lies({"off-off less on-on": Case({})}, "off_more", 0.0),
    ),
]
ROWS = {f"{what} {at}": f"{what}, step {at}" for what in ("chosen", "rejected", "unseen") for at in (0, *STATIONS)}


def tables(results: Results) -> list[Table]:
    """The probabilities along the way."""
    return [table(results, "Mean probabilities", ROWS, {label: {"": case} for label, case in CASES.items()})]


def plots(results: Results) -> list[Plot]:
    """The same, for pairs of own answers and of others."""
    lines = []
    for name in ("on-on", "off-off"):
        for what in ("chosen", "rejected", "unseen"):
            lines.append(line(f"{what}, {name}", {at: CASES[name].mean(results, f"{what} {at}") for at in STATIONS}))
    return [Plot("way", "Where probability goes", "steps", "mean probability", lines, True)]


READING = """
The rejected answer falls first where the reference gave the chosen one much. Unseen answers gain for some ten steps
where a frequent answer is rejected (0.16 to 0.20), and lose it all afterwards; nothing turns into suppression within
800 steps.
"""
STUDY = Study(
    *("s07", "Chosen, rejected, unseen", TEXT, 1, [{}], 10, run, CLAIMS, tables, plots, [{}], READING),
    setup="a perceptron of three layers, 4 prompts, 10 answers, 800 steps of DPO in four scenarios",
)

if __name__ == "__main__":
    main(STUDY)
