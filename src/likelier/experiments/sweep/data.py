"""The data of a sweep: one set of held-out rows for every run, and none of their prompts in any run's training data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean
from typing import Any

from likelier.data.lists import answers_in, pairs_by_row
from likelier.data.load import PreferenceData, load_preferences
from likelier.data.packing import StepSampler
from likelier.data.prepare import fitting_records
from likelier.data.records import Content, Message, Record, TokenIds, Unusable, UnusableRows, answers_of, content_key
from likelier.data.views import by_numbers
from likelier.experiments.sweep.plan import SweepPlan
from likelier.training.config import RunConfig
from likelier.training.prepared import step_sampler, steps_of
from likelier.utils.console import say
from likelier.utils.errors import ConfigError, DataError

LEAKED = "held-out-prompt"
_JUDGED = ("desirable", "ref_logps", "votes", "flip_chance", "weight", "margin", "scores")
_Key = tuple[Any, ...]


@dataclass(frozen=True)
class Budget:
    """What a run will see: its items, what they are called, the answers in them, and the optimizer steps."""

    items: int
    unit: str
    answers: int
    steps: int

    def __str__(self) -> str:
        return f"{self.items:,} {self.unit} ({self.answers:,} answers) in {self.steps:,} steps"


@dataclass(frozen=True)
class SharedData:
    """The held-out rows of all runs, drawn with `seed` from the source `base`, and the training rows of each source."""

    held_out: Sequence[Record]
    sources: Mapping[_Key, PreferenceData]
    base: _Key
    seed: int

    def of(self, config: RunConfig) -> PreferenceData:
        """What a run trains on and is evaluated with."""
        return self.sources[_key(config)]

    def held_out_of(self, config: RunConfig) -> dict[str, Any]:
        """What a run's card says of its held-out rows: how to draw them again."""
        return {"seed": self.seed, "from_own_data": _key(config) == self.base}

    def card(self) -> dict[str, Any]:
        """What sweep.json says of the rows."""
        prompts = {loose_prompt(record) for record in self.held_out}
        held_out = {"rows": len(self.held_out), "prompts": len(prompts), "hash": records_hash(self.held_out)}
        data = [
            {
                "named": _named(key[0]),
                "rows": len(found.train),
                "left_out": found.unusable.counts(),
                "hash": records_hash(found.train),
            }
            for key, found in self.sources.items()
        ]
        return {"held_out": held_out, "data": data}

    def budget(self, config: RunConfig) -> Budget:
        """What a run will see, as far as its rows fit in its maximum length."""
        training, objective = config.training, config.objective
        records = fitting_records(self.of(config).train, objective.method, objective.data)
        per_item = 2.0 if objective.data == "pairs" else 1.0
        if objective.data == "scores":
            rows = pairs_by_row(records)
            records, per_item = [row[0] for row in rows], fmean(map(answers_in, rows))
        prompts = [content_key(record.prompt).encode("utf-8", "surrogatepass") for record in records]
        sampler = step_sampler(prompts, training)
        steps = steps_of(sampler, training)
        items = _seen(sampler, steps, len(records))
        return Budget(items, "pairs" if objective.data == "pairs" else "rows", round(items * per_item), steps)


def _seen(sampler: StepSampler, steps: int, rows: int) -> int:
    """Items in so many steps from the start."""
    epochs, more = divmod(steps, len(sampler))
    sampler.set_epoch(epochs)
    return epochs * rows + sum(map(len, islice(iter(sampler), more)))


