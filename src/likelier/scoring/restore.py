"""What a run recorded of itself: its card, and the reference that it was trained against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from likelier.data.builtin import BUILT_IN, demo_data
from likelier.data.columns import columns_of
from likelier.data.dates import dated
from likelier.data.groups import Group
from likelier.data.load import PreferenceData, load_preferences
from likelier.data.options import ChatOptions, DataSet
from likelier.data.weighting import Signals
from likelier.models.adapter_parts import base_named
from likelier.models.options import Dtype
from likelier.models.policy import Policy, load_policy, require_same_vocabulary, set_template
from likelier.models.safe_loading import (
    read_tokenizer,
    reading,
    say_what_a_file_names,
)
from likelier.models.tokenizer import base_of, tokenizer_of
from likelier.objectives import METHODS, Objective
from likelier.runs.card import RunCard, required
from likelier.runs.checkpoints import PROGRESS
from likelier.runs.folder import RunFolder, final_folder
from likelier.scoring import attach_scorer
from likelier.scoring.reference import Reference, base_reference, other_reference, start_reference
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, LikelierError, ModelError, RunFolderError, WrongReferenceError
from likelier.utils.files import read_object, refuse_links_below


def card_of(model: str) -> RunCard:
    """The card of a run folder; empty for any other model."""
    try:
        return RunFolder(model).card()
    except LikelierError:
        return RunCard()


def final_model(name: str) -> str:
    """A staged run's last finished stage; any other name as it was given."""
    found = final_folder(name)
    return name if found == Path(name) else str(found)


def reward_offset(model: str | Path) -> float:
    """What is taken off a reward model's scores: its mean over training answers, as its run or its merging recorded it;
    0 where nobody did.
    """
    papers = Path(model) / "merge.json"
    try:
        told = read_object(papers).get("reward_offset") if papers.is_file() else card_of(str(model)).reward_offset
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{papers} cannot be read: {error}") from error
    return float(told or 0.0)


def recorded_chat(card: RunCard) -> ChatOptions:
    """How a run turned conversations into text, beyond the template that was saved with its tokenizer."""
    try:
        return ChatOptions(**{name: value for name, value in card.chat.items() if name != "chat_template"})
    except TypeError as error:
        raise RunFolderError(f"run.json is damaged: its chat options: {error}") from error


def has_no_reference(card: RunCard) -> bool:
    """Whether a run was trained by a method without a reference."""
    return card.reference.words is not None and card.reference.weights is None


def adapter_gone_on_from(card: RunCard) -> str | None:
    """The adapter that training went on from; None where it began with a whole model."""
    began = card.run.model
    return began if began and (Path(began) / "adapter_config.json").is_file() else None


def recorded_source(card: RunCard) -> str | None:
    """The name of the model that a run took as its reference; None where that is no model that can be loaded."""
    named = card.run.reference
    return None if named == "base" else card.run.model if named == "start" else named


def reference_for(
    model: str, named: str | None, card: RunCard, policy: Policy, dtype: Dtype, groups: Sequence[Group]
) -> Reference:
    """The reference of a loaded policy: the named one; else the one that the run recorded, proved by its identity;
    else an adapter's base. A run of a method without one gives the model that it began with.

    Args:
        model: the policy's name.
        named: what the user asked for: a model, `base` (adapter switched off) or nothing.
        card: of `card_of(model)`.
        policy: with a scorer attached; a reference that is another model goes to its device.
        dtype: of a model that has to be loaded.
        groups: what will be scored (see `attach_scorer`).

    Raises:
        ConfigError: none is recorded.
        WrongReferenceError: what lies at the recorded place is not what the run was trained against.
    """
    has_adapter = (Path(model) / "adapter_config.json").is_file()
    if named is not None and named != "base":
        return loaded_reference(named, policy, dtype, groups)
    base = base_reference(policy.model, precision=policy.precision) if has_adapter or named == "base" else None
    recorded = card.reference.weights
    if base is not None and (named == "base" or recorded in (None, base.weights)):
        return base
    if base is not None and card.run.reference == "base":
        _require_recorded(base, str(base_named(policy.model)), model, card, policy)
        return base
    source = recorded_source(card)
    if source is None:
        return _merged_base(model, policy, dtype, groups)
    say_what_a_file_names(source, f"{model}/run.json")
    found = loaded_reference(source, policy, dtype, groups)
    _require_recorded(found, source, model, card, policy)
    return found


