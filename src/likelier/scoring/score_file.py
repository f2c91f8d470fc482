"""Implicit rewards of the answers in a file, written to another: what `likelier score` does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from likelier.data.load import PreferenceData, load_preferences
from likelier.data.past_template import past_template, past_template_words
from likelier.data.prepare import prepare_groups
from likelier.data.tokenize import Group, default_max_length
from likelier.models.loading import check_name
from likelier.models.options import Dtype
from likelier.models.policy import Policy, load_policy
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
    card = card_of(model)
    scale = beta if beta is not None else card.reward_scale or 0.1
    loaded = load_preferences(data, columns=columns)
    talks = any(isinstance(record.prompt, tuple) for record in loaded.train)
    options = replace(recorded_chat(card), **chat or {})
    policy = load_policy(model, dtype=dtype, chat=options if talks or chat else None)
    if past := past_template(loaded.train, policy.tokenizer):
        say(past_template_words(len(past), len(loaded.train)))
    groups = groups_to_score(loaded, policy, max_length)
    how, chosen = ReferenceScoring.here(policy, groups, token_budget), scorer_of(policy.model)
    known = reference_for(model, reference, card, policy, dtype, groups)
    say(f"policy: {policy.words}\nreference: {known.words}\nscorer: {chosen.name} ({chosen.reason})")
    with counting("scoring", 2 * len(groups)) as report:
        rows = implicit_rewards(policy, known, groups, replace(how, report=report), beta=scale, per_token=per_token)
    lines = (encodable(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    write_output(output, "".join(lines), mend=_OTHER)
    return f"{summarize(rows, groups, scale)}\n{len(rows)} rows written to {output}"


def groups_to_score(loaded: PreferenceData, policy: Policy, max_length: int | None) -> list[Group]:
    """The rows of a file as tokens; those that are too long or cannot be written are told of."""
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
