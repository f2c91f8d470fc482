"""Answers that a policy gives to prompts, written to a file: what `likelier sample` does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch

from likelier.data.load import Source
from likelier.data.options import ChatOptions
from likelier.data.prompts import (
    Prompt,
    PromptTruncation,
    TokenizedPrompts,
    check_prompt_options,
    load_prompts,
    prepare_prompts,
)
from likelier.data.records import spoken_key
from likelier.models.adapter_parts import has_adapter
from likelier.models.loading import check_name
from likelier.models.options import Dtype
from likelier.models.policy import Policy, load_policy
from likelier.objectives.advantages import combine_rewards
from likelier.online.answers.file import AnswerFile
from likelier.online.answers.pairs import PairsFrom, check_pairing, make_pairs
from likelier.online.answers.rows import Made, answered, row_of, with_rewards
from likelier.online.rewards.load import RewardSet, load_rewards
from likelier.online.sampling import Sampled, Sampler, Sampling, VllmSampler, VllmServer, sampler_for
from likelier.online.sampling.proof import prove
from likelier.online.sampling.vllm import most_tokens
from likelier.scoring.reference import ReferenceScoring
from likelier.scoring.reference.identity import weights_hash
from likelier.scoring.restore import card_of, final_model, recorded_chat
from likelier.utils.console import say
from likelier.utils.errors import ConfigError
from likelier.utils.files import local
from likelier.utils.outputs import check_output, check_writable
from likelier.utils.terminal import counting

_AT_ONCE = 64  # answers between two additions to the file
_FAR = 2**31 - 1


@dataclass(frozen=True)
class Pairing:
    """Which pairs are made of the answers, and where they go (see `make_pairs`)."""

    pairs: PairsFrom | None = None
    output: str | None = None
    threshold: float | None = None
    keep_cut: bool = False


@dataclass(frozen=True)
class Asking:
    """What is asked, and how prompts become tokens; `chat` are options that take the place of a run's own."""

    data: Source
    columns: Any = None
    max_prompt_length: int | None = None
    truncation: PromptTruncation = "drop"
    chat: Mapping[str, Any] = field(default_factory=dict)


def sample_file(
    model: str,
    asking: Asking,
    output: str,
    *,
    answers: int,
    sampling: Sampling,
    rewards: Sequence[str] = (),
    reward_weights: Sequence[float] | None = None,
    reward_timeout: float | None = None,
    pairing: Pairing | None = None,
    dtype: Dtype = "auto",
    overwrite: bool = False,
    server: VllmServer | None = None,
) -> str:
    """Write `answers` answers of the policy `model` to each prompt to `output`, with their rewards where some are
    named, and go on where an interrupted call ended; returns a summary.

    With a `server` it writes them, which is first held to the model. Raises `LikelierError`: the file is there and was
    made otherwise, or what `load_policy`, `load_prompts`, `load_rewards` and `Paired.write` raise.
    """
    pairing = pairing or Pairing()
    _check(answers, sampling, rewards, reward_weights, reward_timeout, pairing)
    model = final_model(model)
    check_name(model)
    inputs = [str(one) for one in asking.data] if isinstance(asking.data, list) else [str(asking.data)]
    file = AnswerFile(output, inputs=inputs, overwrite=overwrite)
    check_writable(output, mend="name another --output")
    if pairing.output is not None:
        check_output(pairing.output, inputs=[*inputs, output], overwrite=overwrite)
        check_writable(pairing.output, mend="name another --pairs-output")
    prompts = load_prompts(asking.data, columns=asking.columns)
    judges = load_rewards(rewards, reward_weights, timeout=reward_timeout) if rewards else None
    try:
        if judges is not None:
            judges.require({name for prompt in prompts.train for name in prompt.columns})
        policy = sampling_policy(model, prompts.train, asking.chat, dtype)
        limits: dict[str, Any] = {"max_prompt_length": asking.max_prompt_length, "truncation": asking.truncation}
        asked = prompts_with_room(policy, prompts.train, sampling, **limits, server=server)
        write_answers(policy, asked, file, answers=answers, sampling=sampling, judges=judges, server=server)
        summary = summary_of(file, sampling)
    finally:
        if judges is not None:
            judges.close()
    if pairing.pairs is None:
        return summary
    paired = make_pairs(file.rows(), pairing.pairs, threshold=pairing.threshold, keep_cut=pairing.keep_cut)
    return f"{summary}\n{paired.write(local(pairing.output or ''))}"


