"""Implicit rewards of the answers in a file, written to another: what `likelier score` does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from likelier.data.groups import Group
from likelier.data.load import PreferenceData, load_preferences
from likelier.data.options import ChatOptions
from likelier.data.past_template import past_template, past_template_words
from likelier.data.prepare import prepare_groups
from likelier.data.tokenize import default_max_length
from likelier.models.loading import check_name
from likelier.models.options import Dtype
from likelier.models.policy import Policy, load_policy
from likelier.runs.card import RunCard
from likelier.scoring import scorer_of
from likelier.scoring.implicit_rewards import implicit_rewards, summarize
from likelier.scoring.reference import ReferenceScoring
from likelier.scoring.restore import card_of, final_model, recorded_chat, reference_for
from likelier.utils.console import say
from likelier.utils.files import write_output
from likelier.utils.outputs import check_output, check_writable
from likelier.utils.strict_json import encodable
from likelier.utils.terminal import counting

_OTHER = "name another --output"


@dataclass(frozen=True)
class Scoring:
    """How answers are scored, whoever scores them: as the flags of `likelier score` say it."""

    per_token: bool = False
    max_length: int | None = None
    dtype: Dtype = "auto"
    token_budget: int | None = None
    chat: Mapping[str, Any] = field(default_factory=dict)

    def chat_of(self, card: RunCard, loaded: PreferenceData) -> ChatOptions | None:
        """How a model reads conversations, as its run did where nothing else is given; None of data without any."""
        talks = any(isinstance(record.prompt, tuple) for record in loaded.train)
        return replace(recorded_chat(card), **self.chat) if talks or self.chat else None


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
    check_writable(output, mend=_OTHER)
    model = final_model(model)
    for name in filter(None, (model, reference)):
        check_name(name)
    scale = beta if beta is not None else card_of(model).reward_scale or 0.1
    loaded = load_preferences(data, columns=columns)
    how = Scoring(per_token, max_length, dtype, token_budget, chat or {})
    rows, groups = rows_of_policy(model, reference, loaded, how, beta=scale)
    lines = (encodable(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    write_output(output, "".join(lines), mend=_OTHER)
    return f"{summarize(rows, groups, scale)}\n{len(rows)} rows written to {output}"


def rows_of_policy(
    model: str, reference: str | None, loaded: PreferenceData, how: Scoring, *, beta: float
) -> tuple[list[dict[str, Any]], Sequence[Group]]:
    """The implicit rewards of the rows of a file, a JSON-ready object each, and the rows as the policy's tokens."""
    card = card_of(model)
    policy = load_policy(model, dtype=how.dtype, chat=how.chat_of(card, loaded))
    groups = groups_to_score(loaded, policy, how.max_length)
    scoring, chosen = ReferenceScoring.here(policy, groups, how.token_budget), scorer_of(policy.model)
    known = reference_for(model, reference, card, policy, how.dtype, groups)
    say(f"policy: {policy.words}\nreference: {known.words}\nscorer: {chosen.name} ({chosen.reason})")
    with counting("scoring", 2 * len(groups)) as report:
        scoring = replace(scoring, report=report)
        return implicit_rewards(policy, known, groups, scoring, beta=beta, per_token=how.per_token), groups


def groups_to_score(loaded: PreferenceData, policy: Policy, max_length: int | None) -> Sequence[Group]:
    """The rows of a file as tokens; those that are too long, cannot be written or go past the template are told of."""
    if past := past_template(loaded.train, policy.tokenizer):
        say(past_template_words(len(past), len(loaded.train)))
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
    return tokenized.groups
