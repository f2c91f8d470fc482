"""Prompts without answers: what a policy is asked when it writes the answers itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from likelier.data.columns import Columns
from likelier.data.dates import dated
from likelier.data.ends import Ends
from likelier.data.fidelity import Fidelity
from likelier.data.formats import convert
from likelier.data.formats.asking import PROMPT_FORMATS, check_asked, unanswered
from likelier.data.formats.messages import as_written
from likelier.data.gym import gym_rows
from likelier.data.load import ChatMaps, sides, watched
from likelier.data.load import Source as Named
from likelier.data.names import GYM
from likelier.data.options import ChatOptions, DataSet
from likelier.data.plain_text import TextKind
from likelier.data.prepare import say_what_is_not_printed, say_what_texts_are
from likelier.data.records import Content, Record, Source, TokenIds, Unusable, UnusableRows, answers_of, spoken_key
from likelier.data.rendering import RowRefused, check_template, refuse_chat_options_of_text, refuse_inert_chat_options
from likelier.data.sources import NamedRows, stream_rows
from likelier.data.split import prompt_key, split_by_prompt
from likelier.data.tokenize import BLOCK, asked_text, check_ids, refuse_losses, render_by, tokenize_block
from likelier.data.too_long import surely_too_long
from likelier.data.turns import check_train_on
from likelier.data.unprinted import find_unprinted
from likelier.utils.console import say, warn
from likelier.utils.errors import ConfigError, DataError
from likelier.utils.shell import for_one_of_several

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptTruncation = Literal["drop", "cut-prompt-left", "error"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, and the row's further `columns` (JSON values, under the file's own names), for rewards.

    `tools` is the JSON text of the tools that the chat template is given.
    """

    prompt: Content
    source: Source
    columns: Mapping[str, Any] = field(default_factory=dict)
    tools: str = ""


@dataclass
class PromptData:
    """Training and held-out prompts, each once, and an account of every row that gave none."""

    train: list[Prompt]
    test: list[Prompt]
    unusable: UnusableRows = field(default_factory=UnusableRows)
    format: str = ""
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        held = f", {len(self.test)} held out" if self.test else ""
        left_out = f"; {len(self.unusable)} rows cannot be used:\n{self.unusable.summary()}" if self.unusable else ""
        notes = "".join(f"\n  {note}" for note in self.notes)
        return f"{len(self.train)} prompts ({self.format}){held}{left_out}{notes}"


def load_prompts(
    source: Named,
    *,
    eval_data: Named | None = None,
    eval_fraction: float | None = None,
    seed: int = 42,
    columns: Columns | Mapping[str, Any] | None = None,
) -> PromptData:
    """Load prompts from whatever `load_preferences` reads, whose answers are not looked at, from rows that only ask:
    `prompt` (text or messages), or a conversation that the user ends, and from `gym:TASK` (`data.gym`). Further columns
    are kept for rewards.

    A prompt that comes again is taken once. Held-out prompts as for preferences. Raises `DataError` for files that
    cannot be read or rows of no known format, `ConfigError` for options that contradict each other.
    """
    sets, held_sets, shared = sides(source, eval_data, eval_fraction, columns)
    maps = ChatMaps()
    data = _read(sets, source, shared, maps)
    if eval_data is not None:
        held = _read(held_sets, eval_data, shared, maps)
        data.test = held.train
        data.unusable.extend(held.unusable)
        data.notes += [f"held out, {note}" for note in held.notes]
        both = {prompt_key(one) for one in data.train} & {prompt_key(one) for one in data.test}
        if both:
            warn(f"{len(both)} held-out prompts are trained on as well; take them out of one side")
    elif eval_fraction is not None:
        data.train, data.test = map(list, split_by_prompt(data.train, eval_fraction, seed))
    maps.check()
    say(f"data: {data}")
    return data


def _read(sets: list[DataSet] | None, source: Named, columns: Columns | None, maps: ChatMaps) -> PromptData:
    if sets is None:
        return _distinct(_converted(stream_rows(source), "", columns, maps))  # type: ignore[arg-type]
    weighted = next((one for one in sets if one.weight != 1), None)
    if weighted is not None:
        raise ConfigError(f"{weighted.path}: a weight has no effect on prompts, of which each comes once; drop it")
    several = len(sets) > 1
    parts = [_converted(_rows_of(one), one.name if several else "", one.columns or columns, maps) for one in sets]
    if not several:
        return _distinct(parts[0])
    named = list(zip(sets, parts, strict=True))
    notes = [f"{one.name}: {len(part.train)} prompts ({part.format})" for one, part in named]
    notes += [f"{one.name}: {note}" for one, part in named for note in part.notes]
    unusable = UnusableRows([row for part in parts for row in part.unusable])
    prompts = [prompt for part in parts for prompt in part.train]
    return _distinct(PromptData(prompts, [], unusable, f"{len(sets)} data sets", notes))


def _rows_of(source: DataSet) -> NamedRows:
    """The rows of a file and the like, or questions that are made up."""
    return gym_rows(source) if source.path.startswith(GYM) else stream_rows(source)


