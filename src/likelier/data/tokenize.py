"""Records to token groups: chat template, exact boundary between prompt and answer, truncation.

Prompt and prompt + answer are rendered and tokenized jointly; the answer begins where the two token lists part. Where a
token merges across the boundary, it belongs to the answer. The boundary is never inferred from characters.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from likelier.data import views
from likelier.data.dates import dated
from likelier.data.ends import Ends
from likelier.data.fidelity import LOSSES, Fidelity, Render, Unknown, find_added
from likelier.data.group_table import GroupColumns
from likelier.data.groups import Group
from likelier.data.masks import (
    cut_right,
    each_mask,
    together,
    trained_count,
)
from likelier.data.options import ChatOptions
from likelier.data.plain_text import TextKind, encode, kind_of_answer
from likelier.data.records import Message, Pair, Record, Source, TokenIds, Unusable, UnusableRows, answers_of
from likelier.data.rendering import RowRefused, Then, check_template, render
from likelier.data.token_cache import MappedIds, RecordIds, TokenFolder, ids_in_common, no_ids
from likelier.data.too_long import over_limit, surely_too_long
from likelier.data.turns import as_trained, begins_answer, check_begun, common_prefix, edges, joined, turn_masks
from likelier.data.unprinted import Unprinted, find_unprinted
from likelier.data.views import by_numbers
from likelier.utils.errors import DataError
from likelier.utils.terminal import counting

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Truncation = Literal["drop", "cut-prompt-left", "cut-answer-right", "error"]
BLOCK = 512


@dataclass
class Tokenized:
    """Groups with the numbers of the records that they are of (`kept`), the rows that could not become one, and what
    truncation and the boundary did.
    """

    groups: Sequence[Group] = field(default_factory=list)
    kept: Sequence[int] = field(default_factory=list)
    unusable: UnusableRows = field(default_factory=UnusableRows)
    max_length: int = 0
    boundary_merges: int = 0
    cut_prompts: int = 0
    cut_answers: int = 0
    answers_without_eos: int = 0
    unnamed_ends: Counter[str] = field(default_factory=Counter)  # of those answers, by the token they end with
    unprinted: list[Unprinted] = field(default_factory=list)
    added: dict[str, Source] = field(default_factory=dict)  # see `find_added`

    def counts(self) -> dict[str, int]:
        """The account for the run card."""
        return {
            "groups": len(self.groups),
            "unusable": len(self.unusable),
            "undecided": self.unusable.counts().get("undecided-pair", 0),
            "boundary_merges": self.boundary_merges,
            "cut_prompts": self.cut_prompts,
            "cut_answers": self.cut_answers,
            "answers_without_eos": self.answers_without_eos,
        }

    def answer_lengths(self) -> array[int]:
        """Tokens of each group's own answers that are trained on."""
        return array(
            "i", (count for group in self.groups for count in map(trained_count, group.own_answers, group.own_masks))
        )


def tokenize_records(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    truncation: Truncation = "drop",
    chat: ChatOptions | None = None,
    cached: bool = False,
    losses: Literal["error", "collect", "ignore"] = "error",
    too_long: int | None = None,
) -> Tokenized:
    """Tokenize every record, conversations by the chat template as `chat` asks for; `cached` keeps the ids on disk.
    Very large rows that surely have more than `too_long` tokens (by default `max_length`) are only counted.

    Rows over `max_length` (prompt + longest answer) are treated by `truncation`:

    `drop` leaves the row out and counts it; `cut-prompt-left` removes the beginning of the prompt; `cut-answer-right`
    removes the end of the answer, which then has no EOS; `error` raises. Raises `ModelError` if conversations are given
    and the tokenizer has no chat template, and `DataError` for rows of which the template loses text, but where
    `losses` asks for them among the unusable ones (`collect`) or does not look for them (`ignore`).
    """
    chat = chat or ChatOptions()
    check_template(records, tokenizer, chat)
    check_ids(records, tokenizer)
    result, ends = Tokenized(max_length=max_length), Ends(tokenizer)
    as_rendered = render_by(tokenizer, chat)
    result.unprinted, result.added = find_unprinted(records, as_rendered), find_added(records, as_rendered)
    checked = losses != "ignore"
    fidelity = Fidelity(render_by(tokenizer, chat), chat, checked)
    as_text = partial(_renderings, ends=ends, fidelity=fidelity)
    beyond = surely_too_long(records, tokenizer, too_long or max_length, truncation, as_text)
    fitting = by_numbers(records, (n for n in range(len(records)) if n not in beyond)) if beyond else records
    if cached:  # what another preparation left in memory (see `sharing_ids`), or else on disk
        rows = ids_in_common(fitting, tokenizer, chat, lambda missing: _ids_on_disk(missing, tokenizer, chat))
    else:
        rows = _record_ids(fitting, tokenizer, chat, checked=checked)
    left, kept = iter(rows), array("q")
    groups = GroupColumns(rows.ids) if isinstance(rows, MappedIds) and len(records) > views.IN_MEMORY else list[Group]()
    for number, record in enumerate(records):
        group = _to_group(record, beyond.get(number) or next(left), result, truncation)
        if group is not None:
            groups.append(group)
            kept.append(number)
            unended = [turn for turn in group.unended(ends) if turn is not None]
            result.answers_without_eos += len(unended)
            result.unnamed_ends.update(ends.name(end) for turn in unended if (end := ends.unnamed(turn)) is not None)
    result.groups, result.kept = groups.groups() if isinstance(groups, GroupColumns) else groups, kept
    if losses == "error":
        refuse_losses(result.unusable, len(records))
    return result


