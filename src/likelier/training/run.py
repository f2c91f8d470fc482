"""What the commands do: load, train, score. Each step is another room's; this only puts them in a row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from likelier.data.load import PreferenceData, load_preferences
from likelier.data.prepare import fitting_records, prepare_groups
from likelier.data.tokenize import default_max_length
from likelier.insight.diagnose import diagnose
from likelier.insight.live.progress import ProgressDisplay
from likelier.models.policy import Dtype, default_token_budget, load_policy
from likelier.runs.cleanup import nothing_left
from likelier.runs.folder import RunFolder
from likelier.runs.hub import check_repository, push_run
from likelier.runs.model_card import write_model_card
from likelier.runs.reader import read_run
from likelier.scoring import attach_scorer
from likelier.scoring.implicit_rewards import implicit_rewards, summarize
from likelier.scoring.reference import ReferenceScoring
from likelier.scoring.restore import card_of, final_model, recorded_chat, reference_for
from likelier.training.config import RunConfig
from likelier.training.launcher import with_launcher
from likelier.training.trainer import PreferenceTrainer
from likelier.utils.console import counting, say, speaks
from likelier.utils.distributed import join_ranks
from likelier.utils.errors import ConfigError
from likelier.utils.files import cache_folder, local, write_whole
from likelier.utils.outputs import check_output
from likelier.utils.shell import quoted
from likelier.utils.strict_json import encodable


def train(
    config: RunConfig, data: PreferenceData | None = None, card: Mapping[str, Any] | None = None
) -> PreferenceTrainer:
    """Load data (unless they are given) and policy, train, and say where the files lie.

    `card` holds what shall stand in `run.json` besides. What is refused before anything was trained or evaluated leaves
    no folder.
    """
    folder = RunFolder(config.run.output)
    folder.check(resume=config.run.resume)  # before anything slow
    with nothing_left(folder.path, folder.holds_results):
        return _train(config, folder, data, card)


def _train(
    config: RunConfig, folder: RunFolder, data: PreferenceData | None, card: Mapping[str, Any] | None
) -> PreferenceTrainer:
    config = replace(config, training=with_launcher(config.training))
    join_ranks(config.training.trainer.get("ddp_timeout"))  # each on its device, before a model is loaded there
    run, seed = config.run, config.training.seed
    if run.push_to_hub is not None:
        check_repository(run.push_to_hub)
    held_out: dict[str, Any] = {"eval_data": run.eval_data, "eval_fraction": run.eval_fraction}
    data = data or load_preferences(run.data, **held_out, seed=seed, columns=run.columns)
    _check_kind(config, data)
    empty = config.training.shard and not speaks()  # the first rank's weights are split between all
    policy = load_policy(run.model, dtype=run.dtype, lora=config.lora, seed=seed, chat=config.chat, empty=empty)
    say(f"policy: {policy.words}")
    trainer = PreferenceTrainer(
        policy,
        config.objective,
        data.train,
        eval_data=data.test,
        output_dir=run.output,
        reference=named_reference(run.reference, run.dtype, empty=empty),
        options=config.training,
        resume=run.resume,
        unusable=data.unusable,
        card=command_card(config, data) | dict(card or {}),
        callbacks=[ProgressDisplay()],
    )
    trainer.train()
    if not speaks():  # of several processes the first one does the rest
        return trainer
    with folder.writing("README.md"):
        write_model_card(folder)
    say(f"done: {trainer.state.global_step} steps; model, metrics.jsonl and run.json lie in {run.output}")
    if run.push_to_hub is not None:
        say(f"uploaded: {push_run(folder.path, run.push_to_hub)}")
    for verdict in diagnose(read_run(run.output)):
        say(f"diagnosis: {verdict.severity}: {verdict.title}")
    here = quoted(run.output)
    say(f"next: likelier report {here} (a page with everything), likelier diagnose {here}")
    return trainer


def _check_kind(config: RunConfig, data: PreferenceData) -> None:
    """Fail before a model is loaded."""
    if config.objective.data != "answers":
        fitting_records([*data.train, *data.test], config.objective.method, config.objective.data)


def command_card(config: RunConfig, data: PreferenceData) -> dict[str, Any]:
    """What the command knows of the run beyond the trainer's own."""
    return {
        "run": {name: _absolute(value) for name, value in asdict(config.run).items()},
        "lora": {name: value for name, value in asdict(config.lora).items() if value},
        "data_format": data.format,
        "unusable_rows": data.unusable.counts(),
    }


def _absolute(value: Any) -> Any:
    """A local path as one that holds from anywhere, also within data sets; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [_absolute(one) for one in value]
    if isinstance(value, dict):
        return value | {"path": _absolute(value["path"])} if "path" in value else value
    return str(local(value).resolve()) if isinstance(value, str) and local(value).exists() else value


def named_reference(name: str, dtype: Dtype, *, empty: bool = False) -> Any:
    """`start` and `base` are words; anything else is a model (see `load_policy`)."""
    return name if name in ("start", "base") else load_policy(name, dtype=dtype, empty=empty)


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
    columns: Any = None,
    overwrite: bool = False,
    chat: Mapping[str, Any] | None = None,
) -> str:
    """Write the implicit reward of every answer in `data` to `output`; returns a summary. `chat` are options of
    conversations (see `ChatOptions`) that take the place of the run's own.
    """
    check_output(output, inputs=[data], overwrite=overwrite)
    _check_writable(output)
    model = final_model(model)
    card = card_of(model)
    scale = beta if beta is not None else float(card.get("reward_scale") or 0.1)
    loaded = load_preferences(data, columns=columns)
    talks = any(isinstance(record.prompt, tuple) for record in loaded.train)
    options = replace(recorded_chat(card), **chat or {})
    policy = load_policy(model, dtype=dtype, chat=options if talks or chat else None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenized = prepare_groups(
        loaded.train,
        policy.tokenizer,
        method="score",
        wants=loaded.kind,
        partners=False,
        max_length=max_length or default_max_length(policy.context),
        truncation="drop",
        chat=policy.chat,
    )
    if len(tokenized.unusable):
        say(f"{len(tokenized.unusable)} rows are left out:\n{tokenized.unusable.summary()}")
    groups = tokenized.groups
    policy.model.to(device)
    chosen = attach_scorer(policy.model, autocast=policy.autocast, groups=groups)
    known = reference_for(model, reference, card, policy, dtype, groups)
    say(f"policy: {policy.words}\nreference: {known.words}\nscorer: {chosen.name} ({chosen.reason})")
    budget = token_budget or default_token_budget(policy.model, device)
    with counting("scoring", 2 * len(groups)) as report:
        how = ReferenceScoring(cache_folder() / "reference", budget, device, report)
        rows = implicit_rewards(policy, known, groups, how, beta=scale, per_token=per_token)
    _write("".join(encodable(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows), output)
    return f"{summarize(rows, groups, scale)}\n{len(rows)} rows written to {output}"


def _write(text: str, output: str) -> None:
    try:
        write_whole(Path(output), text.encode())
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror or error}; name another --output") from error


def _check_writable(output: str) -> None:
    """Fail before the work, and leave no empty file behind."""
    path, existed = Path(output), Path(output).exists()
    if path.is_symlink():  # it is replaced, and what it leads to is left
        return
    try:
        with open(path, "a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror or error}; name another --output") from error
    if not existed:
        path.unlink()