def _converted(rows: NamedRows, name: str, columns: Columns | None, maps: ChatMaps) -> PromptData:
    """The prompt of every row, several of a row that gives several."""
    cells: dict[Source, Mapping[str, Any]] = {}

    def kept() -> Iterator[tuple[Source, Mapping[str, Any]]]:
        for source, row in watched(rows):
            cells[source] = row
            yield source, row

    with for_one_of_several() if name else nullcontext():
        found = convert(replace(rows, rows=kept()), columns, PROMPT_FORMATS, check_asked)
    maps.note(rows.name, columns, found)
    asked_in = _columns_asked_in(columns or Columns())
    prompts: list[Prompt] = []
    seen: set[tuple[Source, str]] = set()
    for record in found.records:
        if (record.source, key := _identity(record)) in seen:  # the pairs of a ranking are one row
            continue
        seen.add((record.source, key))
        source = replace(record.source, data_set=name) if name else record.source
        more = _further(cells.get(record.source, {}), asked_in, record)
        prompts.append(Prompt(record.prompt, source, more, record.tools))
    names = sorted({name for one in prompts for name in one.columns})
    notes = [f"columns kept for rewards: {', '.join(names)}"] if names else []
    return PromptData(prompts, [], found.unusable, found.format, [*found.notes, *notes])


def _identity(asked: Record | Prompt) -> str:
    return f"{spoken_key(asked.prompt)}\x03{asked.tools}"


def _columns_asked_in(columns: Columns) -> frozenset[str]:
    """The columns that are nothing but the prompt."""
    named = (getattr(columns, role) or role for role in ("prompt", "system", "tools"))
    return frozenset({*(name for name in named if isinstance(name, str)), "prompt_ids"})


_TALKS = frozenset({"messages", "conversations"})


def _further(row: Mapping[str, Any], asked_in: frozenset[str], record: Record) -> dict[str, Any]:
    """What a row holds beside the prompt; a conversation only where an answer ends it."""
    without = asked_in if any(answers_of(record)) else asked_in | _TALKS
    return {str(name): _json_value(value) for name, value in row.items() if name not in without}