def refuse_losses(unusable: UnusableRows, total: int) -> None:
    """Raises `DataError` for rows whose tokens would say another thing than the row: nobody can have meant that."""
    lossy = [row for row in unusable if row.reason in LOSSES]
    if lossy:
        raise DataError(f"{lossy[0].source}: {lossy[0].detail} ({len(lossy)} of {total} rows are so)")


def _ids_on_disk(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, chat: ChatOptions
) -> Iterable[RecordIds]:
    """The ids from disk, put there first where they are not yet and are worth it."""
    folder = TokenFolder.of(records, tokenizer, chat)
    found = folder and folder.read()
    if folder is not None and found is None:
        with counting("tokenizing", len(records)) as report:
            folder.write(_record_ids(records, tokenizer, chat, report))
        found = folder.read()
    return _record_ids(records, tokenizer, chat) if found is None else found


def _record_ids(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatOptions,
    report: Callable[[int], None] = lambda done: None,
    *,
    checked: bool = True,
) -> Iterator[RecordIds]:
    chat = dated(chat, tokenizer.chat_template)  # for all rows alike, if a minute or a day ends meanwhile
    fidelity, unknown = Fidelity(render_by(tokenizer, chat), chat, checked), Unknown(tokenizer)
    for start in range(0, len(records), BLOCK):
        block = list(records[start : start + BLOCK])
        for record, ids in zip(block, tokenize_block(block, tokenizer, fidelity), strict=True):
            if isinstance(ids, RowRefused):
                yield no_ids(ids.reason, ids.detail)
                continue
            own = answers_of(record)
            prompt, *rest = ids
            whole, cuts = rest[: len(own)], rest[len(own) :]
            boundary = min(common_prefix(prompt, full) for full in whole)
            answers = tuple(np.asarray(full[boundary:], dtype=np.int32) for full in whole)
            start, masks = np.asarray(prompt[:boundary], dtype=np.int32), turn_masks(own, whole, cuts, boundary)
            lost = unknown.lost(own, answers, each_mask(masks, len(own))) if checked else ""
            yield no_ids("text-lost", lost) if lost else RecordIds(start, answers, boundary < len(prompt), masks=masks)
        report(len(block))


