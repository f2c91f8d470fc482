"""What is found out before an online run begins: options that fit together, prompts as tokens, able rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from likelier.data.packing import StepSampler
from likelier.data.prompts import Prompt, TokenizedPrompts, prepare_prompts
from likelier.data.records import UnusableRows
from likelier.data.tokenize import default_max_length
from likelier.models.adapter_parts import has_adapter
from likelier.models.generation import end_tokens
from likelier.models.policy import Policy
from likelier.objectives.online import changed_options
from likelier.objectives.online_base import OnlineObjective
from likelier.online.options import OnlineOptions
from likelier.online.rewards.load import RewardSet
from likelier.online.roles import Role
from likelier.online.rollout import Asked
from likelier.online.sampling import VllmServer, server_of
from likelier.online.sampling.vllm import most_tokens
from likelier.online.work import evaluation_interval, online_steps
from likelier.runs.folder import OtherRanksFolder, RunFolder
from likelier.training.guards import RunGuard
from likelier.training.launcher import take_over_precision, with_launcher
from likelier.training.options import TrainingOptions, refuse_process_options
from likelier.training.prepared import ReadyRun, step_sampler, take_date
from likelier.training.reference import Named
from likelier.training.run_card import CardFacts
from likelier.training.trackers import check_trackers
from likelier.utils.console import warn
from likelier.utils.distributed import join_ranks
from likelier.utils.errors import ConfigError, ModelError
from likelier.utils.terminal import busy

# Options of every run that say what to do with answers that lie in a file.
_OF_FILES = (
    *("max_length", "truncation", "use_votes", "use_weights", "use_margins", "min_score_gap", "group_by"),
    *("reference_scores", "reference_store", "eval_items", "eval_new_tokens"),
)


@dataclass(frozen=True)
class OnlineRun(ReadyRun):
    """A run that learns from answers that it writes to `train`; `held_out` are prompts that it is evaluated on.

    `rewards` judge while it learns, `judge` judges held-out answers.
    """

    objective: OnlineObjective
    online: OnlineOptions
    train: TokenizedPrompts
    held_out: TokenizedPrompts
    rewards: RewardSet
    judge: RewardSet
    reference: Named
    unusable: UnusableRows
    server: VllmServer | None

    def asked(self, held_out: bool = False) -> list[Asked]:
        """The prompts, numbered as they stand in the data."""
        own = self.held_out if held_out else self.train
        pairs = zip(own.ids, own.prompts, strict=True)
        return [Asked(number, ids, prompt) for number, (ids, prompt) in enumerate(pairs)]

    def sampler(self) -> StepSampler:
        """Which prompts make which rollout."""
        return step_sampler([b""] * len(self.train.ids), self.options)

    def planned_steps(self) -> int:
        """Optimizer steps of the whole run: each rollout is learnt from `updates_per_rollout` times."""
        return online_steps(len(self.train.ids), self.options, self.online)

    def close(self) -> None:
        """Let go of what the rewards hold."""
        for rewards in {id(rewards): rewards for rewards in (self.rewards, self.judge)}.values():
            rewards.close()


def prepare_online_run(
    policy: Policy,
    objective: OnlineObjective,
    train: Sequence[Prompt],
    *,
    rewards: RewardSet,
    judge: RewardSet | None,
    online: OnlineOptions,
    output_dir: str | Path,
    eval_data: Sequence[Prompt],
    reference: Named,
    options: TrainingOptions,
    resume: bool,
    unusable: UnusableRows | None = None,
    card: Mapping[str, Any] | None = None,
) -> OnlineRun:
    """Check everything that can be checked without the model, and make tokens of the prompts. Arguments and errors are
    those of `OnlineTrainer`.
    """
    options = with_launcher(options)
    check_trackers(options.report_to)
    take_over_precision(policy.autocast)
    ranks = join_ranks(options.trainer.get("ddp_timeout"))
    refuse_process_options(options, ranks)
    refuse_gathering(objective, options, online)
    refuse_options_of_files(objective, options, has_reference=reference != "start", held_out=bool(eval_data))
    server = _server(policy, online)
    refuse_endless(policy, online)
    refuse_dropout(policy, objective)
    _require_columns(rewards, train, judge, eval_data)
    folder = RunFolder(output_dir) if ranks.is_first else OtherRanksFolder(output_dir)
    guard = RunGuard(folder, ranks, options.rank_timeout)
    with guard.watching():
        folder.open(resume=resume)
        take_date(policy, [*train, *eval_data], folder if resume else None, ranks)
        with busy("preparing the prompts"):
            context = most_tokens(policy, server)
            tokens = _tokenized(policy, train, online, context)
            held_out = _tokenized(policy, eval_data, online, context) if eval_data else TokenizedPrompts()
        ranks.require_same("data", tokens.hash + held_out.hash)
        run = OnlineRun(
            policy,
            objective,
            options,
            ranks,
            folder,
            guard,
            resume,
            eval_interval=None,
            card=dict(card or {}),
            online=online,
            train=tokens,
            held_out=held_out,
            rewards=rewards,
            judge=judge or rewards,
            reference=reference,
            unusable=UnusableRows([*(unusable or []), *tokens.unusable, *held_out.unusable]),
            server=server,
        )
        return _with_interval(run)


def refuse_gathering(objective: OnlineObjective, options: TrainingOptions, online: OnlineOptions) -> None:
    """Raises `ConfigError` for weights that would be gathered from all processes for every token that is written."""
    if options.shard and objective.has_critic:
        raise ConfigError("a critic beside a sharded policy is not built; drop shard, or take --method grpo")
    if options.shard and online.sampler == "local":
        raise ConfigError(
            f"shard splits the policy, and {objective.method} would gather it anew for every token that it writes: let "
            "a server write (sampler=vllm), or drop shard"
        )
    if options.shard and objective.needs_reference:
        raise ConfigError(
            f"{objective.method} asks a reference here, and one beside a sharded policy is not built; drop shard"
        )


def refuse_endless(policy: Policy, online: OnlineOptions) -> None:
    """Raises `ModelError` for a policy none of whose answers would ever end."""
    if not online.stop and not end_tokens(policy.model, policy.tokenizer):
        raise ModelError(
            f"{policy.name} has no token that ends an answer, so that each would run to "
            f"max_new_tokens={online.max_new_tokens}: name one as eos_token_id in its generation_config.json, or give "
            "a text that ends an answer (--stop)"
        )


def refuse_options_of_files(
    objective: OnlineObjective, options: TrainingOptions, *, has_reference: bool, held_out: bool
) -> None:
    """Options about answers that lie in a file, about a reference that is not asked, and about evaluations that there
    are not have no effect, hence are an error.
    """
    if options.reference_moves is not None:
        raise ConfigError(
            "reference_moves is known only where answers lie in a file, not where they are written; drop it"
        )
    for name in _OF_FILES:
        if getattr(options, name) != getattr(TrainingOptions, name):
            raise ConfigError(f"{name} has no effect on {objective.method}, which writes its answers itself; drop it")
    if has_reference and not objective.needs_reference:
        raise ConfigError(f"reference has no effect with {objective.no_reference}, which asks no reference; drop it")
    if held_out and options.eval_prompts == 0:
        raise ConfigError("eval_prompts=0 leaves nothing to evaluate; drop it, or eval_data and eval_fraction")
    for name in ("eval_steps", "eval_prompts", "eval_reward"):
        if not held_out and getattr(options, name) is not None:
            raise ConfigError(f"{name} has no effect without evaluation data; give eval_data or eval_fraction")


def _require_columns(
    rewards: RewardSet, train: Sequence[Prompt], judge: RewardSet | None, held_out: Sequence[Prompt]
) -> None:
    """Raises `ConfigError` where a reward needs a column that no prompt has, or a judge has nothing to judge."""
    if judge is not None and not held_out:
        raise ConfigError("eval_reward has no effect without evaluation data; give eval_data or eval_fraction")
    for asked, prompts in ((rewards, train), (judge or rewards, held_out)):
        if prompts:
            asked.require({name for prompt in prompts for name in prompt.columns})


def refuse_dropout(policy: Policy, objective: OnlineObjective) -> None:
    """Answers are drawn without dropout, and scored with it they would be those of another policy."""
    if dropout := (policy.adapter_settings or {}).get("dropout"):
        raise ConfigError(
            f"lora_dropout={dropout:g} has no place in {objective.method}: answers are drawn without it, and with it "
            "they would be scored as another policy's; drop it"
        )


def _server(policy: Policy, online: OnlineOptions) -> VllmServer | None:
    """Who writes the answers, if it is a server. Raises `ConfigError` for a policy whose steps it cannot follow."""
    server = server_of(online.sampler, online.sampler_url, online.sampler_timeout)
    if server is not None and not has_adapter(policy.model):
        raise ConfigError(
            f"{server.url} follows the policy by its adapter, and here the whole model is trained: give lora_r=16, or "
            "sampler=local"
        )
    return server


def _tokenized(
    policy: Policy, prompts: Sequence[Prompt], online: OnlineOptions, context: int | None
) -> TokenizedPrompts:
    return prepare_prompts(
        prompts,
        policy.tokenizer,
        max_prompt_length=prompt_limit(online, context),
        truncation=online.prompt_truncation,
        chat=policy.chat,
    )


def prompt_limit(online: OnlineOptions, context: int | None) -> int:
    """The most tokens of a prompt, in a model of this context. Raises `ConfigError` where no room is left for one."""
    room = None if context is None else context - online.max_new_tokens
    if room is not None and room < 1:
        raise ConfigError(
            f"max_new_tokens={online.max_new_tokens} leaves no room for a prompt in the model's context of {context} "
            "tokens; lower it"
        )
    limit = online.max_prompt_length or default_max_length(room)
    if room is not None and limit > room:
        raise ConfigError(
            f"max_prompt_length={limit} and max_new_tokens={online.max_new_tokens} are together beyond the model's "
            f"context of {context} tokens; lower one of them"
        )
    return limit


def _with_interval(run: OnlineRun) -> OnlineRun:
    if not run.held_out.ids:
        return run
    if run.options.batch_size > len(run.train.ids):
        warn(f"batch_size={run.options.batch_size} is more than the {len(run.train.ids)} prompts: a step has them all")
    return replace(run, eval_interval=evaluation_interval(run.planned_steps(), run.options.eval_steps))


@dataclass(frozen=True)
class OnlineFacts(CardFacts):
    """What an online run says of itself; `roles` are there where it has a critic."""

    run: OnlineRun
    roles: tuple[Role, ...] = ()

    def words(self) -> list[str]:
        return [*(role.line for role in self.roles), *super().words()]

    @property
    def explained(self) -> str:
        """The options that differ from the preset, and how much is written."""
        objective, online = self.run.objective, self.run.online
        changed = ", ".join(f"{name}={value}" for name, value in changed_options(objective).items())
        return (
            f"{objective.source}{f'; changed: {changed}' if changed else ''}; {objective.answers_per_prompt} answers "
            f"to each prompt of at most {online.max_new_tokens} tokens, drawn at temperature {online.temperature:g}; "
            f"rewards: {', '.join(self.run.rewards.names)}"
        )

    @property
    def a_step(self) -> str:
        return f"{self.run.options.batch_size} prompts, {self.run.objective.answers_per_prompt} answers each, a step"

    def data_card(self) -> dict[str, object]:
        run = self.run
        return {
            "hash": run.train.hash,
            "max_prompt_length": run.train.max_prompt_length,
            "train": run.train.counts(),
            "eval": run.held_out.counts(),
            "unusable": run.unusable.counts(),
        }

    def card(self) -> dict[str, Any]:
        online = {name: value for name, value in vars(self.run.online).items() if value}
        roles = {"roles": [role.as_json() for role in self.roles]} if self.roles else {}
        return super().card() | {"online": online, **roles}

    def more_facts(self) -> dict[str, Any]:
        run = self.run
        return {
            "data_hash": run.train.hash,
            "eval_hash": run.held_out.hash,
            **run.online.kept,
        }