def _merged_base(model: str, policy: Policy, dtype: Dtype, groups: Sequence[Group]) -> Reference:
    """The base that a merged model's merge.json names: as the run beside it names it, as a folder beside it, or as a
    hub id. Raises `ConfigError` for any other model, `WrongReferenceError` for other weights than those merged into
    (which merging saw in float32).
    """
    folder = Path(model)
    papers = folder / "merge.json"
    try:
        told = read_object(papers) if papers.is_file() else {}
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{papers} cannot be read: {error}") from error
    if not told.get("base"):
        raise ConfigError(f"{model} does not name a reference that can be loaded; give --reference")
    beside = {name: folder.absolute().parent / str(told[name]) for name in ("run", "base") if told.get(name)}
    source = str(beside["base"] if beside["base"].is_dir() else told["base"])
    if "run" in beside and (beside["run"] / "adapter_config.json").is_file():
        source, _ = base_of(str(beside["run"]))
    say_what_a_file_names(source, str(papers))
    say(f"reference: {source}, the base that {model} was merged into")
    try:
        found = loaded_reference(source, policy, dtype, groups)
    except ModelError as error:
        raise ConfigError(f"the base of {model} cannot be had, give it with --reference: {error}") from error
    if policy.precision == "float32" and found.weights != told.get("base_weights"):
        raise WrongReferenceError(
            f"{source} is not the base that {model} was merged into: its weights are others (hash {found.weights}, "
            f"recorded {told.get('base_weights')}). Give the right one with --reference"
        )
    return found


def _require_recorded(found: Reference, source: str, model: str, card: RunCard, policy: Policy) -> None:
    """What lies at the recorded place must be what the run was trained against; seen at the same precision only."""
    recorded = card.reference.weights
    if recorded is not None and card.precision == policy.precision and found.weights != recorded:
        raise WrongReferenceError(
            f"{source} is not the reference that {model} was trained against: its weights are others (hash "
            f"{found.weights}, recorded {recorded}). Give the right one with --reference"
        )


def loaded_reference(name: str, policy: Policy, dtype: Dtype, groups: Sequence[Group]) -> Reference:
    """Another model as the reference, on the policy's device. Raises `WrongReferenceError` for another vocabulary."""
    other = load_policy(name, dtype=dtype)
    require_same_vocabulary(policy, other)
    other.model.to(policy.model.device)
    attach_scorer(other.model, autocast=other.autocast, groups=groups)
    return other_reference(other.model, name, precision=other.precision)