def check_ids(records: Iterable[Record], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `DataError` for token ids that the vocabulary lacks."""
    size = len(tokenizer)
    for record in records:
        for content in (record.prompt, *answers_of(record)):
            if isinstance(content, TokenIds) and not all(0 <= token < size for token in content.ids):
                wrong = next(token for token in content.ids if not 0 <= token < size)
                raise DataError(
                    f"{record.source}: the token id {wrong} is not in this model's vocabulary of {size} tokens; "
                    "tokenize the rows for this model, or give text"
                )


def tokenize_block(
    block: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    fidelity: Fidelity,
    parts: Callable[[Record, Ends, Fidelity], list[tuple[TextKind, str] | list[int]]] | None = None,
) -> list[list[list[int]] | RowRefused]:
    """For each record the ids of its `parts` (by default the prompt, prompt + each answer and the `edges` of turns in
    them), or why it has none.
    """
    parts = parts or _renderings
    ends = Ends(tokenizer)
    texts: dict[TextKind, list[str]] = {}
    places: list[list[tuple[TextKind, int] | list[int]] | RowRefused] = []
    for record in block:
        try:
            places.append([_placed(part, texts) for part in parts(record, ends, fidelity)])
        except RowRefused as refused:
            places.append(refused)
    ids = {kind: encode(tokenizer, kind, some, ends) for kind, some in texts.items()}
    return [
        record if isinstance(record, RowRefused) else [ids[p[0]][p[1]] if isinstance(p, tuple) else p for p in record]
        for record in places
    ]


def _placed(
    part: tuple[TextKind, str] | list[int], texts: dict[TextKind, list[str]]
) -> tuple[TextKind, int] | list[int]:
    """Ids as they are; a text joins the others of its kind, and its place among them is returned."""
    if isinstance(part, list):
        return part
    kind, text = part
    texts.setdefault(kind, []).append(text)
    return kind, len(texts[kind]) - 1


def _renderings(record: Record, ends: Ends, fidelity: Fidelity) -> list[tuple[TextKind, str] | list[int]]:
    """The prompt, then prompt + each answer, then the `edges` of turns: as (kind, text), or as ids where the row came
    tokenized.
    """
    record = as_trained(record, fidelity.chat)
    prompt = record.prompt
    if isinstance(prompt, TokenIds):
        answers = (answer for answer in answers_of(record) if isinstance(answer, TokenIds))
        return [list(prompt.ids), *(list(prompt.ids + answer.ids) for answer in answers)]
    if isinstance(prompt, str):
        texts = [str(answer) for answer in answers_of(record)]
        return [("plain", prompt), *((kind_of_answer(prompt, text, ends), prompt + text) for text in texts)]
    asked = asked_text(prompt, record, fidelity)
    answers = [answer for answer in answers_of(record) if isinstance(answer, tuple)]
    wholes = [fidelity.render(joined(prompt, answer), record.source, record.tools) for answer in answers]
    check_begun(record, asked, wholes)
    found = [asked, *wholes, *edges(record, asked, wholes, fidelity.render)]
    for answer, whole in zip(answers, wholes, strict=True):
        fidelity.require(prompt, answer, asked, whole, record)
    return [("templated", text) for text in found]


def asked_text(prompt: tuple[Message, ...], record: Record, fidelity: Fidelity) -> str:
    """A conversation up to where the answer begins."""
    return fidelity.render(prompt, record.source, record.tools, then="more" if begins_answer(prompt) else "answer")


def render_by(tokenizer: PreTrainedTokenizerBase, chat: ChatOptions) -> Render:
    """Rendering by this template."""

    def by_template(
        messages: tuple[Message, ...], source: Source | str, tools: str, *, then: Then | None = None
    ) -> str:
        return render(tokenizer, messages, chat, source, tools, then=then)

    return by_template


def _to_group(record: Record, ids: RecordIds, result: Tokenized, truncation: Truncation) -> Group | None:
    if ids.unfit:
        result.unusable.append(Unusable(record.source, *ids.unfit))
        return None
    cut = _truncated(ids, result.max_length, truncation, record.source)
    reason = "over-max-length" if cut is None else _unfit(cut)
    if cut is None or reason:
        detail = f"{len(ids.prompt) + max(map(len, ids.answers))} tokens" if cut is None else ""
        result.unusable.append(Unusable(record.source, reason, detail))
        return None
    cut_answers = sum(len(kept) < len(full) for kept, full in zip(cut.answers, ids.answers, strict=True))
    cut_prompt = len(cut.prompt) < len(ids.prompt)
    result.boundary_merges += ids.merged
    result.cut_prompts += cut_prompt
    result.cut_answers += cut_answers
    desirable = None if isinstance(record, Pair) else getattr(record, "desirable", True)
    is_whole = not (cut_prompt or cut_answers)  # what the file claims is of the whole row
    given = record.ref_logps if isinstance(record, Pair) and is_whole else None
    margin, flip = (record.margin, record.flip_chance) if isinstance(record, Pair) else (None, None)
    return Group(cut.prompt, cut.answers, record.source, desirable, None, given, record.weight, margin, flip, cut.masks)


def _unfit(ids: RecordIds) -> str:
    if not len(ids.prompt):
        return "no-prompt-tokens"
    if not all(map(trained_count, ids.answers, each_mask(ids.masks, len(ids.answers)))):
        return "no-answer-tokens"
    return "identical-answers" if len(ids.answers) == 2 and np.array_equal(*ids.answers) else ""


def _truncated(ids: RecordIds, limit: int, truncation: Truncation, source: Source) -> RecordIds | None:
    """Prompt and answers within the limit, or None where the policy leaves the row out."""
    prompt, answers = ids.prompt, ids.answers
    longest = max(map(len, answers))
    if len(prompt) + longest <= limit:
        return ids
    if truncation == "error":
        raise over_limit(source, str(len(prompt) + longest), limit)
    if truncation == "cut-prompt-left" and longest < limit:
        return ids._replace(prompt=prompt[len(prompt) + longest - limit :])
    if truncation == "cut-answer-right" and len(prompt) < limit:
        masks = each_mask(ids.masks, len(answers))
        kept = [cut_right(answer, mask, limit - len(prompt)) for answer, mask in zip(answers, masks, strict=True)]
        return ids._replace(answers=tuple(answer for answer, _ in kept), masks=together(mask for _, mask in kept))
    return None


def default_max_length(context: int | None) -> int:
    """The model's context, at most 2048 tokens."""
    return min(context or 2048, 2048)
