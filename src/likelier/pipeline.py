"""What the commands do: load, train, score. Each step is another room's; this only puts them in a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from likelier.config import RunConfig
from likelier.console import counting, say
from likelier.data.load import PreferenceData, load_preferences
from likelier.data.prepare import prepare_groups
from likelier.data.tokenize import Group, default_max_length
from likelier.errors import ConfigError, DataError, LikelierError, WrongReferenceError
from likelier.models import Dtype, Policy, default_token_budget, load_policy, require_same_vocabulary
from likelier.paths import cache_folder
from likelier.progress import ProgressDisplay
from likelier.reference import Reference, ReferenceScoring, base_reference, other_reference
from likelier.rewards import implicit_rewards, summarize
from likelier.runs import RunFolder
from likelier.scoring import attach_scorer
from likelier.trainer import PreferenceTrainer


def train(config: RunConfig, data: PreferenceData | None = None) -> PreferenceTrainer:
    """Load data (unless they are given) and policy, train, and say where the files lie."""
    run, seed = config.run, config.training.seed
    RunFolder(run.output).check(resume=run.resume)  # before anything slow
    data = data or load_preferences(run.data, eval_data=run.eval_data, eval_fraction=run.eval_fraction, seed=seed)
    _check_kind(config, data)
    policy = load_policy(run.model, dtype=run.dtype, lora=config.lora, seed=seed)
    say(f"policy: {policy.words}")
    trainer = PreferenceTrainer(
        policy,
        config.objective,
        data.train,
        eval_data=data.test,
        output_dir=run.output,
        reference=named_reference(run.reference, run.dtype),
        options=config.training,
        resume=run.resume,
        unusable=data.unusable,
        card=command_card(config, data),
        callbacks=[ProgressDisplay()],
    )
    trainer.train()
    say(f"done: {trainer.state.global_step} steps; model, metrics.jsonl and run.json lie in {run.output}")
    return trainer


def _check_kind(config: RunConfig, data: PreferenceData) -> None:
    """Fail before a model is loaded."""
    if config.objective.data == "pairs" and data.kind == "labels":
        raise DataError(
            f"{config.run.data} holds labelled answers, and {config.objective.method} learns from pairs (chosen, "
            "rejected); use --method kto, which learns from labels"
        )


def command_card(config: RunConfig, data: PreferenceData) -> dict[str, Any]:
    """What the command knows of the run beyond the trainer's own."""
    return {
        "run": {name: _absolute(value) for name, value in asdict(config.run).items()},
        "lora": {name: value for name, value in asdict(config.lora).items() if value},
        "data_format": data.format,
        "unusable_rows": data.unusable.counts(),
    }


def _absolute(value: Any) -> Any:
    """A local path as one that holds from anywhere; anything else as it is."""
    return (
        str(Path(value).expanduser().resolve())
        if isinstance(value, str) and Path(value).expanduser().exists()
        else value
    )


def named_reference(name: str, dtype: Dtype) -> Any:
    """`start` and `base` are words; anything else is a model."""
    return name if name in ("start", "base") else load_policy(name, dtype=dtype)


def score_file(
    model: str,
    reference: str | None,
    data: str,
    output: str,
    *,
    beta: float | None,
    per_token: bool,
    max_length: int | None,
    dtype: Dtype,
    token_budget: int | None,
) -> str:
    """Write the implicit reward of every answer in `data` to `output`; returns a summary."""
    _check_writable(output, data)
    card = _card_of(model)
    scale = beta if beta is not None else float(card.get("reward_scale") or 0.1)
    loaded = load_preferences(data)
    policy = load_policy(model, dtype=dtype)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenized = prepare_groups(
        loaded.train,
        policy.tokenizer,
        method="score",
        wants=loaded.kind,
        partners=False,
        max_length=max_length or default_max_length(policy.context),
        truncation="drop",
    )
    if len(tokenized.unusable):
        say(f"{len(tokenized.unusable)} rows are left out:\n{tokenized.unusable.summary()}")
    groups = tokenized.groups
    policy.model.to(device)
    chosen = attach_scorer(policy.model, autocast=policy.autocast, groups=groups)
    known = _reference_for(model, reference, card, policy, dtype, groups)
    say(f"policy: {policy.words}\nreference: {known.words}\nscorer: {chosen.name} ({chosen.reason})")
    budget = token_budget or default_token_budget(policy.model, device)
    with counting("scoring", 2 * len(groups)) as report:
        how = ReferenceScoring(cache_folder() / "reference", budget, device, report)
        rows = implicit_rewards(policy, known, groups, how, beta=scale, per_token=per_token)
    with open(output, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return f"{summarize(rows, groups, scale)}\n{len(rows)} rows written to {output}"


def _check_writable(output: str, data: str) -> None:
    """Fail before the work, and leave no empty file behind."""
    path, existed = Path(output), Path(output).exists()
    if existed and Path(data).exists() and path.samefile(data):
        raise ConfigError(f"{output} is the data itself and would be overwritten; name another output")
    try:
        with open(path, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror or error}") from error
    if not existed:
        path.unlink()


def _card_of(model: str) -> dict[str, Any]:
    try:
        return RunFolder(model).read_card()
    except LikelierError:
        return {}


def _reference_for(
    model: str, named: str | None, card: dict[str, Any], policy: Policy, dtype: Dtype, groups: Sequence[Group]
) -> Reference:
    """The named one; else the one that the run recorded, proved by its identity; else an adapter's base."""
    has_adapter = (Path(model) / "adapter_config.json").is_file()
    if named is not None and named != "base":
        return _loaded_reference(named, policy, dtype, groups)
    base = base_reference(policy.model, precision=policy.precision) if has_adapter or named == "base" else None
    recorded = card.get("reference", {}).get("weights")
    if base is not None and (named == "base" or recorded in (None, base.weights)):
        return base
    source = _recorded_source(card)
    if source is None:
        raise ConfigError(f"{model} does not name a reference that can be loaded; give --reference")
    found = _loaded_reference(source, policy, dtype, groups)
    if card.get("precision") == policy.precision and found.weights != recorded:
        raise WrongReferenceError(
            f"{source} is not the reference that {model} was trained against: its weights are others (hash "
            f"{found.weights}, recorded {recorded}). Give the right one with --reference"
        )
    return found


def _recorded_source(card: dict[str, Any]) -> str | None:
    run = card.get("run", {})
    if not run or run["reference"] == "base":
        return None
    return run["model"] if run["reference"] == "start" else run["reference"]


def _loaded_reference(name: str, policy: Policy, dtype: Dtype, groups: Sequence[Group]) -> Reference:
    other = load_policy(name, dtype=dtype)
    require_same_vocabulary(policy, other)
    other.model.to(policy.model.device)
    attach_scorer(other.model, autocast=other.autocast, groups=groups)
    return other_reference(other.model, name, precision=other.precision)
