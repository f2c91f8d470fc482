"""What the command does for an online run: load prompts, rewards and policy, train, and say where the files lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from transformers import TrainerCallback

from likelier.data.formats.asking import unanswered
from likelier.data.prompts import PromptData, load_prompts
from likelier.models.loading import check_name
from likelier.models.policy import load_policy
from likelier.models.tokenizer import check_template_of
from likelier.online.config import OnlineConfig
from likelier.online.prepared import refuse_gathering
from likelier.online.rewards.load import RewardSet, load_rewards
from likelier.online.sampling import server_of
from likelier.online.trainer import OnlineTrainer
from likelier.runs.folder import RunFolder
from likelier.runs.hub import check_repository
from likelier.runs.ownership import nothing_left
from likelier.training.launcher import with_launcher
from likelier.training.run import absolute_options, finish, named_reference
from likelier.training.run_card import refuse_other_options
from likelier.training.trackers import check_trackers
from likelier.utils.console import say, speaks
from likelier.utils.distributed import join_ranks


def train_online(
    config: OnlineConfig, card: Mapping[str, Any] | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> OnlineTrainer:
    """Train; arguments as `training.run.train`. What is refused before anything was trained or evaluated leaves no
    folder.
    """
    folder = RunFolder(config.run.output)
    folder.check(resume=config.run.resume)  # before anything slow
    check_trackers(config.training.report_to)
    with nothing_left(folder.path, folder.holds_results):
        return _train(config, folder, card, callbacks)


def _train(
    config: OnlineConfig, folder: RunFolder, card: Mapping[str, Any] | None, callbacks: Sequence[TrainerCallback]
) -> OnlineTrainer:
    config = replace(config, training=with_launcher(config.training))
    run, online, seed = config.run, config.online, config.training.seed
    join_ranks(config.training.trainer.get("ddp_timeout"))
    refuse_gathering(config.objective, config.training, online)
    if run.push_to_hub is not None:
        check_repository(run.push_to_hub)
    if run.resume and speaks():
        refuse_other_options(folder, config, online.kept)
    for name in {run.model, run.reference} - {"start", "base"}:
        check_name(name)
    held_out: dict[str, Any] = {"eval_data": run.eval_data, "eval_fraction": run.eval_fraction}
    data = load_prompts(run.data, **held_out, seed=seed, columns=run.columns)
    rewards = load_rewards(online.reward, online.reward_weights, timeout=online.reward_timeout)
    server_of(online.sampler, online.sampler_url, online.sampler_timeout)  # before anything slow
    judge = None if config.training.eval_reward is None else load_rewards([config.training.eval_reward])
    asked = [unanswered(one.prompt, one.source, one.tools) for one in (*data.train, *data.test)]
    check_template_of(run.model, asked, config.chat)
    empty = config.training.shard and not speaks()  # the first rank's weights are split between all
    policy = load_policy(run.model, dtype=run.dtype, lora=config.lora, seed=seed, chat=config.chat, empty=empty)
    say(f"policy: {policy.words}")
    trainer = OnlineTrainer(
        policy,
        config.objective,
        data.train,
        rewards=rewards,
        judge=judge,
        online=online,
        eval_data=data.test,
        output_dir=run.output,
        reference=named_reference(run.reference, run.dtype),
        options=config.training,
        resume=run.resume,
        unusable=data.unusable,
        card=command_card(config, data, rewards) | dict(card or {}),
        callbacks=list(callbacks),
    )
    trainer.train()
    if speaks():  # of several processes the first one does the rest
        finish(folder, run, trainer.state.global_step)
    return trainer


def command_card(config: OnlineConfig, data: PromptData, rewards: RewardSet) -> dict[str, Any]:
    """What the command knows of the run beyond the trainer's own."""
    return {
        "run": absolute_options(config.run),
        "lora": {name: value for name, value in asdict(config.lora).items() if value},
        "data_format": data.format,
        "unusable_rows": data.unusable.counts(),
        "rewards": [{"name": reward.name, "spec": reward.spec} for reward in rewards.rewards],
    }
