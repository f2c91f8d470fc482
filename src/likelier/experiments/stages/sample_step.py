"""A step that samples: the policy as it stands answers prompts, rewards judge, pairs are made for a stage to come.

Its folder holds `answers.jsonl` and `pairs.jsonl`, with held-out prompts `held-out.jsonl`, and `sample.json`, the
account: who wrote them, what they earned, what gave no pair, and a hash of each file.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from likelier.data.options import ChatOptions
from likelier.data.prompts import Prompt, TokenizedPrompts, load_prompts
from likelier.experiments.stages.options import SampleOptions
from likelier.models.options import Dtype
from likelier.models.policy import Policy
from likelier.online.answers.file import AnswerFile
from likelier.online.answers.pairs import make_pairs
from likelier.online.answers.sample import prompts_with_room, sampling_policy, summary_of, write_answers
from likelier.online.evaluation import earned
from likelier.online.rewards.load import RewardSet, load_rewards
from likelier.online.sampling import Sampling, server_of
from likelier.online.sampling.protocol import seed_of
from likelier.runs.shapes import ANYTHING, TEXT, Every, Shape, read_checked
from likelier.runs.written import account_of, what_changed
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, RunFolderError, writing
from likelier.utils.files import refuse_links_below, write_whole
from likelier.utils.redaction import without_secrets

ANSWERS, PAIRS, HELD_OUT, ACCOUNT = "answers.jsonl", "pairs.jsonl", "held-out.jsonl", "sample.json"
_SEEDS = 2**32
_SHAPE: Shape = {"status!": TEXT, "options!": Every(ANYTHING), "files": Every(ANYTHING), "evaluation": Every(ANYTHING)}


@dataclass(frozen=True)
class SampleStage:
    """A sample of the answers of `model` in the folder `output`. `round` counts from 1 where the step is repeated;
    `only_held_out`: it answers what is held out and nothing else, after all rounds.
    """

    name: str
    folder: str
    output: str
    model: str
    options: SampleOptions
    chat: ChatOptions = field(default_factory=ChatOptions)
    dtype: Dtype = "auto"
    round: int | None = None
    only_held_out: bool = False

    method = "sample"

    @property
    def begins_with(self) -> str:
        """The model that answers."""
        return self.model

    @property
    def pairs_file(self) -> str:
        """What a later stage learns from."""
        return str(Path(self.output) / PAIRS)

    def as_json(self) -> dict[str, Any]:
        """Everything that was given, as JSON holds it, without secrets."""
        own = asdict(self.options) | asdict(self.chat) | {"model": self.model, "dtype": self.dtype}
        kept = {name: value for name, value in own.items() if value is not None}
        return json.loads(json.dumps(without_secrets(kept), default=str))

    def account(self) -> dict[str, Any]:
        """What its `sample.json` says; nothing before it begins. Raises `RunFolderError` if that cannot be read."""
        file = Path(self.output) / ACCOUNT
        refuse_links_below(file.parent)
        return read_checked(file, _SHAPE) if file.exists() else {}

    @property
    def is_finished(self) -> bool:
        """Whether its pairs, and what it holds out, are whole."""
        return self.account().get("status") == "done"

    def require_as_it_was(self) -> None:
        """Raises `RunFolderError` where it began with other options than these, or a file is not what it wrote."""
        known = self.account()
        if not known:
            return
        now, was = self.as_json(), known["options"]
        others = [name for name in sorted({*now, *was}) if was.get(name) != now.get(name)]
        if others:
            raise RunFolderError(
                f"{self.output} was sampled with other options than these: {', '.join(others)}. Give the same ones, or "
                "another output"
            )
        folder = Path(self.output)
        files = {name: account_of(folder / name) for name in known.get("files") or () if (folder / name).is_file()}
        if changed := what_changed(known.get("files") or {}, files):
            raise RunFolderError(f"{self.output}: {changed}; what was learnt from it cannot be told any more")


def sample_stage(stage: SampleStage) -> None:
    """Do the step, or what is left of it. Raises `LikelierError`: a file, a reward or the model cannot be read, or the
    answers give no pair.
    """
    own = stage.options
    held: dict[str, Any] = {"eval_data": own.eval_data, "eval_fraction": own.eval_fraction}
    prompts = load_prompts(own.sample, **held, seed=own.seed, columns=own.columns)
    taken = [] if stage.only_held_out else of_round(prompts.train, own.prompts_per_round, stage.round or 1, own.seed)
    everything = [*taken, *prompts.test]
    with ExitStack() as opened:
        judges = opened.enter_context(closing(load_rewards(own.reward, own.reward_weights, timeout=own.reward_timeout)))
        judge = judges
        if own.eval_reward is not None:
            judge = opened.enter_context(closing(load_rewards([own.eval_reward])))
        for one in (judges, judge):
            one.require({name for prompt in everything for name in prompt.columns})
        chat = {name: getattr(stage.chat, name) for name in stage.chat.given}
        policy = sampling_policy(stage.model, everything, chat, stage.dtype)
        seed = seed_of(own.seed, f"{stage.name}, round {stage.round or 1}") % _SEEDS
        sides = [
            _Side(stage, ANSWERS, own.answers_per_prompt, own.sampling(seed), judges, taken),
            _Side(stage, HELD_OUT, 1, own.sampling(seed_of(own.seed, "held out") % _SEEDS), judge, prompts.test),
        ]
        _answer(stage, policy, [side for side in sides if side.prompts])


@dataclass(frozen=True)
class _Side:
    """Prompts to learn from, or held-out ones, and the file that their answers go into."""

    stage: SampleStage
    name: str
    answers: int
    sampling: Sampling
    judges: RewardSet
    prompts: Sequence[Prompt]

    @cached_property
    def file(self) -> AnswerFile:
        """Their answers."""
        return AnswerFile(str(Path(self.stage.output) / self.name), mend=f"delete {self.stage.output} to begin it anew")

    def asked(self, policy: Policy) -> TokenizedPrompts:
        """The prompts as tokens."""
        own = self.stage.options
        how: dict[str, Any] = {"max_prompt_length": own.max_prompt_length, "truncation": own.prompt_truncation}
        server = server_of(own.sampler, own.sampler_url, own.sampler_timeout)
        return prompts_with_room(policy, self.prompts, self.sampling, **how, server=server)

    def answer(self, policy: Policy, asked: TokenizedPrompts) -> tuple[str, dict[str, float]]:
        """Have them answered; returns the hash of the weights that did, and what the answers earn."""
        own = self.stage.options
        server = server_of(own.sampler, own.sampler_url, own.sampler_timeout)
        how: dict[str, Any] = {"answers": self.answers, "sampling": self.sampling, "judges": self.judges}
        made = write_answers(policy, asked, self.file, **how, server=server)
        say(summary_of(self.file, self.sampling))
        rows = [{name: row[name] for name in ("reward", "tokens")} for row in self.file.rows()]
        given = [row["reward"] for row in rows if row["reward"] is not None]
        found = earned(torch.tensor(given, dtype=torch.float64)) if given else {}
        tokens = sum(row["tokens"] for row in rows)
        return made.weights, found | {"prompts": len(asked.prompts), "answers": len(rows), "tokens": tokens}


def _answer(stage: SampleStage, policy: Policy, sides: Sequence[_Side]) -> None:
    """Have all prompts answered, make the pairs, and keep the account of it."""
    asked = [side.asked(policy) for side in sides]  # what is refused leaves no folder
    account: dict[str, Any] = {"status": "sampling", "options": stage.as_json()}
    _write_account(stage, account)
    try:
        for side, prompts in zip(sides, asked, strict=True):
            account["weights"], found = side.answer(policy, prompts)
            account["evaluation" if side.name == HELD_OUT else "answers"] = found
            if side.name == ANSWERS:
                account["pairs"] = _pair(stage, side.file)
        folder = Path(stage.output)
        names = [name for name in (ANSWERS, PAIRS, HELD_OUT) if (folder / name).is_file()]
        account |= {"status": "done", "files": {name: account_of(folder / name) for name in names}}
    except BaseException as error:
        account["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        raise
    finally:
        _write_account(stage, account)


def _pair(stage: SampleStage, file: AnswerFile) -> dict[str, Any]:
    """Make the pairs; returns how many there are, and what gave none."""
    own = stage.options
    paired = make_pairs(file.rows(), own.pairs, threshold=own.threshold, keep_cut=own.keep_cut)
    say(paired.write(Path(stage.pairs_file)))
    counts = {"count": len(paired.pairs), "ties": paired.ties}
    return counts | {"prompts_without": dict(paired.without), "answers_left_out": dict(paired.left_out)}


def _write_account(stage: SampleStage, account: Mapping[str, Any]) -> None:
    content = json.dumps(without_secrets(dict(account)), indent=2, ensure_ascii=False, allow_nan=False)
    with writing(stage.output, kind=RunFolderError):
        write_whole(Path(stage.output) / ACCOUNT, f"{content}\n".encode())


def of_round(prompts: Sequence[Prompt], count: int | None, number: int, seed: int) -> list[Prompt]:
    """The prompts of round `number` (from 1): the next `count` of all in an order drawn by the seed, over and over.

    Raises `ConfigError` where there are not so many.
    """
    if count is None:
        return list(prompts)
    if count > len(prompts):
        raise ConfigError(f"prompts_per_round={count} is more than the {len(prompts)} prompts there are; lower it")
    order = list(range(len(prompts)))
    random.Random(seed).shuffle(order)
    return [prompts[order[place % len(order)]] for place in range((number - 1) * count, number * count)]
