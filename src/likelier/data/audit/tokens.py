"""What a model's tokenizer makes of the rows: lengths, what a limit would cut, ends, boundaries, tokens by script,
chat markup inside texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from likelier.data.audit.facts import text_of
from likelier.data.audit.findings import EXAMPLES, Finding
from likelier.data.audit.material import Material, sampled
from likelier.data.audit.rows import sides_of
from likelier.data.audit.scripts import main_script
from likelier.data.audit.shortcuts import length_rule
from likelier.data.ends import NOT_NAMED, Ends
from likelier.data.groups import Group
from likelier.data.markup import find_markup
from likelier.data.past_template import past_template
from likelier.data.records import Record, answers_of
from likelier.data.tokenize import Tokenized, tokenize_records
from likelier.data.vocabulary import tokens_in_words, without_row
from likelier.utils.statistics import histogram, summary

_BLOCK = 512
_NO_LIMIT = 1 << 30
_SCRIPT_SAMPLE = 20_000


@dataclass
class TokenTable:
    """Per record, -1 where there is nothing: tokens (n, 3) of the prompt and up to two answers; the first place at
    which two answers differ; whether an answer lacks an end (`endless`), and which rows end with a token that nothing
    names as one (`unnamed`, by token). Then what only single rows are named for: `refused`
    holds, by reason, what is wrong with each row that has no tokens for another reason than that it has no text,
    `unprinted` which rows hold something that the chat template does not print. `beyond` are rows that are too large to
    be tokenized: over the limit whatever their tokens are; `rowless` holds a row's tokens that the model does not know.
    """

    tokens: np.ndarray
    parting: np.ndarray
    endless: np.ndarray
    unnamed: dict[str, list[int]]
    merged: int
    merged_rows: list[int]
    without_tokens: list[int]
    refused: dict[str, dict[int, str]]
    unprinted: dict[str, list[int]]
    beyond: list[int] = field(default_factory=list)
    rowless: dict[int, set[int]] = field(default_factory=dict)

    @property
    def longest(self) -> np.ndarray:
        """(n,): tokens of the prompt and the longest answer."""
        return self.tokens[:, 0] + self.tokens[:, 1:].max(1)


def token_table(material: Material) -> TokenTable:
    """Tokenize everything, a block at a time, and keep a few numbers a row."""
    count = len(material.records)
    table = TokenTable(np.full((count, 3), -1), np.full(count, -1), np.zeros(count, dtype=bool), {}, 0, [], [], {}, {})
    ends = Ends(material.tokenizer)
    for start in range(0, count, _BLOCK):
        block = [_marked(row, at) for at, row in enumerate(material.records[start : start + _BLOCK], start)]
        found = _tokenize(material, block)
        for group in found.groups:
            _note(table, group, ends)
            rowless = {
                token for ids in (group.prompt, *group.answers) for token in without_row(ids, material.tokenizer)
            }
            if rowless:
                table.rowless[int(group.source.data_set)] = rowless
        _note_unusable(table, found)
        for one in found.unprinted:
            table.unprinted.setdefault(one.name, []).extend(int(source.data_set) for source in one.sources)
        table.merged += found.boundary_merges
        if found.boundary_merges and len(table.merged_rows) < EXAMPLES:
            table.merged_rows += [
                int(row.source.data_set) for row in block if _tokenize(material, [row]).boundary_merges
            ]
    return table


def _marked(record: Record, number: int) -> Record:
    """The record with its number where its data set's name stands, which no message shows."""
    return replace(record, source=replace(record.source, data_set=str(number)))


def _tokenize(material: Material, block: Sequence[Record]) -> Tokenized:
    talks = any(isinstance(row.prompt, tuple) for row in block)
    chat = material.chat if talks else None
    how: dict[str, Any] = {"chat": chat, "losses": "collect", "too_long": material.max_length}
    return tokenize_records(block, material.tokenizer, max_length=_NO_LIMIT, truncation="drop", **how)


def _note(table: TokenTable, group: Group, ends: Ends) -> None:
    at = int(group.source.data_set)
    table.tokens[at, 0] = len(group.prompt)
    for place, answer in enumerate(group.own_answers, 1):
        table.tokens[at, place] = len(answer)
    unended = [turn for turn in group.unended(ends)[: len(group.own_answers)] if turn is not None]
    unnamed = {end for turn in unended if (end := ends.unnamed(turn)) is not None}
    table.endless[at] = any(ends.unnamed(turn) is None for turn in unended)
    for end in unnamed:
        table.unnamed.setdefault(ends.name(end), []).append(at)
    if len(group.own_answers) == 2:
        one, other = group.own_answers
        size = min(len(one), len(other))
        apart = np.flatnonzero(one[:size] != other[:size])
        table.parting[at] = apart[0] if len(apart) else size


_EMPTY_OR_TWINS = frozenset({"no-prompt-tokens", "no-answer-tokens", "identical-answers"})


def _note_unusable(table: TokenTable, found: Tokenized) -> None:
    for row in sorted(found.unusable, key=lambda row: int(row.source.data_set)):
        at = int(row.source.data_set)
        if row.reason in _EMPTY_OR_TWINS:
            table.without_tokens.append(at)
        elif row.reason == "over-max-length":
            table.beyond.append(at)
        else:
            table.refused.setdefault(row.reason, {})[at] = row.detail


def _unprinted(material: Material, table: TokenTable) -> list[Finding]:
    rows = sorted({at for found in table.unprinted.values() for at in found})
    details = {"not_printed": {name: len(found) for name, found in table.unprinted.items()}}
    names = ", ".join(table.unprinted)
    words = f"rows whose messages hold what the template leaves out ({names})"
    return material.finding("not-printed", rows, words, details=details)


