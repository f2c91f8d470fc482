"""S18C: what raises the ceiling of the demo model. `python -m studies.s18c [--quick]`: hours without `--quick`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from studies import sayings
from studies.demo_runs import ROOT, Task
from studies.harness import Claim, Found, Results, Setting, Study, Table, main
from studies.judging import Case, compared, lies, table
from studies.plots import Plot, line

SEEDS = 7000  # those of the study; none of them was looked at while it was made
NAMES = {
    "start": "the model as it is",
    "best_of_n": "the best of its 8 answers, by the verifier",
    "dpo": "DPO",
    "ipo": "IPO",
    "kto": "KTO",
    "simpo": "SimPO",
    "online_dpo": "online DPO, verifier",
    "grpo": "GRPO, verifier",
    "grpo_model": "GRPO, reward model",
    "ppo_model": "PPO, reward model",
}
OFFLINE = ("dpo", "ipo", "kto", "simpo")
STEPS = 16  # of 16 pairs, or rollouts of 32 answers
RATE = 3e-4  # of Adam, held
TEXT = """
The question of S18 on a model that people could use: SmolLM2-135M-Instruct with LoRA, which is asked 72 questions and
shall answer each in one sentence of at most twelve words, as
[examples/one_sentence.py](../../examples/one_sentence.py) checks. DPO, IPO, KTO, SimPO and a reward model learn from
256 pairs of the model's own 8 answers to each question (576), the one that the verifier gives more first. GRPO and PPO
optimize that reward model, with as many answers written (512) and at the same price of the divergence; GRPO and online
DPO ask the verifier itself, as often. All have the same rate. That is little training, which a laptop does in minutes
for each method: far enough to tell them apart, and not to where each of them would end. Judged are 8 answers to each of
24 held-out questions: the share that keeps the whole rule, and the divergence from the model as it was, by the
log-ratios of these answers.
"""


def stage(name: str, task: Task, seed: int, steps: int) -> dict[str, Any]:
    """What a method's run is asked for."""
    write: dict[str, Any] = {"data": task.asked, "max_new_tokens": task.max_new_tokens, "scheduler": "constant"}
    grpo = {"method": "grpo", "batch_size": 4, "answers_per_prompt": 8, "max_steps": steps, "kl_coefficient": 0.02}
    ppo = {"method": "ppo", "batch_size": 8, "answers_per_prompt": 4, "kl_coefficient": 0.02, "updates_per_rollout": 2}
    ppo |= {"max_steps": 2 * steps, "learning_rate": RATE, "critic_learning_rate": 1e-3}
    if name in (*OFFLINE, "reward"):
        learn = {"data": task.pairs(seed), "batch_size": 16, "max_steps": steps, "learning_rate": RATE}
        return {"method": name, **learn, "scheduler": "constant"}
    if name == "online_dpo":
        online = {"method": "online_dpo", "beta": 0.1, "batch_size": 4, "answers_per_prompt": 8, "max_steps": steps}
        return {**write, **online, "reward": task.reward, "learning_rate": RATE}
    if name == "grpo":
        return {**write, **grpo, "reward": task.reward, "learning_rate": RATE}
    judge = task.trained("reward", seed, stage("reward", task, seed, steps))
    return {**write, **(grpo | {"learning_rate": RATE} if name == "grpo_model" else ppo), "reward": f"model:{judge}"}


def run(setting: Setting, seed: int, quick: bool) -> Found:
    """What a method's answers to held-out questions are worth, and how far it went."""
    name, seed = setting["method"], SEEDS + seed
    with tempfile.TemporaryDirectory() as scratch:
        task = Task.tiny(Path(scratch)) if quick else Task.demo(ROOT / "runs" / "studies" / "s18c")
        if name in ("start", "best_of_n"):
            found = task.measured(task.model, seed, best=name == "best_of_n")
        else:
            found = task.measured(task.trained(name, seed, stage(name, task, seed, 3 if quick else STEPS)), seed)
    return {f"{name} {measure}": value for measure, value in found.items()}


ALL = {"held-out questions": Case({}, " success")}
RULES = {
    sayings.VERIFIER: ("grpo", "dpo"),
    ("What the verifier knows and the reward model does not is worth something.", sayings.OURS): ("grpo", "grpo_model"),
    sayings.RL_BEYOND_DPO: ("grpo_model", "dpo"),
    sayings.PPO_BEYOND_DPO: ("ppo_model", "dpo"),
    sayings.PPO_BEYOND_GRPO: ("ppo_model", "grpo_model"),
    sayings.ASKED_OF_OWN: ("online_dpo", "dpo"),
    sayings.BEYOND_THE_START: ("grpo", "best_of_n"),
}
CLAIMS = [
    *(
        Claim(
            *said,
            f"{NAMES[one]}: a higher success than {NAMES[two]}, by the whole interval",
            compared(ALL, one, two, 0),
        )
        for said, (one, two) in RULES.items()
    ),
    *(
        Claim(
            *saying,
            "the success differs by less than 0.1, by the whole interval",
            compared(ALL, name, "dpo", -0.1, 0.1),
        )
        for name, saying in sayings.AS_MUCH.items()
    ),
    Claim(
        "A verifier is enough to keep a rule that the model hardly keeps.",
        sayings.OURS,
        "GRPO's success is above 0.5, by the whole interval",
        lies(ALL, "grpo", 0.5),
    ),
]


def tables(results: Results) -> list[Table]:
    """Success and divergence of every method."""
    columns = {"success": {"": Case({}, " success")}, "KL, nats an answer": {"": Case({}, " kl")}}
    return [table(results, "Held-out questions", NAMES, columns)]


def plots(results: Results) -> list[Plot]:
    """Success against the divergence: a point for each method."""
    lines = []
    for name, words in NAMES.items():
        kl, success = (Case({}, f" {measure}").mean(results, name) for measure in ("kl", "success"))
        if kl is not None:
            lines.append(line(words, {kl.value: success}))
    return [Plot("success", "Success on held-out questions", "KL, nats an answer", "share that keeps the rule", lines)]


TITLE = "What raises the ceiling of the demo model"
READING = """
So short a training takes each method a way of its own: IPO ends at less than a nat an answer, KTO and SimPO at half or
two thirds of DPO's divergence. At this rate they make less of the pairs in 16 steps; what they would make of them at
the same distance is not asked here. The rule is one that a reward model of the same base learns from 256 pairs as well
as the verifier knows it: GRPO by either ends at the same success, 0.09 above DPO, and PPO between. Three seeds tell
that difference from none for the reward model and just not for the verifier. DPO, offline and online, GRPO and PPO are
far beyond the best of 8 answers of the start; KTO and IPO are not.
"""
SETTINGS = [{"method": name} for name in NAMES]
QUICK = [{"method": name} for name in ("start", "dpo", "grpo_model", "ppo_model", "online_dpo")]
STUDY = Study(
    *("s18c", TITLE, TEXT, 1, SETTINGS, 3, run, CLAIMS, tables, plots, QUICK, READING),
    setup="SmolLM2-135M-Instruct with LoRA, whose answers shall keep a rule of four parts",
)

if __name__ == "__main__":
    main(STUDY)