def recorded_objective(card: RunCard) -> Objective:
    """The run's objective with its hyperparameters. Raises `RunFolderError` where the card does not tell them."""
    kind = METHODS.get(str(card.method))
    if kind is None:
        raise RunFolderError(f"run.json names no method that is known here ({card.method!r})")
    try:
        return kind.of(card.raw["hyperparameters"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"run.json does not hold the hyperparameters of {kind.method}: {error}") from error


def objective_at(name: str, card: RunCard, at: str) -> Objective:
    """The same of the run `name`, with what it carried at its `end`, its `start` or `step-N`. Raises `RunFolderError`
    where that is not kept.
    """
    found = recorded_objective(card)
    if at == "start" or not found.state:
        return found
    file = RunFolder(name).checkpoints.path / at / PROGRESS
    try:
        return found.with_state(card.objective_state if at == "end" else read_object(file)["objective_state"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        where = "run.json" if at == "end" else str(file)
        raise RunFolderError(f"{where} does not hold what {found.method} carried from step to step: {error}") from error


def recorded_signals(card: RunCard) -> Signals:
    """Which votes, weights and margins the run used."""
    given = card.options
    return Signals(given.use_votes, given.use_weights, given.use_margins, given.min_score_gap)


def recorded_data(card: RunCard, name: str) -> PreferenceData:
    """The data that the run `name` was trained on, read and split again as it read and split them.

    Nothing is held out where a sweep took the held-out rows of other data. Raises `ConfigError` where the run was given
    rows in memory, `DataError` where the files are gone.
    """
    run = card.run
    if not run.data:
        raise ConfigError(f"{name} names no file that it was trained on (it began in Python); give one with --data")
    if run.data == BUILT_IN:
        return demo_data()
    for one in (*named_data(run.data), *named_data(run.eval_data)):
        say_what_a_file_names(one, f"{name}/run.json")
    eval_data, eval_fraction, seed = run.eval_data, run.eval_fraction, required(card.options.seed, name, "options.seed")
    if card.sweep:  # all its runs have the same held-out rows, whatever their own seeds and data
        seed = required(card.held_out.seed, name, "sweep.held_out.seed")
        from_own_data = required(card.held_out.from_own_data, name, "sweep.held_out.from_own_data")
        eval_fraction = eval_fraction if from_own_data else None
    return load_preferences(
        _sources(run.data),
        eval_data=None if eval_data is None else _sources(eval_data),
        eval_fraction=eval_fraction,
        seed=seed,
        columns=_columns(run.columns),
        merge_votes=run.merge_votes,
    )


def training_files(card: RunCard) -> list[DataSet]:
    """The data sets that a run was trained on, each with its own column map or the run's; none for rows in memory."""
    if not card.run.data or card.run.data == BUILT_IN:
        return []
    shared, found = _columns(card.run.columns), _sources(card.run.data)
    sets = [DataSet(found)] if isinstance(found, str) else found
    return [replace(one, columns=one.columns or shared) for one in sets]


def named_data(recorded: Any) -> list[str]:
    """The paths of one data set, of several, or of none, as a card holds them."""
    listed = recorded if isinstance(recorded, list) else [recorded]
    return [str(one["path"] if isinstance(one, dict) else one) for one in listed if one is not None]


def _sources(recorded: Any) -> Any:
    """A path, or data sets, as the card holds them."""
    if isinstance(recorded, str):
        return recorded
    try:
        return [DataSet(**(one | {"columns": _columns(one.get("columns"))})) for one in recorded]
    except TypeError as error:
        raise RunFolderError(f"run.json is damaged: a data set of its run: {error}") from error


def _columns(recorded: Mapping[str, Any] | None) -> Any:
    return columns_of({name: value for name, value in recorded.items() if value is not None}) if recorded else None


def policy_at(name: str, card: RunCard, at: str, dtype: Dtype) -> tuple[Policy, str]:
    """The policy of the run `name` at its `end`, at its `start` or at `step-N`, and the model that it is read from.

    Raises `RunFolderError` where the run holds no model of that time.
    """
    chat = recorded_chat(card)
    seed = {} if card.options.seed is None else {"seed": card.options.seed}  # of a head that was drawn
    head: dict[str, Any] = {"values": card.facts.reads_values, **seed}
    if at == "start":
        source = card.run.model
        if not source:
            raise RunFolderError(f"{name} names no model that it began with (it began in Python)")
        say_what_a_file_names(str(source), f"{name}/run.json")
        began = load_policy(source, dtype=dtype, **head)
        return replace(began, tokenizer=_own_tokenizer(name) or began.tokenizer, chat=chat), source
    folder = Path(name) if at == "end" else RunFolder(name).checkpoints.path / at
    if at != "end":
        refuse_links_below(folder)
    if not _holds_model(folder):
        raise RunFolderError(f"{name} holds no model of {at}; it has: {', '.join(times_of(name))}")
    return replace(load_policy(folder, dtype=dtype, **head), chat=chat), str(folder)


def times_of(name: str) -> list[str]:
    """The times of which a run can show its model: `start`, `step-N`, `end`."""
    run = RunFolder(name)
    steps = sorted((path.name for path in run.checkpoints.path.glob("step-*")), key=lambda step: (len(step), step))
    return ["start", *steps, *(["end"] if _holds_model(run.path) else [])]


def _holds_model(folder: Path) -> bool:
    return any((folder / file).is_file() for file in ("config.json", "adapter_config.json"))


def _own_tokenizer(name: str) -> Any:
    """The tokenizer that the run saved (a template that it was given is in it); None before there is one."""
    has_one = (Path(name) / "tokenizer_config.json").is_file()
    with reading(name, "a tokenizer"):
        return read_tokenizer(name) if has_one else None


def reference_at_start(
    source: str, named: str | None, card: RunCard, policy: Policy, dtype: Dtype, groups: Sequence[Group]
) -> Reference:
    """The reference of a run's policy as it began, `source`: the policy itself, where the run was trained against that;
    else as `reference_for`.
    """
    itself = start_reference(policy.model, precision=policy.precision)
    is_start = card.run.reference == "start"
    if named is None and (is_start or itself.weights == card.reference.weights):
        _require_recorded(itself, source, "the run", card, policy)
        return replace(itself, words=f"{source}, which the policy is here")
    return reference_for(source, named, card, policy, dtype, groups)


def tokenizer_with(name: str, given: Mapping[str, Any]) -> tuple[Any, int, ChatOptions]:
    """(tokenizer, default max length, chat options) of a model or a run, whose own options `given` ones replace."""
    model = final_model(name)
    tokenizer, max_length = tokenizer_of(model)
    chat = replace(recorded_chat(card_of(model)), **given)
    set_template(tokenizer, chat)
    return tokenizer, max_length, dated(chat, tokenizer.chat_template)