def _json_value(value: Any) -> Any:
    """A cell as JSON has it: dates and the like as text, NaN as null."""
    return _plain(as_written(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, (str, bool, int)) else str(value)


def _distinct(data: PromptData) -> PromptData:
    """Each prompt once, the first time that it comes; how often one came again is noted."""
    first: dict[str, Prompt] = {}
    again: list[Prompt] = []
    for prompt in data.train:
        if first.setdefault(_identity(prompt), prompt) is not prompt:
            again.append(prompt)
    if again:
        others = sum(dict(one.columns) != dict(first[_identity(one)].columns) for one in again)
        words = f"; {others} of them have other columns, which are not read" if others else ""
        data.notes.append(f"{len(again)} rows repeat a prompt, which is taken once (first {again[0].source}){words}")
    return replace(data, train=list(first.values()))


# --- token ids -----------------------------------------------------------------------------------------------------


@dataclass
class TokenizedPrompts:
    """Token ids (int32 arrays) of the prompts that fit, these prompts, and those that were left out."""

    ids: list[np.ndarray] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    unusable: UnusableRows = field(default_factory=UnusableRows)
    max_prompt_length: int = 0
    cut_prompts: int = 0

    @property
    def hash(self) -> str:
        """A hash of the data: every token in order, and the columns that rewards are given."""
        digest = hashlib.blake2b(digest_size=16)
        for ids, prompt in zip(self.ids, self.prompts, strict=True):
            columns = json.dumps(prompt.columns, sort_keys=True)
            digest.update(f"{len(ids)}|".encode() + ids.tobytes() + columns.encode() + b"\n")
        return digest.hexdigest()

    def counts(self) -> dict[str, int]:
        """The account for the run card."""
        return {"prompts": len(self.prompts), "unusable": len(self.unusable), "cut_prompts": self.cut_prompts}


def prepare_prompts(
    prompts: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_length: int,
    truncation: PromptTruncation = "drop",
    chat: ChatOptions | None = None,
    checks_options: bool = True,
) -> TokenizedPrompts:
    """Tokenize prompts as they stand in front of an answer that is trained on: a conversation by the chat template with
    its generation prompt, plain text with its BOS, token ids as they are.

    A prompt of more than `max_prompt_length` tokens is treated by `truncation`: `drop` leaves it out and counts it,
    `cut-prompt-left` removes its beginning, `error` raises. Options of `chat` that have no effect are refused, unless
    `checks_options` is off, for those that a run recorded. Raises `ModelError` for conversations without a template,
    `DataError` where nothing is left, or where the template loses text of a prompt.
    """
    if max_prompt_length < 1:
        raise ConfigError(f"max_prompt_length={max_prompt_length} is out of range; it must be 1 or more")
    chat = dated(chat or ChatOptions(), tokenizer.chat_template)
    records = [unanswered(one.prompt, one.source, one.tools) for one in prompts]
    check_template(records, tokenizer, ChatOptions())
    if checks_options:
        check_prompt_options(prompts, chat)
    check_ids(records, tokenizer)
    say_what_texts_are(records, tokenizer)
    say_what_is_not_printed(find_unprinted(records, render_by(tokenizer, chat)))
    found = TokenizedPrompts(max_prompt_length=max_prompt_length)
    for prompt, ids in zip(prompts, _ids(records, tokenizer, chat, max_prompt_length, truncation), strict=True):
        if isinstance(ids, RowRefused):
            found.unusable.append(Unusable(prompt.source, ids.reason, ids.detail))
        else:
            _add(found, prompt, ids, truncation)
    refuse_losses(found.unusable, len(prompts))
    _say_what_is_left_out(found, len(prompts))
    return found


def check_prompt_options(prompts: Sequence[Prompt], chat: ChatOptions) -> None:
    """Raises `ConfigError` for an option of conversations that has no effect on these prompts."""
    records = [unanswered(one.prompt, one.source, one.tools) for one in prompts]
    refuse_chat_options_of_text(records, chat)
    refuse_inert_chat_options(records, chat)
    check_train_on(records, chat)


def _ids(
    records: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatOptions,
    limit: int,
    truncation: PromptTruncation,
) -> Iterator[list[int] | RowRefused]:
    """Each prompt's ids, or why it has none. Very large ones that surely do not fit are not tokenized."""
    fidelity, ends = Fidelity(render_by(tokenizer, chat), chat), Ends(tokenizer)

    def with_nothing_behind(record: Record) -> Any:
        return 2 * _alone(record, ends, fidelity)

    by_characters = "cut-prompt-left" if truncation == "cut-prompt-left" else "drop"
    beyond = surely_too_long(records, tokenizer, limit, by_characters, with_nothing_behind)
    for start in range(0, len(records), BLOCK):
        block = range(start, min(start + BLOCK, len(records)))
        small = [records[number] for number in block if number not in beyond]
        left = iter(tokenize_block(small, tokenizer, fidelity, _alone))
        for number in block:
            if number in beyond:
                _, detail = beyond[number].unfit or ("", "")
                yield _too_long(records[number].source, detail, limit, truncation)
                continue
            ids = next(left)
            yield ids if isinstance(ids, RowRefused) else ids[0]


def _alone(record: Record, ends: Ends, fidelity: Fidelity) -> list[tuple[TextKind, str] | list[int]]:
    """The prompt as text to be tokenized, or as the ids that it came as."""
    prompt = record.prompt
    if isinstance(prompt, TokenIds):
        return [list(prompt.ids)]
    if isinstance(prompt, str):
        return [("plain", prompt)]
    asked = asked_text(prompt, record, fidelity)
    fidelity.require(prompt, (), asked, asked, record)
    return [("templated", asked)]


def _add(found: TokenizedPrompts, prompt: Prompt, ids: list[int], truncation: PromptTruncation) -> None:
    """Add a prompt, cut where it is to be, or to those left out."""
    limit = found.max_prompt_length
    if not ids:
        found.unusable.append(Unusable(prompt.source, "no-prompt-tokens"))
        return
    if len(ids) > limit and truncation != "cut-prompt-left":
        refused = _too_long(prompt.source, f"{len(ids)} tokens", limit, truncation)
        found.unusable.append(Unusable(prompt.source, refused.reason, refused.detail))
        return
    found.cut_prompts += len(ids) > limit
    found.ids.append(np.asarray(ids[-limit:], dtype=np.int32))
    found.prompts.append(prompt)


def _too_long(source: Source, tokens: str, limit: int, truncation: PromptTruncation) -> RowRefused:
    """Why a prompt is left out. Raises `DataError` where there must be none such."""
    if truncation == "error":
        raise DataError(
            f"{source}: the prompt has {tokens}, the limit is {limit}; raise --max-prompt-length, or choose "
            "--prompt-truncation drop or cut-prompt-left"
        )
    return RowRefused(source, "over-max-prompt-length", tokens)


def _say_what_is_left_out(found: TokenizedPrompts, total: int) -> None:
    too_long = found.unusable.counts().get("over-max-prompt-length", 0)
    mend = "raise --max-prompt-length, or choose --prompt-truncation cut-prompt-left"
    if not found.prompts:
        raise DataError(
            f"none of the {total} prompts is left after tokenization (max_prompt_length {found.max_prompt_length}):\n"
            f"{found.unusable.summary()}" + (f"\n{mend[0].upper()}{mend[1:]}" if too_long else "")
        )
    if found.unusable:
        say(f"{len(found.unusable)} of {total} prompts are left out:\n{found.unusable.summary()}")
    if too_long > 0.05 * total:
        warn(f"{too_long / total:.0%} of the prompts are longer than {found.max_prompt_length} tokens; {mend}")
    if found.cut_prompts:
        say(f"{found.cut_prompts} prompts are cut on the left to {found.max_prompt_length} tokens")
