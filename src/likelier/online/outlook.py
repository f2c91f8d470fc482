"""What a run that writes its answers will do, and how long that takes: from a forward pass and a few tokens written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from torch import nn

from likelier.data.groups import Group
from likelier.models.layers import causal_model, met_weights
from likelier.online.critic import Critic
from likelier.online.prepared import OnlineRun
from likelier.online.rollout import Asked
from likelier.online.sampling import LocalSampler, Sampler
from likelier.online.work import UNTIMED, critic_share, online_work
from likelier.training.outlook import TIMED, Clock, RunOutlook, typical_rows
from likelier.utils.terminal import busy

_FEW = 4  # tokens of each answer that are written to time one
_READ = 16  # tokens of each prompt before them, at most


class OnlineOutlook(RunOutlook):
    """Arguments as those of `RunOutlook`; `sampler` and `critic` are the run's."""

    def __init__(
        self,
        run: OnlineRun,
        sampler: Sampler,
        token_budget: int,
        device: torch.device,
        *,
        critic: Critic | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        asked, held_out = run.asked(), run.asked(held_out=True)
        each, ranks = run.objective.answers_per_prompt, run.ranks.size  # each rank writes to its share of the prompts
        at_once = ranks * (sampler.rows if isinstance(sampler, LocalSampler) else 0 if run.server is not None else each)
        work = online_work(
            [len(one.ids) for one in asked],
            [len(one.ids) for one in held_out],
            run.objective,
            run.online,
            run.options,
            at_once=at_once,
            token_budget=token_budget,
            critic=0.0
            if critic is None
            else _share_of(critic, run.policy.model, asked, each, run.online.max_new_tokens),
        )
        tokens = min(token_budget, TIMED.get(device.type, TIMED["cpu"]))
        rows = _timed(asked, run.objective.answers_learnt, run.online.max_new_tokens, tokens)
        super().__init__(run, work, rows, token_budget, device, clock)
        self._run, self._sampler = run, sampler
        self._prompts = asked[: max(1, work.together // each // ranks)]
        self._asked, self._held, self._served = len(asked), len(held_out), run.server is not None

    def _what(self, done: int | None) -> str:
        each = self._run.objective.answers_per_prompt
        told = "" if done is None else f", {done:,} of them done"
        found = (
            f"{self._work.steps:,} steps{told}; {self._asked:,} prompts, {self._options.batch_size} to a step with "
            f"{each} answers each of at most {self._run.online.max_new_tokens:,} tokens"
        )
        if not self._held:
            return f"{found}; nothing is held out, so nothing is evaluated"
        most = self._options.eval_prompts
        answered = self._held if most is None else min(self._held, most)
        every = f", every {self._interval:,} steps" if self._interval else ""
        return f"{found}; {answered:,} held-out prompts are answered before the first step{every} and at the end"

    def _words(self) -> str:
        if self._served:
            return "from one forward pass here; without what the server takes to write, and the rewards to judge"
        return f"from one forward pass and a few tokens here{UNTIMED}"

    def _measure(self, model: nn.Module) -> None:
        super()._measure(model)
        if not self._served:
            self._written = self._writing_seconds()

    def _writing_seconds(self) -> float:
        """Seconds of one token more of a batch of answers; the first one comes with the reading of the prompts."""
        with busy("timing a few tokens of answers"):
            one, few = (self._wave_seconds(tokens) for tokens in (1, 1 + _FEW))
        return max(0.0, few - one) / _FEW

    def _wave_seconds(self, tokens: int) -> float:
        sampler = self._sampler.at(replace(self._sampler.sampling, max_new_tokens=tokens))
        prompts = [one.ids[-_READ:] for one in self._prompts]
        keys = [f"timing, prompt {number}" for number in range(len(prompts))]
        begun = self._clock()
        sampler.sample(prompts, self._run.objective.answers_per_prompt, keys)
        return self._clock() - begun


def _share_of(critic: Critic, policy: nn.Module, asked: Sequence[Asked], answers: int, most: int) -> float:
    head = causal_model(policy).get_output_embeddings()
    weights = 0 if head is None else sum(weight.numel() for weight in head.parameters())
    prompt = fmean(len(one.ids) for one in asked)
    return critic_share(met_weights(critic.model), met_weights(policy), weights, prompt, answers, most)


def _timed(asked: Sequence[Asked], answers: int, most: int, tokens: int) -> list[Group]:
    """Prompts of middling length with answers as long as they may be, up to so many tokens."""
    some = asked[:: max(1, len(asked) // 64)]
    rows = np.random.default_rng(0).integers(0, 2, (answers, most)).astype(np.int32)
    return typical_rows([Group(one.ids, tuple(rows), one.prompt.source) for one in some], tokens)
