"""From records to the token groups that an objective asks for."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Literal

from likelier.data.partners import with_partners
from likelier.data.tokenize import Tokenized, Truncation, tokenize_records
from likelier.errors import DataError
from likelier.records import Pair, Record, pairs_to_labels

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


def median_length(tokenized: Tokenized) -> float:
    """The median number of tokens of an answer."""
    return float(median(tokenized.answer_lengths()))
