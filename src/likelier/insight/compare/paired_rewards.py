"""Which of two runs' own answers earn more, on the held-out prompts that both were asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from likelier.insight.compare.paired import sign_test
from likelier.insight.compare.subjects import Subject
from likelier.insight.rewards import Gain, gain_of
from likelier.runs.reader import Run


@dataclass(frozen=True)
class PairedReward:
    """By how much the answers of one subject earn more than another's, on the prompts that both have, with its interval
    over prompts; `better` and `worse` count prompts, `p` is the two-sided sign test on them.
    """

    name: str
    against: str
    gain: Gain
    better: int
    worse: int
    p: float

    def words(self) -> str:
        """In a sentence."""
        said = "more" if self.gain.is_above else "less" if self.gain.is_below else "no clear difference"
        counts = f"better on {self.better}, worse on {self.worse}, p = {self.p:.2g}"
        return f"{self.name} against {self.against}: {self.gain}, {counts}: {said}."

    def as_json(self) -> dict[str, object]:
        """Every number."""
        gain = {"difference": self.gain.value, "low": self.gain.low, "high": self.gain.high}
        counts = {"prompts": self.gain.prompts, "better": self.better, "worse": self.worse, "p": self.p}
        return {"name": self.name, "against": self.against, **gain, **counts}


def judge_of(run: Run) -> str:
    """What the held-out rewards of a run that writes its own answers were given by; empty for any other run."""
    if not run.card.facts.writes_answers:
        return ""
    other, online = run.card.block("options").get("eval_reward"), run.card.block("online")
    specs = other or [online.get(name) for name in ("reward", "reward_weights") if online.get(name)]
    return specs if isinstance(specs, str) else json.dumps(specs)


def rewards_of(run: Run) -> dict[str, float]:
    """The reward of one answer to each held-out prompt at the end, by the prompt's hash; of a prompt that was asked
    twice none, as nobody could tell which is which.
    """
    detail = run.detail("end")
    named = list(zip(detail.prompts, detail.rewards, strict=False))
    counts = dict[str, int]()
    for prompt, _ in named:
        counts[prompt] = counts.get(prompt, 0) + 1
    return {prompt: reward for prompt, reward in named if reward is not None and counts[prompt] == 1}


def compare_rewards(subjects: Sequence[Subject], against: Subject) -> list[PairedReward]:
    """Each other subject against one, where the same judge gave both rewards to answers to the same prompts. The reward
    of a setting with several runs is the mean of theirs.
    """
    base = _mean_rewards(against)
    found = []
    for subject in subjects:
        if subject is against or len({judge_of(run) for run in (*subject.runs, *against.runs)}) > 1:
            continue
        own = _mean_rewards(subject)
        common = [prompt for prompt in base if prompt in own]
        gain = gain_of([base[prompt] for prompt in common], [own[prompt] for prompt in common])
        if gain is not None:
            changes = [own[prompt] - base[prompt] for prompt in common]
            better, worse = sum(one > 1e-12 for one in changes), sum(one < -1e-12 for one in changes)
            found.append(PairedReward(subject.name, against.name, gain, better, worse, sign_test(better, worse)))
    return found


def _mean_rewards(subject: Subject) -> Mapping[str, float]:
    known = [rewards_of(run) for run in subject.runs]
    common = [prompt for prompt in known[0] if all(prompt in one for one in known)]
    return {prompt: sum(one[prompt] for one in known) / len(known) for prompt in common}
