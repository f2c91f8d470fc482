"""From records to the token groups that an objective asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from likelier.console import say, warn
from likelier.data.partners import data_hash, with_partners
from likelier.data.tokenize import Tokenized, Truncation, tokenize_records
from likelier.errors import DataError
from likelier.records import Pair, Record, UnusableRows, pairs_to_labels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prepare_groups(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    method: str,
    wants: Literal["pairs", "labels"],
    partners: bool,
    max_length: int,
    truncation: Truncation,
) -> Tokenized:
    """Tokenize records for a method that wants pairs or labels; with `partners`, give labelled rows mismatched answers.

    Pairs become labels where labels are wanted. Labels under a method for pairs raise a `DataError` that names KTO, as
    does a data set of which nothing is left.
    """
    fitting: Sequence[Record] = records
    if wants == "labels":
        pairs = [record for record in records if isinstance(record, Pair)]
        fitting = pairs_to_labels(pairs) if pairs else records
    elif not isinstance(records[0], Pair):
        raise DataError(
            f"{records[0].source}: {method} learns from pairs (chosen, rejected) and this row is one answer with a "
            "label; use --method kto, which learns from labels"
        )
    tokenized = tokenize_records(fitting, tokenizer, max_length=max_length, truncation=truncation)
    if not tokenized.groups:
        raise DataError(
            f"none of the {len(fitting)} rows is left after tokenization (max_length {max_length}):\n"
            f"{tokenized.unusable.summary()}"
        )
    if partners:
        tokenized.groups = with_partners(tokenized.groups, max_length)
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
        }


def prepare_data(
    train: Sequence[Record],
    held_out: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    method: str,
    wants: Literal["pairs", "labels"],
    partners: bool,
    max_length: int,
    truncation: Truncation,
) -> PreparedData:
    """`prepare_groups` for training and held-out records; what is left out is said, and warned of above 5 %."""
    settings: dict[str, Any] = {
        "method": method,
        "wants": wants,
        "partners": partners,
        "max_length": max_length,
        "truncation": truncation,
    }
    found = prepare_groups(train, tokenizer, **settings)
    held = Tokenized()
    try:
        if held_out:
            held = prepare_groups(held_out, tokenizer, **settings)
    except DataError as error:
        raise DataError(f"evaluation data: {error}") from error
    _say_what_is_left_out("training", found)
    _say_what_is_left_out("evaluation", held)
    median_length = float(median(found.answer_lengths()))
    return PreparedData(
        train=found,
        held_out=held,
        rows=len(train) + len(held_out),
        hash=data_hash(found.groups),
        held_out_hash=data_hash(held.groups),
        median_length=median_length,
        max_length=max_length,
    )


def _say_what_is_left_out(name: str, tokenized: Tokenized) -> None:
    left_out, total = len(tokenized.unusable), len(tokenized.unusable) + len(tokenized.groups)
    if left_out:
        say(f"{left_out} of {total} {name} rows left out after tokenization:\n{tokenized.unusable.summary()}")
    if tokenized.answers_without_eos > tokenized.cut_answers:
        warn(
            f"{tokenized.answers_without_eos} answers of the {name} rows hold no end-of-sequence token, so the model "
            "would not learn to stop; look at the chat template, or at the token ids that the file brings"
        )
    if tokenized.boundary_merges:
        say(
            f"{tokenized.boundary_merges} {name} rows: the prompt alone is tokenized or rendered otherwise than with "
            "the answer behind it; the answer begins where the two part"
        )
    if left_out > 0.05 * total:
        warn(
            f"{left_out / total:.0%} of the {name} rows do not fit in {tokenized.max_length} tokens or have no answer; "
            "raise --max-length, or choose --truncation cut-prompt-left"
        )