def _past_template(material: Material) -> list[Finding]:
    rows = past_template(material.records, material.tokenizer)
    return material.finding("past-chat-template", rows, "rows of text, which goes past the model's chat template")


def _refused(material: Material, table: TokenTable) -> list[Finding]:
    """A finding for each reason for which rows cannot become tokens, with what is wrong with the first of them."""
    found = []
    for reason, rows in table.refused.items():
        words = f"rows that cannot become tokens ({reason.replace('-', ' ')})"
        details = {"first": f"{material.records[min(rows)].source}: {rows[min(rows)]}"}
        found += material.finding(reason, sorted(rows), words, details=details)
    return found


def _rowless(material: Material, table: TokenTable) -> list[Finding]:
    """Rows that spell a token without a row in the model's embedding, with the tokens."""
    named = tokens_in_words(material.tokenizer, sorted(set().union(*table.rowless.values())))
    words = f"rows that spell what the model's embedding has no row for: {named}"
    return material.finding("token-without-row", sorted(table.rowless), words)


def token_checks(material: Material) -> tuple[list[Finding], dict[str, Any]]:
    """Everything that needs the tokenizer."""
    assert material.max_length is not None
    table = token_table(material)
    findings = [
        *_refused(material, table),
        *_unprinted(material, table),
        *_past_template(material),
        *_rowless(material, table),
        *_over_limit(material, table),
        *_cut_apart(material, table),
        *_ends(material, table),
    ]
    statistics = {"tokens": _statistics(material, table)}
    rule = length_rule(material, table.tokens[:, 1:])
    if rule is not None:
        statistics["length_rule_tokens"] = rule[0]
    return findings, statistics


def _over_limit(material: Material, table: TokenTable) -> list[Finding]:
    limit = min(material.max_length or 0, _NO_LIMIT)
    longest = table.longest
    rows = sorted([*np.flatnonzero(longest > limit).tolist(), *table.beyond])
    fits = {f"{share:.0%}": int(np.quantile(longest, share, method="higher")) for share in (0.9, 0.95, 0.99, 1.0)}
    details = {"max_length": limit, "longest": int(longest.max()), "length_that_keeps": fits}
    if table.beyond:
        details["too_large_to_count"] = len(table.beyond)
    return material.finding("over-max-length", rows, f"rows of more than {limit:,} tokens", details=details)


def _cut_apart(material: Material, table: TokenTable) -> list[Finding]:
    """Pairs over the limit whose answers are the same up to the cut on the right."""
    limit = min(material.max_length or 0, _NO_LIMIT)
    room = limit - table.tokens[:, 0]
    rows = np.flatnonzero((table.longest > limit) & (table.parting >= 0) & (table.parting >= room)).tolist()
    return material.finding("distinguishing-part-cut", rows, f"rows whose answers differ only beyond {limit:,} tokens")


def _ends(material: Material, table: TokenTable) -> list[Finding]:
    unnamed = sorted({at for several in table.unnamed.values() for at in several})
    ends = f"rows with an answer that ends with {' or '.join(table.unnamed)}, {NOT_NAMED}"
    with_end = {"ends_with": {name: len(at) for name, at in table.unnamed.items()}}
    without = "rows with a prompt or an answer without tokens, or with twins"
    endless = np.flatnonzero(table.endless).tolist()
    merges = "rows with a token across the boundary of prompt and answer"
    return [
        *material.finding("missing-eos", endless, "rows with an answer that has no end-of-sequence token"),
        *material.finding("unnamed-end", unnamed, ends, details=with_end),
        *material.finding("no-tokens", table.without_tokens, without),
        *material.finding("boundary-merges", table.merged_rows, merges, count=table.merged, records=()),
    ]


def _statistics(material: Material, table: TokenTable) -> dict[str, Any]:
    whole = table.tokens[:, 0] >= 0
    sides = {name: values[values >= 0] for name, values in sides_of(material, table.tokens).items()}
    longest = table.longest[whole]
    bars = histogram(longest)
    return {
        **{name: summary(values) for name, values in sides.items()},
        "prompt_and_longest_answer": summary(longest),
        "histogram": {"edges": bars["edges"], "counts": {"prompt and longest answer": bars["counts"][0]}},
        "max_length": material.max_length,
        "total": int(table.tokens[table.tokens > 0].sum()),
        "scripts": _scripts(material, table),
    }


def _scripts(material: Material, table: TokenTable) -> dict[str, dict[str, float]]:
    """Tokens a character of the answers, by the script that most of an answer's letters are of."""
    sums: dict[str, list[int]] = {}
    for number in sampled(range(len(material.records)), _SCRIPT_SAMPLE):
        for place, answer in enumerate(answers_of(material.records[number]), 1):
            text, tokens = text_of(answer), int(table.tokens[number, place])
            if tokens > 0:
                found = sums.setdefault(main_script(text), [0, 0, 0])
                for at, value in enumerate((1, len(text), tokens)):
                    found[at] += value
    ordered = sorted(sums.items(), key=lambda item: -item[1][0])
    return {
        name: {
            "answers": answers,
            "characters": characters,
            "tokens": tokens,
            "tokens_per_character": tokens / characters,
        }
        for name, (answers, characters, tokens) in ordered
    }


def chat_markup(material: Material) -> list[Finding]:
    """Rows whose texts spell what chat templates write around turns, with what the tokenizer makes of it."""
    found = find_markup(material.records, material.tokenizer)
    return material.finding(
        "chat-markup",
        list(found.rows),
        "rows whose texts hold chat markup",
        more=f". {found.in_words()}",
        severity="info" if found.is_harmless else None,
        details={"marks": found.counts()},
    )
