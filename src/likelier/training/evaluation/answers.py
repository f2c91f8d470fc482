"""What the policy itself writes: answers to held-out prompts, how far they are from the reference, and their defects.

KL(policy || reference) is the mean of log pi(y) - log pi_ref(y) over answers y that the policy draws: an unbiased
estimate, of the first `new_tokens` tokens where answers are longer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.models.generation import WRITE_LARGER, Decoding, Written, write_answers
from likelier.models.policy import Policy
from likelier.scoring import scorer_of
from likelier.scoring.implicit_rewards import score_answers
from likelier.scoring.reference import ReferenceScoring

_NGRAM = 4
_OPENING = 160  # characters in which a refusal shows
_UNABLE = r"(can(['’]t|not| not)|won['’]t|will not|am (unable|not able) to|['’]m (unable|not able) to)"
_DOING = "(help|assist|answer|provide|comply|do|fulfil|support|engage|create|write|discuss|give|tell)"
_REFUSALS = re.compile(
    rf"\bi(['’]m| am) ((really|very|so) )?sorry\b|\bi ?{_UNABLE} {_DOING}\b|\bas an ai( language)? model\b"
    r"|\bi must (decline|refuse)\b|抱歉|对不起|我(不能|无法)(帮助|提供|回答|协助)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Asked:
    """A held-out prompt: its token ids, its last turn in words, and where it stands in the data."""

    ids: tuple[int, ...]
    words: str
    source: Source


@dataclass(frozen=True)
class Answer:
    """What the policy wrote; `logratio` is log pi - log pi_ref of it in nats, where a reference was asked."""

    written: Written
    logratio: float | None = None
    reward: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens written, the one that ends the answer included."""
        return len(self.written.ids)

    def as_json(self) -> dict[str, Any]:
        """The answer with its figures, as `evaluations/step-N.json` holds it."""
        found: dict[str, Any] = {
            "text": self.written.text,
            "tokens": self.tokens,
            "is_whole": self.written.is_whole,
            "repetition": round(repetition(self.written.ids), 4),
            "refusal": is_refusal(self.written.text),
        }
        more = {"logratio": self.logratio, "reward": self.reward}
        return found | {name: round(value, 6) for name, value in more.items() if value is not None}


def repetition(ids: Sequence[int]) -> float:
    """The share of an answer's runs of four tokens that stood in it before; 0 where it has less than two."""
    runs = [tuple(ids[place : place + _NGRAM]) for place in range(len(ids) - _NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def is_refusal(text: str) -> bool:
    """Whether an answer opens as refusals do, in English or Chinese."""
    return bool(_REFUSALS.search(text[:_OPENING]))


def write(
    policy: Policy,
    asked: Sequence[Asked],
    *,
    new_tokens: int,
    temperature: float,
    seed: int,
    token_budget: int,
    report: Callable[[int], None] = lambda done: None,
) -> list[Written]:
    """The policy's answer to each prompt, in batches of about four times `token_budget` tokens (no activations are
    kept, and a larger batch waits for the weights less often). `report` is called with the number of tokens just
    written, `new_tokens` an answer in all: one that ended early is done when its batch is.
    """
    decoding = Decoding(new_tokens, temperature, seed)
    device = policy.model.device.type
    found: list[Written] = []
    with (
        torch.compiler.set_stance("force_eager"),  # every length would be compiled anew
        torch.autocast(device, torch.bfloat16, enabled=policy.autocast),
    ):
        for part in _batches(asked, new_tokens, WRITE_LARGER * token_budget):
            found += _write_batch(policy, part, decoding, report)
    return found


def _write_batch(
    policy: Policy, asked: Sequence[Asked], decoding: Decoding, report: Callable[[int], None]
) -> list[Written]:
    left = len(asked) * decoding.max_new_tokens

    def count(done: int) -> None:
        nonlocal left
        left -= done
        report(done)

    found = write_answers(policy.model, policy.tokenizer, [one.ids for one in asked], decoding, count)
    report(left)
    return found


def _batches(asked: Sequence[Asked], new_tokens: int, token_budget: int) -> list[list[Asked]]:
    batches: list[list[Asked]] = [[]]
    longest = 0
    for one in asked:
        longest = max(longest, len(one.ids) + new_tokens)
        if batches[-1] and longest * (len(batches[-1]) + 1) > token_budget:
            batches.append([])
            longest = len(one.ids) + new_tokens
        batches[-1].append(one)
    return [batch for batch in batches if batch]


def with_log_ratios(
    policy: Policy,
    reference: Callable[[], AbstractContextManager[nn.Module]],
    asked: Sequence[Asked],
    sets: Sequence[Sequence[Written]],
    how: ReferenceScoring,
) -> list[list[Answer]]:
    """The answers of each set, one a prompt, with their log-ratios to the reference, which `reference` yields in a
    context. All sets are scored at once, so that a prompt is read once.

    What the policy itself gives them it has said while it wrote, but for rounding: in fp32, with a scorer that was
    proved for it, that is taken. In 16 bits the rounding would be as large as small log-ratios are, and the policy
    scores its answers in the way that the reference does.
    """
    columns = list(zip(*sets, strict=True))
    groups = [
        Group(
            np.asarray(one.ids, dtype=np.int32),
            tuple(np.asarray(answer.ids, dtype=np.int32) for answer in own),
            one.source,
        )
        for one, own in zip(asked, columns, strict=True)
    ]
    logps = [[answer.logp for answer in own] for own in columns]
    if not says_while_writing(policy):
        logps = _scores(policy.model, groups, how)
    with reference() as model:
        theirs = _scores(model, groups, how)
    return [
        [Answer(answer, logps[row][place] - theirs[row][place]) for row, answer in enumerate(written)]
        for place, written in enumerate(sets)
    ]


def says_while_writing(policy: Policy) -> bool:
    """Whether what a policy gives its answers is known when they are written (see `with_log_ratios`)."""
    return policy.compute_dtype == torch.float32 and scorer_of(policy.model).name == "shared-prefix"


def _scores(model: nn.Module, groups: Sequence[Group], how: ReferenceScoring) -> list[list[float]]:
    """The sum of each answer of each group, in nats."""
    found = score_answers(model, groups, how, per_token=False)
    return [[answer.logp for answer in found[number]] for number in range(len(groups))]


def kl_metrics(answers: Sequence[Answer]) -> dict[str, float]:
    """KL(policy || reference) in nats an answer with its standard error, and in nats a token."""
    ratios = [answer.logratio for answer in answers if answer.logratio is not None]
    if not ratios:
        return {}
    found = {"kl": fmean(ratios), "kl_per_token": sum(ratios) / sum(answer.tokens for answer in answers)}
    if len(ratios) > 1:
        found["kl_standard_error"] = stdev(ratios) / sqrt(len(ratios))
    return found


def answer_metrics(answers: Sequence[Answer], at_start: Sequence[int]) -> dict[str, float]:
    """Length, repetition, refusals and cut answers; `at_start` are the lengths of the same prompts' first answers."""
    lengths = [answer.tokens for answer in answers]
    found = {
        "answer_length": fmean(lengths),
        "repetition": fmean(repetition(answer.written.ids) for answer in answers),
        "refusals": fmean(is_refusal(answer.written.text) for answer in answers),
        "cut_answers": fmean(not answer.written.is_whole for answer in answers),
    }
    if at_start:
        found["answer_length_ratio"] = sum(lengths) / sum(at_start)
    return found
