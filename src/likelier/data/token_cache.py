"""Token ids on disk, found by what was tokenized and by what tokenized it, and mapped into memory.

A folder for each list of records under one tokenizer and template holds `ids.npy`, all ids in a row, `sizes.npy`, how
they are cut, `gaps.npy`, where answers have tokens that are not trained on, if any have, and `checksum.json`.
Truncation comes after it, so that another maximum length finds the same folder. The folders can be deleted at any time.

Ids are also kept in memory, for several runs on the same records in one process. Within `sharing_ids()` nothing is
tokenized twice by one tokenizer and template: a record is known by its content, and so is each answer of a pair under
its prompt, which serves methods that take pairs as well as those that take labels.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from likelier.data import views
from likelier.data.dates import asks_for_date, dates_written
from likelier.data.ends import Ends
from likelier.data.masks import Masks, each_mask, gaps_of, together, with_gaps
from likelier.data.options import ChatOptions
from likelier.data.records import Record, answers_of, content_key
from likelier.utils.console import warn
from likelier.utils.files import cache_folder, made_anew, make_folder, refuse_link, refuse_links_below, sync_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 4  # rises when the ids of a record change
WORTH_CACHING = 1000  # records; fewer are tokenized in a second
_BLOCK = 4096  # rows whose sizes are looked at together
_NO_ANSWER = -1
_UNFIT = 2  # where others have 0 or 1, whether the boundary merged


class RecordIds(NamedTuple):
    """A record's token ids: the prompt up to where its answers part from it, and what follows; `masks` say which tokens
    of the answers are trained on, where that is not all of them.

    `merged` says that the prompt alone has other ids at its end than with an answer behind it. `unfit` is
    (reason, detail) of a record that has no ids.
    """

    prompt: np.ndarray
    answers: tuple[np.ndarray, ...]
    merged: bool
    unfit: tuple[str, str] | None = None
    masks: Masks = None


def no_ids(reason: str, detail: str) -> RecordIds:
    """Of a record that cannot become tokens."""
    return RecordIds(_EMPTY, (_EMPTY,), False, (reason, detail))


_EMPTY = np.zeros(0, dtype=np.int32)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase, chat: ChatOptions) -> Any:
    """A hash of all that decides a record's ids besides the record, to be added to; None where more decides."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    template = str(chat.chat_template or tokenizer.chat_template or "")
    if backend is None or (asks_for_date(template) and chat.date is None):
        return None
    found = hashlib.blake2b(digest_size=16)
    special = json.dumps({name: str(value) for name, value in sorted(tokenizer.special_tokens_map.items())})
    versions = f"{VERSION} {version('tokenizers')} {version('transformers')}"
    own = {name: value for name, value in asdict(chat).items() if name != "date"}
    ends = str(Ends(tokenizer).ids)
    parts = (versions, backend.to_str(), template, special, ends, json.dumps(own, sort_keys=True))
    for part in parts if chat.date is None else (*parts, dates_written(template, chat.date)):
        _add(found, part)
    return found