def write_answers(
    policy: Policy,
    asked: TokenizedPrompts,
    file: AnswerFile,
    *,
    answers: int,
    sampling: Sampling,
    judges: RewardSet | None = None,
    server: VllmServer | None = None,
) -> Made:
    """Write the answers of `policy` to each prompt that are not in `file` yet, with what `judges` say of them.

    Returns how they were made. Raises `ConfigError` where those that are there were made otherwise.
    """
    made = _made(policy, asked, answers, sampling, judges, "local" if server is None else "vllm")
    file.require(made)
    with closing(file), closing(_sampler(policy, sampling, server, file)) as sampler:
        if isinstance(sampler, VllmSampler):
            prove(sampler, asked.ids[0])
        _Writing(sampler, policy, asked, answers, judges, made, file).run()
    return made


def _check(
    answers: int,
    sampling: Sampling,
    rewards: Sequence[str],
    weights: Sequence[float] | None,
    timeout: float | None,
    pairing: Pairing,
) -> None:
    if sampling.temperature == 0 and answers > 1:
        raise ConfigError(f"answers={answers} at temperature 0 would all be the same; give --answers 1")
    for name, value in (("reward_weights", weights), ("reward_timeout", timeout)):
        if value is not None and not rewards:
            raise ConfigError(f"{name} has no effect without a reward; give --reward, or drop it")
    check_pairing(pairing.pairs, pairing.threshold, pairing.output, rewarded=bool(rewards))
    if pairing.keep_cut and pairing.pairs is None:
        raise ConfigError("keep_cut has no effect without pairs; give --pairs, or drop it")
    if pairing.pairs is not None and answers < 2:
        raise ConfigError(f"pairs are of two answers to one prompt, and answers={answers}; raise --answers")


def sampling_policy(model: str, prompts: Sequence[Prompt], chat: Mapping[str, Any], dtype: Dtype = "auto") -> Policy:
    """Load what answers `prompts`, with the scorer that its answers are drawn by. `chat` are options that take the
    place of a run's own; one without effect on these prompts is refused.
    """
    check_prompt_options(prompts, ChatOptions(**chat))
    options = replace(recorded_chat(card_of(model)), **chat)
    talks = any(isinstance(prompt.prompt, tuple) for prompt in prompts)
    policy = load_policy(model, dtype=dtype, chat=options if talks or chat else None)
    ReferenceScoring.here(policy)
    say(f"policy: {policy.words}")
    return policy


def _sampler(policy: Policy, sampling: Sampling, server: VllmServer | None, file: AnswerFile) -> Sampler:
    """What writes; a server finds the adapter beside the answers."""
    return sampler_for(policy, sampling, server, file.path.parent / f".{file.path.name}.sampler")


def prompts_with_room(
    policy: Policy,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    max_prompt_length: int | None = None,
    truncation: PromptTruncation = "drop",
    server: VllmServer | None = None,
) -> TokenizedPrompts:
    """The prompts that leave room for an answer. Raises what `prepare_prompts` does."""
    context = most_tokens(policy, server)
    room = (context or _FAR) - sampling.max_new_tokens
    if room < 1:
        raise ConfigError(
            f"max_new_tokens={sampling.max_new_tokens} leaves no room for a prompt in the model's context of "
            f"{context} tokens; lower it"
        )
    limit = max_prompt_length or room
    if limit > room:
        raise ConfigError(
            f"max_prompt_length={limit} and max_new_tokens={sampling.max_new_tokens} are more than the model's context "
            f"of {context} tokens; lower one of them"
        )
    settings: dict[str, Any] = {"max_prompt_length": limit, "truncation": truncation}
    return prepare_prompts(prompts, policy.tokenizer, chat=policy.chat, checks_options=False, **settings)


def _made(
    policy: Policy, asked: TokenizedPrompts, answers: int, sampling: Sampling, judges: RewardSet | None, sampler: str
) -> Made:
    weights = weights_hash(policy.model, adapter=has_adapter(policy.model))
    pairs = [] if judges is None else zip(judges.rewards, judges.weights, strict=True)
    rewards = {reward.name: {"reward": reward.spec, "weight": weight} for reward, weight in pairs}
    return Made(policy.name, weights, policy.precision, sampler, asked.hash, answers, sampling, rewards)


