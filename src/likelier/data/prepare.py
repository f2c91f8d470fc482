"""From records to the token groups that an objective asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from likelier.data.ends import NOT_NAMED
from likelier.data.lists import in_lists, pairs_by_row, require_scores
from likelier.data.markup import find_markup
from likelier.data.mismatched import data_hash, with_partners
from likelier.data.options import ChatOptions
from likelier.data.past_template import past_template, past_template_words
from likelier.data.preview import RowPreview, in_brief, in_card, preview_group
from likelier.data.records import (
    SPOKEN_FIELDS,
    Demonstration,
    Labelled,
    Pair,
    Record,
    UnusableRows,
    demonstrations_of,
    labels_of,
)
from likelier.data.rendering import REASONING_FIELDS, refuse_inert_chat_options
from likelier.data.tokenize import Tokenized, Truncation, tokenize_records
from likelier.data.turns import check_train_on
from likelier.data.unprinted import Unprinted
from likelier.data.views import Divided, as_view, by_numbers, joined
from likelier.data.weighting import Signals, applied, say_signals, with_even_prompts, with_mean_weight_1
from likelier.utils.console import say, warn
from likelier.utils.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from likelier.objectives import DataKind


_WHAT_IT_IS = {
    Labelled: "one answer with a label; use --method kto, which learns from labels",
    Demonstration: "one answer without a judgement; use --method sft, or add a label or the answer it is preferred to",
}


def fitting_records(records: Sequence[Record], method: str, wants: DataKind) -> Sequence[Record]:
    """The records as the method takes them: pairs become labels where labels are wanted, for SFT every answer worth
    writing is taken, and scored answers are pairs, which `in_lists` joins when they are tokens. Raises `DataError`
    naming the first row that does not fit, and the method that it fits.
    """
    if wants == "answers":
        found = Divided(as_view(records), demonstrations_of)
        if len(found) < len(records):
            say(f"{len(records) - len(found)} undesirable rows are left aside: {method} learns from good answers only")
        if not found:
            raise DataError(f"{records[0].source}: {method} learns from good answers, and every row is undesirable")
        return found
    if wants == "scores":
        require_scores(records, method)
        return records
    fits = (Pair,) if wants == "pairs" else (Pair, Labelled)
    unfit = next((record for record in records if not isinstance(record, fits)), None)
    if unfit is not None:
        needed = "pairs (chosen, rejected)" if wants == "pairs" else "answers with a label, or pairs"
        raise DataError(f"{unfit.source}: {method} learns from {needed}, and this row is {_WHAT_IT_IS[type(unfit)]}")
    return records if wants == "pairs" else Divided(as_view(records), labels_of)


def prepare_groups(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    method: str,
    wants: DataKind,
    partners: bool,
    max_length: int,
    truncation: Truncation,
    chat: ChatOptions | None = None,
    signals: Signals | None = None,
    held_out: bool = False,
) -> Tokenized:
    """Tokenize records for a method that wants pairs, labels, answers or scores; with `partners`, give labelled rows
    mismatched answers. Votes, weights and margins are what `signals` asks for. Raises `DataError` for rows that the
    method cannot use, and where nothing is left.
    """
    signals = signals or Signals()
    used, left_out = applied(records, signals, held_out=held_out)
    if not used:
        raise DataError(f"none of the {len(records)} rows is left:\n{UnusableRows(left_out).summary()}")
    fitting = fitting_records(used, method, wants)
    settings: dict[str, Any] = {"max_length": max_length, "truncation": truncation, "chat": chat}
    tokenized = tokenize_records(fitting, tokenizer, **settings, cached=True)
    tokenized.unusable[:0] = left_out
    if not tokenized.groups:
        mend = "\nRaise --max-length, or choose --truncation cut-prompt-left or cut-answer-right"
        some_too_long = "over-max-length" in tokenized.unusable.counts()
        raise DataError(
            f"none of the {len(fitting)} rows is left after tokenization (max_length {max_length}):\n"
            f"{tokenized.unusable.summary()}\nThe first is {tokenized.unusable[len(left_out)]}"
            f"{mend if some_too_long else ''}"
        )
    if partners:
        tokenized.groups = with_partners(tokenized.groups, max_length)
    if wants == "scores":
        in_lists(tokenized, by_numbers(fitting, tokenized.kept))
    kept = by_numbers(fitting, tokenized.kept)
    tokenized.groups = with_mean_weight_1(with_even_prompts(tokenized.groups, kept, used, signals), signals)
    return tokenized


@dataclass(frozen=True)
class PreparedData:
    """Training and held-out groups with their account."""

    train: Tokenized
    held_out: Tokenized
    rows: int
    hash: str
    held_out_hash: str
    median_length: float
    max_length: int
    signals: Signals
    first: RowPreview

    def account(self, left_out_before: UnusableRows) -> tuple[int, UnusableRows]:
        """How many rows there were at first, and all that were left out since, by the loader or here."""
        unusable = [*left_out_before, *self.train.unusable, *self.held_out.unusable]
        once = {(row.source, row.reason): row for row in unusable}  # a pair read as two labels is one row
        return self.rows + len(left_out_before), UnusableRows(list(once.values()))

    def card(self) -> dict[str, object]:
        """What the run card says of the data."""
        return {
            "hash": self.hash,
            "median_answer_length": self.median_length,
            "max_length": self.max_length,
            "train": self.train.counts(),
            "eval": self.held_out.counts(),
            "first_row": in_card(self.first),
            **self.signals.words(),
        }


def prepare_data(
    train: Sequence[Record],
    held_out: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    method: str,
    wants: DataKind,
    partners: bool,
    max_length: int,
    truncation: Truncation,
    chat: ChatOptions | None = None,
    signals: Signals | None = None,
) -> PreparedData:
    """`prepare_groups` for training and held-out records; what is left out is said, and warned of above 5 %."""
    settings: dict[str, Any] = {
        "method": method,
        "wants": wants,
        "partners": partners,
        "max_length": max_length,
        "truncation": truncation,
        "chat": chat,
        "signals": signals,
    }
    every = joined(train, held_out)
    refuse_inert_chat_options(every, chat or ChatOptions())
    check_train_on(every, chat or ChatOptions())
    found = prepare_groups(train, tokenizer, **settings)
    held = Tokenized()
    try:
        if held_out:
            held = prepare_groups(held_out, tokenizer, **settings, held_out=True)
    except DataError as error:
        raise DataError(f"evaluation data: {error}") from error
    say_signals(found.groups, signals or Signals())
    say_what_texts_are(every, tokenizer)
    _say_what_is_left_out("training", found)
    _say_what_is_left_out("evaluation", held)
    median_length = float(np.median(found.answer_lengths()))
    shown = preview_group(found.groups[0], tokenizer)
    for line in in_brief(shown):
        say(line)
    return PreparedData(
        train=found,
        held_out=held,
        rows=sum(len(pairs_by_row(part) if wants == "scores" else part) for part in (train, held_out)),
        hash=data_hash(found.groups),
        held_out_hash=data_hash(held.groups),
        median_length=median_length,
        max_length=max_length,
        signals=signals or Signals(),
        first=shown,
    )


def say_what_texts_are(records: Sequence[Record], tokenizer: PreTrainedTokenizerBase) -> None:
    """Say of how many rows the texts hold chat markup, or go past the chat template."""
    markup = find_markup(records, tokenizer)
    if markup.rows:
        say(f"{len(markup.rows)} of {len(records)} rows hold chat markup in their texts: {markup.in_words()}")
    if past := past_template(records, tokenizer, markup.rows):
        say(past_template_words(len(past), len(records)))


def say_what_is_not_printed(unprinted: Sequence[Unprinted]) -> None:
    """Say what messages hold that the template does not print, and warn where the model should have seen it."""
    spoken = {"tools", "tool_calls", *SPOKEN_FIELDS} - REASONING_FIELDS
    heard = [one for one in unprinted if one.name in spoken]
    if heard:
        warn(
            f"the chat template does not print what messages hold, so the model does not see it: "
            f"{'; '.join(map(str, heard))}; name a template that prints it with --chat-template"
        )
    rest = [one for one in unprinted if one not in heard]
    if rest:
        say(f"the chat template does not print of messages: {'; '.join(map(str, rest))}")


def _warn_of_ends(name: str, tokenized: Tokenized) -> None:
    for end, count in tokenized.unnamed_ends.items():
        warn(
            f"{count} answers of the {name} rows end with {end}, {NOT_NAMED}; add its id to eos_token_id in the "
            "model's generation_config.json"
        )
    without = tokenized.answers_without_eos - tokenized.unnamed_ends.total()
    if without > tokenized.cut_answers:
        warn(
            f"{without} answers of the {name} rows hold no end-of-sequence token, so the model would not learn to "
            "stop; look at the chat template, or at the token ids that the file brings"
        )


_CUT_TO_NOTHING = ("over-max-length", "no-answer-tokens", "no-prompt-tokens")


def _say_what_is_left_out(name: str, tokenized: Tokenized) -> None:
    left_out, total = len(tokenized.unusable), len(tokenized.unusable) + len(tokenized.groups)
    if left_out:
        say(f"{left_out} of {total} {name} rows are left out:\n{tokenized.unusable.summary()}")
    refused = next((row for row in tokenized.unusable if row.reason == "template-refuses"), None)
    if refused is not None:
        warn(f"{name} rows are left out, since {refused.detail} (first {refused.source})")
    say_what_is_not_printed(tokenized.unprinted)
    for text, source in tokenized.added.items():
        say(f"the chat template writes of its own into answers, which is trained on: {text!r} (first {source})")
    _warn_of_ends(name, tokenized)
    if tokenized.boundary_merges:
        say(
            f"{tokenized.boundary_merges} {name} rows: the prompt alone is tokenized or rendered otherwise than with "
            "the answer behind it; the answer begins where the two part"
        )
    too_long = sum(row.reason in _CUT_TO_NOTHING for row in tokenized.unusable)
    if too_long > 0.05 * total:
        warn(
            f"{too_long / total:.0%} of the {name} rows do not fit in {tokenized.max_length} tokens or have no answer; "
            "raise --max-length, or choose --truncation cut-prompt-left"
        )