@dataclass(frozen=True)
class TokenFolder:
    """Where the ids of a list of records lie, or would."""

    path: Path

    @staticmethod
    def of(
        records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, chat: ChatOptions, cache: Path | None = None
    ) -> TokenFolder | None:
        """The folder of these records; None where their ids are not worth keeping or depend on more than is known."""
        found = tokenizer_digest(tokenizer, chat) if len(records) >= WORTH_CACHING else None
        if found is None:
            return None
        for record in records:
            for content in (record.prompt, *answers_of(record)):
                _add(found, content_key(content))
            _add(found, record.tools)
        return TokenFolder((cache or cache_folder()) / "tokens" / found.hexdigest())

    def read(self) -> MappedIds | None:
        """The ids, mapped from disk; None where there are none. Damaged ones are named, removed and None."""
        refuse_links_below(self.path)
        if not self.path.is_dir():
            return None
        try:
            names = [name for name in _ARRAYS if name != "gaps" or (self.path / "gaps.npy").exists()]
            ids, sizes, *gaps = (
                np.load(self.path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names
            )
            known = json.loads((self.path / "checksum.json").read_text(encoding="utf-8"))
            unfit = [(str(reason), str(detail)) for reason, detail in known.pop("unfit")]
            if known == _checksums(ids, sizes, *gaps) and len(unfit) == int((sizes[:, -1] == _UNFIT).sum()):
                return MappedIds(np.asarray(ids), sizes, unfit, gaps[0] if gaps else np.empty((0, 4)))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            pass  # as damaged as with a wrong checksum
        warn(f"{self.path}: the cached token ids are damaged; the rows are tokenized again")
        shutil.rmtree(self.path, ignore_errors=True)
        return None

    def write(self, rows: Iterable[RecordIds]) -> None:
        """Write the ids aside and move them to their place. A full disk is a warning: the run does not need them."""
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            make_folder(aside.parent)
            refuse_link(aside.parent)
            made_anew(aside)
            sizes, unfit, gaps, total = array("i"), [], array("i"), 0
            with open(aside / "flat", "wb") as stream:
                for number, row in enumerate(rows):
                    for part in (row.prompt, *row.answers):
                        stream.write(part.astype("<i4", copy=False).tobytes())
                        total += len(part)
                    sizes.extend(_sizes(row))
                    unfit += [row.unfit] if row.unfit else []
                    gaps.extend(one for gap in gaps_of(row.masks) for one in (number, *gap))
            if not total:  # no record has ids: nothing to keep
                shutil.rmtree(aside, ignore_errors=True)
                return
            by_row = (np.asarray(numbers, dtype="<i4").reshape(-1, 4) for numbers in (sizes, gaps))
            _finish(aside, total, unfit, *by_row)
            os.replace(aside, self.path)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            if not self.path.is_dir():  # else another process was first
                warn(f"{self.path.parent}: token ids cannot be cached: {error.strerror or error}")


_ARRAYS = ("ids", "sizes", "gaps")


def _add(found: Any, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    found.update(len(data).to_bytes(8, "little"))
    found.update(data)


def _sizes(row: RecordIds) -> tuple[int, int, int, int]:
    first, *second = row.answers
    state = _UNFIT if row.unfit else int(row.merged)
    return (len(row.prompt), len(first), len(second[0]) if second else _NO_ANSWER, state)


def _finish(folder: Path, total: int, unfit: list[tuple[str, str]], sizes: np.ndarray, gaps: np.ndarray) -> None:
    """Make arrays of the flat ids and of their sizes, with checksums and why rows have no ids, all of it on disk."""
    ids = np.memmap(folder / "flat", dtype="<i4", mode="r", shape=(total,))
    arrays = (ids, sizes, gaps) if len(gaps) else (ids, sizes)
    for name, one in zip(_ARRAYS, arrays, strict=False):
        np.save(folder / f"{name}.npy", one, allow_pickle=False)
    (folder / "checksum.json").write_text(json.dumps(_checksums(*arrays) | {"unfit": unfit}), encoding="utf-8")
    (folder / "flat").unlink()
    sync_files(folder)


def _checksums(*arrays: np.ndarray) -> dict[str, Any]:
    found = {}
    for name, one in zip(_ARRAYS, arrays, strict=False):
        crc = 0
        flat = one.reshape(-1)
        for start in range(0, len(flat), 2**22):
            crc = zlib.crc32(flat[start : start + 2**22].tobytes(), crc)
        found[name] = {"shape": list(one.shape), "crc32": crc}
    return found


class MappedIds:
    """The ids of many records, mapped from disk: `ids` are all of them in a row, of which each record's are pieces."""

    def __init__(self, ids: np.ndarray, sizes: np.ndarray, unfit: list[tuple[str, str]], gaps: np.ndarray) -> None:
        self.ids, self._sizes, self._unfit, self._gaps = ids, sizes, unfit, gaps

    def __iter__(self) -> Iterator[RecordIds]:
        place, reasons = 0, iter(self._unfit)
        for (prompt, first, second, merged), gaps in zip(self._each_size(), self._each_gaps(), strict=True):
            if merged == _UNFIT:
                yield no_ids(*next(reasons))
                continue
            lengths = [prompt, first] if second == _NO_ANSWER else [prompt, first, second]
            parts = []
            for length in lengths:
                parts.append(self.ids[place : place + length])
                place += length
            yield RecordIds(parts[0], tuple(parts[1:]), bool(merged), masks=with_gaps(lengths[1:], gaps))

    def _each_size(self) -> Iterator[list[int]]:
        for start in range(0, len(self._sizes), _BLOCK):
            yield from np.asarray(self._sizes[start : start + _BLOCK]).tolist()

    def _each_gaps(self) -> Iterator[list[tuple[int, int, int]]]:
        for start in range(0, len(self._sizes), _BLOCK):
            stop = min(start + _BLOCK, len(self._sizes))
            ends = np.searchsorted(self._gaps[:, 0], np.arange(start, stop + 1))
            own = self._gaps[ends[0] : ends[-1], 1:].tolist()
            ends = (ends - ends[0]).tolist()
            yield from (own[first:last] for first, last in itertools.pairwise(ends))


# --- ids in memory ---------------------------------------------------------------------------------------------------


Tokenize: TypeAlias = "Callable[[Sequence[Record]], Iterable[RecordIds]]"


class KnownIds:
    """The ids of records under one tokenizer and template."""

    def __init__(self) -> None:
        self._ids: dict[bytes, RecordIds] = {}

    def of(self, records: Sequence[Record], tokenize: Tokenize) -> list[RecordIds]:
        """The ids of the records; those that are not known yet are tokenized, each once."""
        keys = [_keys(record) for record in records]
        missing = {own: record for own, record in zip(keys, records, strict=True) if self._find(own) is None}
        for own, ids in zip(missing, tokenize(list(missing.values())) if missing else (), strict=True):
            self._add(own, ids)
        found = (self._find(own) for own in keys)
        return [ids for ids in found if ids is not None]

    def _find(self, keys: tuple[bytes, ...]) -> RecordIds | None:
        whole = self._ids.get(b"".join(keys))
        if whole is not None or len(keys) == 1:
            return whole
        parts = [part for key in keys if (part := self._ids.get(key)) is not None and not part.merged]
        if len(parts) < len(keys) or not all(np.array_equal(part.prompt, parts[0].prompt) for part in parts):
            return None
        masks = together(each_mask(part.masks, 1)[0] for part in parts)
        return RecordIds(parts[0].prompt, tuple(part.answers[0] for part in parts), merged=False, masks=masks)

    def _add(self, keys: tuple[bytes, ...], ids: RecordIds) -> None:
        """Where a token merges across the boundary, it moved for all answers of the record: they are known together."""
        if ids.merged or ids.unfit:
            self._ids[b"".join(keys)] = ids
            return
        for key, answer, mask in zip(keys, ids.answers, each_mask(ids.masks, len(keys)), strict=True):
            self._ids.setdefault(key, RecordIds(ids.prompt, (answer,), merged=False, masks=together((mask,))))


def _keys(record: Record) -> tuple[bytes, ...]:
    """A key for each answer under its prompt."""
    prompt = f"{content_key(record.prompt)}\x02{record.tools}\x02"
    texts = (prompt + content_key(answer) for answer in answers_of(record))
    return tuple(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)


_SHARED: ContextVar[dict[bytes, KnownIds] | None] = ContextVar("shared_ids", default=None)


@contextmanager
def sharing_ids() -> Iterator[None]:
    """Within it, what was tokenized once is found again."""
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def ids_in_common(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, chat: ChatOptions, tokenize: Tokenize
) -> Iterable[RecordIds]:
    """The ids of the records: within `sharing_ids` those that are known, and `tokenize` for the rest.
    Many are found again on disk.
    """
    shared = _SHARED.get()
    digest = None if shared is None else tokenizer_digest(tokenizer, chat)
    if shared is None or digest is None or len(records) > views.IN_MEMORY:
        return tokenize(records)
    return shared.setdefault(digest.digest(), KnownIds()).of(records, tokenize)