def load_shared(plan: SweepPlan) -> SharedData:
    """Load the base's data once, hold out its rows, and load the data that single settings name.

    Raises `DataError` where rows do not fit a method, or nothing is left to train on.
    """
    run, seed = plan.base.run, plan.base.training.seed
    held: dict[str, Any] = {"eval_data": run.eval_data, "eval_fraction": run.eval_fraction}
    base = load_preferences(run.data, **held, seed=seed, columns=run.columns, merge_votes=run.merge_votes)
    prompts = {loose_prompt(record) for record in base.test}
    sources = {_key(plan.base): _without(base, prompts, base.test, _named(run.data))}
    for planned in plan.runs:
        key, own = _key(planned.config), planned.config.run
        if key not in sources:
            found = load_preferences(own.data, seed=seed, columns=own.columns, merge_votes=own.merge_votes)
            sources[key] = _without(found, prompts, base.test, _named(own.data))
    shared = SharedData(base.test, sources, _key(plan.base), seed)
    say(f"held out for every run: {len(base.test)} rows of {len(prompts)} prompts")
    _check_kinds(plan, shared)
    return shared


def _key(config: RunConfig) -> _Key:
    return config.run.data, config.run.columns, config.run.merge_votes


def _named(data: Any) -> str:
    return data if isinstance(data, str) else ", ".join(one.name for one in data)


def _without(data: PreferenceData, prompts: set[str], held_out: Sequence[Record], name: str) -> PreferenceData:
    """The data without the rows on held-out prompts, which are counted and named like all others that are left out."""
    is_leaked = [loose_prompt(record) in prompts for record in data.train]
    kept = by_numbers(data.train, (number for number, leaks in enumerate(is_leaked) if not leaks))
    leaked = by_numbers(data.train, (number for number, leaks in enumerate(is_leaked) if leaks))
    if not kept:
        raise DataError(f"{name}: every row is on a held-out prompt; hold out fewer, or give other training data")
    rows = [Unusable(record.source, LEAKED, record=record) for record in leaked]
    unusable = UnusableRows([*data.unusable, *rows])
    if leaked:
        summary = UnusableRows(rows).summary()
        say(f"{name}: {len(leaked)} rows are left out, since their prompts are held out:\n{summary}")
    return replace(data, train=kept, test=held_out, unusable=unusable)


def loose_prompt(record: Record) -> str:
    """A text by which one prompt is recognised in files of different formats: its words, whoever says them."""
    return " ".join(_words(record.prompt).casefold().split())


def _words(content: Content) -> str:
    if isinstance(content, TokenIds):
        return content_key(content)
    return content if isinstance(content, str) else " ".join(_spoken(message) for message in content)


def _spoken(message: Message) -> str:
    return f"{message.content} {message.tool_calls}"


def records_hash(records: Sequence[Record]) -> str:
    """A hash of what stands in the rows, in their order: their texts, and what the data say of their weight."""
    found = hashlib.blake2b(digest_size=16)
    for record in records:
        judged = {name: getattr(record, name) for name in _JUDGED if getattr(record, name, None) is not None}
        texts = (content_key(record.prompt), *map(content_key, answers_of(record)), record.tools, repr(judged))
        for text in texts:
            found.update(text.encode("utf-8", "surrogatepass") + b"\x03")
    return found.hexdigest()


def _check_kinds(plan: SweepPlan, shared: SharedData) -> None:
    """Every method can use its training rows and the held-out ones; told before the first model is loaded."""
    checked = set()
    for planned in plan.runs:
        objective, key = planned.config.objective, _key(planned.config)
        if (objective.method, key) in checked:
            continue
        checked.add((objective.method, key))
        for what, records in (("its training data", shared.of(planned.config).train), ("held out", shared.held_out)):
            try:
                fitting_records(records, objective.method, objective.data)
            except DataError as error:
                raise ConfigError(f"{planned.setting}: {what}: {error}") from error


def say_budgets(plan: SweepPlan, shared: SharedData) -> dict[str, str]:
    """Say what each setting will see, and where that is not the same; returns it by setting."""
    found = {run.setting: shared.budget(run.config) for run in plan.runs}
    for budget in dict.fromkeys(found.values()):
        say(f"  {budget}: {', '.join(name for name, one in found.items() if one == budget)}")
    if len({budget.answers for budget in found.values()}) > 1:
        say(
            "the settings do not see as many answers: keep that in mind, or even it out by method with epochs, "
            "max_steps or batch_size (which counts pairs for one method, and single answers for another)"
        )
    return {name: str(budget) for name, budget in found.items()}