@dataclass
class _Writing:
    """Answers on their way into the file."""

    sampler: Sampler
    policy: Policy
    asked: TokenizedPrompts
    answers: int
    judges: RewardSet | None
    made: Made
    file: AnswerFile
    tokens: int = 0

    def run(self) -> None:
        """Write what is not there yet. Prompts are answered in the same batches whatever is there, so that what a call
        goes on with is what an uninterrupted one writes, to the last bit.
        """
        numbers, size = range(1, len(self.asked.prompts) + 1), max(1, _AT_ONCE // self.answers)
        open_ones = [batch for start in range(0, len(numbers), size) if self._is_open(batch := numbers[start:][:size])]
        total = len(numbers) * self.answers
        if self.file.there:
            say(f"{self.file.output}: {len(self.file.there)} of {total} answers are there already")
        if not open_ones:
            return
        self.file.open()
        begun = time.monotonic()

        def speed() -> str:
            return f"sampling ({self.tokens / max(time.monotonic() - begun, 1e-3):,.0f} tokens a second), in answers"

        with counting(speed, sum(map(len, open_ones)) * self.answers) as report:

            def drawn(whole: int, tokens: int) -> None:
                self.tokens += tokens
                report(whole)

            for batch in open_ones:
                self._write(batch, drawn)
        took = time.monotonic() - begun
        say(f"sampled: {self.tokens:,} tokens in {took:.0f} s, {self.tokens / max(took, 1e-3):,.0f} a second")

    def _is_open(self, numbers: Sequence[int]) -> bool:
        """Whether an answer to one of these prompts is missing."""
        both = product(numbers, range(1, self.answers + 1))
        return any(one not in self.file.there for one in both)

    def _write(self, numbers: Sequence[int], report: Any) -> None:
        prompts = [self.asked.prompts[number - 1] for number in numbers]
        ids = [self.asked.ids[number - 1] for number in numbers]
        keys = [f"{spoken_key(prompt.prompt)}\0{prompt.tools}" for prompt in prompts]
        drawn = self.sampler.sample(ids, self.answers, keys, report)
        made = self.made.as_json()
        rows: list[dict[str, Any]] = []
        for number, prompt, sampled in zip(numbers, prompts, drawn, strict=True):
            rows += self._rows(prompt, number, sampled, made)
        self.file.add([row for row in rows if (row["prompt_number"], row["answer_number"]) not in self.file.there])

    def _rows(
        self, prompt: Prompt, number: int, sampled: Sequence[Sampled], made: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The answers to one prompt, with their rewards."""
        given = answered(prompt, sampled, self.policy.tokenizer)
        rows = [row_of(prompt, number, answer, one, made) for answer, one in zip(given, sampled, strict=True)]
        if self.judges is None:
            return rows
        parts = self.judges(given)
        weights = torch.tensor(self.judges.weights, dtype=parts.dtype)
        total = combine_rewards(parts, weights, torch.zeros(len(given), dtype=torch.long), how="sum")
        names, spread = self.judges.names, self.judges.spread(parts)
        apart = [None] * len(rows) if spread is None else spread.tolist()
        told = zip(rows, parts.tolist(), total.tolist(), apart, strict=True)
        return [with_rewards(row, names, own, reward, far) for row, own, reward, far in told]


def summary_of(file: AnswerFile, sampling: Sampling) -> str:
    """What is in the file, in words."""
    kept = ("tokens", "stop_reason", "reward", "rewards", "reward_spread")
    rows: list[dict[str, Any]] = [{name: row.get(name) for name in kept} for row in file.rows()]
    cut = sum(row["stop_reason"] == "length" for row in rows)
    mean = sum(row["tokens"] for row in rows) / len(rows)
    words = [f"{len(rows)} answers of {mean:.1f} tokens on average in {file.output}"]
    if cut:
        words.append(f"{cut} ({cut / len(rows):.0%}) were cut at {sampling.max_new_tokens} tokens")
    by_name: dict[str, list[float | None]] = {}
    for row in rows:
        for name, value in {**(row["rewards"] or {}), "reward": row["reward"]}.items() if row["rewards"] else ():
            by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        known = [value for value in values if value is not None]
        without = f", {len(values) - len(known)} without a verdict" if len(known) < len(values) else ""
        mean_words = f"{sum(known) / len(known):.4g} on average" if known else "never a verdict"
        words.append(f"{'reward in all' if name == 'reward' else f'reward {name}'}: {mean_words}{without}")
    apart = [row["reward_spread"] for row in rows if row["reward_spread"] is not None]
    if apart:
        words.append(f"reward models: {sum(apart) / len(apart):.4g} apart on average, the deviation of their scores")
    return "\n".join(words)
