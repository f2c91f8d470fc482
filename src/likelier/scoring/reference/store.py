"""Reference scores on disk, and how missing ones are computed.

A stored score is found by what was scored (prompt ids, answer ids) and by what scored it (weights, adapter state,
precision, scorer version); never by a configuration or a row number. So the store serves every run, objective, beta and
learning rate, and a row whose tokens changed is scored anew.
"""

from __future__ import annotations

import hashlib
import uuid
import warnings
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likelier.data.groups import Group
from likelier.data.masks import Mask, each_mask, trained_count
from likelier.data.views import Several, by_numbers, changed
from likelier.models.policy import Policy
from likelier.models.sharding import gathers_in_bfloat16, shard_policy
from likelier.models.token_budget import default_token_budget
from likelier.scoring import Batch, SequenceScores, attach_scorer
from likelier.scoring.engine import Report, ScoredGroups, score_everywhere, score_groups
from likelier.scoring.reference.identity import Reference
from likelier.utils.distributed import ALONE, Ranks
from likelier.utils.errors import LikelierWarning, WrongReferenceError, writing
from likelier.utils.files import cache_folder, refuse_link, write_whole

_ROW = np.dtype([("key", "S16"), ("logp", "<f8"), ("length", "<u4")])
_FLUSH_EVERY = 4096


def answer_key(prompt: np.ndarray, answer: np.ndarray, mask: Mask = None) -> bytes:
    """What was scored: a hash of the prompt's and the answer's token ids, and of the answer's mask where it has one."""
    kind = b"" if mask is None else b"masked"
    digest = hashlib.blake2b(len(prompt).to_bytes(4, "little"), digest_size=16, person=kind)
    digest.update(prompt.tobytes() + answer.tobytes() + (b"" if mask is None else mask.astype(bool).tobytes()))
    return digest.digest()


def _keys_of(group: Group, heads: bool) -> list[bytes]:
    """Of the answers, and with `heads` of theirs after them: a head is stored as the answer that it would be alone."""
    own = zip(group.answers, each_mask(group.masks, len(group.answers)), strict=True)
    return [answer_key(group.prompt, answer, mask) for answer, mask in (*own, *(group.heads if heads else ()))]


class ReferenceStore:
    """Scores of one reference on disk: append-only segments, each written whole, read together as one sorted index.

    What was written since is sorted in when the store is next asked, so that writing takes linear time.

    Several processes may use one: nobody changes a segment, a reader sees those that are there. A damaged segment is
    passed over with a warning and its rows are scored anew.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder / identity
        for place in (self.folder, *([folder] if cache_folder() in folder.parents else [])):
            refuse_link(place)
        self._index = np.empty(0, dtype=_ROW)
        self._unsorted = [self._read(path) for path in sorted(self.folder.glob("*.scores")) if not path.is_symlink()]
        self._pending: list[tuple[bytes, float, int]] = []

    def _read(self, path: Path) -> np.ndarray:
        content = path.read_bytes()
        body, check = content[:-4], content[-4:]
        if len(body) % _ROW.itemsize or zlib.crc32(body).to_bytes(4, "little") != check:
            warnings.warn(f"{path} is damaged; its scores are computed again", LikelierWarning, stacklevel=2)
            return np.empty(0, dtype=_ROW)
        return np.frombuffer(body, dtype=_ROW)

    def find(self, keys: Sequence[bytes] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(logps, found) for the keys: float64 sums in nats, and which of them are known."""
        wanted = np.asarray(keys, dtype="S16")
        self._sort_in()
        if not len(self._index):
            return np.zeros(len(wanted)), np.zeros(len(wanted), dtype=bool)
        order = np.argsort(wanted)  # neighbours are looked up one after the other: several times as fast
        at = np.empty(len(wanted), dtype=np.intp)
        at[order] = np.searchsorted(self._index["key"], wanted[order]).clip(max=len(self._index) - 1)
        return self._index["logp"][at], self._index["key"][at] == wanted

    def _sort_in(self) -> None:
        """Take segments that came since into the index; of a key that is there twice the first one counts."""
        if not self._unsorted:
            return
        rows = np.concatenate([self._index, *self._unsorted])
        self._index, self._unsorted = rows[:0], []  # not held beside the sorted copy
        self._index = rows[np.argsort(rows["key"], kind="stable")]

    def add(self, key: bytes, logp: float, length: int) -> None:
        """Note one score; it is on disk after the next `flush`."""
        self._pending.append((key, logp, length))
        if len(self._pending) >= _FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write the noted scores as one segment."""
        if not self._pending:
            return
        rows = np.array(self._pending, dtype=_ROW)
        body = rows.tobytes()
        with writing(f"the reference store {self.folder}", mend="name another folder with --reference-store"):
            write_whole(self.folder / f"{uuid.uuid4().hex}.scores", body + zlib.crc32(body).to_bytes(4, "little"))
        self._unsorted.append(rows)
        self._pending = []

    def __len__(self) -> int:
        return len(self._index) + sum(map(len, self._unsorted))


@dataclass(frozen=True)
class ReferenceScoring:
    """How reference scores are computed: where they are kept, how much at once, and by which ranks together."""

    store: Path
    token_budget: int
    device: torch.device | str
    report: Report | None = None
    ranks: Ranks = ALONE
    shard: bool = False

    @staticmethod
    def here(policy: Policy, groups: Sequence[Group] = (), token_budget: int | None = None) -> ReferenceScoring:
        """On this machine's device, to which the policy is brought and given a scorer (see `attach_scorer`); the token
        budget is by default that of the device.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        policy.model.to(device)
        attach_scorer(policy.model, autocast=policy.autocast, groups=groups)
        budget = token_budget or default_token_budget(policy.model, device)
        return ReferenceScoring(cache_folder() / "reference", budget, device)

    @property
    def settings(self) -> dict[str, Any]:
        """What `score_groups` is told of it."""
        return {"token_budget": self.token_budget, "device": self.device, "report": self.report, "ranks": self.ranks}

    def place(self, other: Policy) -> None:
        """Bring another model to where it is scored: to the device, or split between the ranks like the policy."""
        if self.shard:
            shard_policy(other, torch.device(self.device), self.ranks)
        else:
            other.model.to(self.device)

    def precision_of(self, scored: Policy) -> str:
        """What its log-probabilities are computed in."""
        return scored.precision + ("-gathered" if self.shard and gathers_in_bfloat16(scored) else "")


@dataclass(frozen=True)
class Attached:
    """Groups with their reference scores, and how they were come by."""

    groups: Sequence[Group]
    computed: int
    found: int


def attach_reference(
    groups: Sequence[Group], reference: Reference, how: ReferenceScoring, *, heads: bool = False
) -> Attached:
    """Give every group its reference scores: from the store, and where it has none, computed and stored. With `heads`
    pairs get those of their answers' heads too, which are read off the answers' own tokens.

    Of several ranks each computes and stores its share, and all of them have all scores in the end, wherever their
    stores lie.
    """
    store = ReferenceStore(how.store, reference.identity)
    keys, counts = _all_keys(groups, heads)
    _, known = _exchanged(*store.find(keys), how.ranks)
    missing, distinct = np.unique(keys[~known]), len(np.unique(keys))
    if len(missing):
        try:
            _score_into(store, _with_missing(groups, keys, counts, ~known), missing, reference, how, heads=heads)
        finally:
            store.flush()
    logps, _ = _exchanged(*store.find(keys), how.ranks)

    def with_scores(group: Group, own: tuple[float, ...]) -> Group:
        wholes = len(group.answers)
        return replace(group, ref_logps=own[:wholes], ref_head_logps=own[wholes:] or None)

    return Attached(changed(groups, with_scores, Several(logps, counts)), len(missing), distinct - len(missing))


def _all_keys(groups: Sequence[Group], heads: bool) -> tuple[np.ndarray, np.ndarray]:
    """The keys of all groups one after the other, and how many each group has."""
    flat, counts = bytearray(), array("i")
    for group in groups:
        own = _keys_of(group, heads)
        counts.append(len(own))
        flat += b"".join(own)
    return np.frombuffer(flat, dtype="S16"), np.asarray(counts, dtype=np.int32)


def _with_missing(
    groups: Sequence[Group], keys: np.ndarray, counts: np.ndarray, missing: np.ndarray
) -> Sequence[Group]:
    """The groups of which a score is missing, of equal ones the first."""
    ends, seen, numbers = np.cumsum(counts), set[bytes](), array("q")
    for number in np.unique(np.searchsorted(ends, np.flatnonzero(missing), side="right")).tolist():
        own = keys[ends[number] - counts[number] : ends[number]].tobytes()
        if own not in seen:
            seen.add(own)
            numbers.append(number)
    return by_numbers(groups, numbers)


def _exchanged(logps: np.ndarray, known: np.ndarray, ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
    """Each score from the first rank that knows it, and which are known to any."""
    if not ranks.several:
        return logps, known
    owners = ranks.lowest(torch.from_numpy(np.where(known, ranks.rank, ranks.size)))
    own = owners.numpy() == ranks.rank
    return ranks.total(torch.from_numpy(np.where(own, logps, 0.0))).numpy(), owners.numpy() < ranks.size


def score_live(
    groups: Sequence[Group], reference: Reference, how: ReferenceScoring, *, heads: bool = False
) -> list[Group]:
    """The groups (in any order) with scores that the reference gives now (with `heads` those of the answers' heads
    too); nothing is stored.
    """
    with reference.use() as model:
        parts = score_everywhere(model, groups, tokens=heads, **how.settings)
    return [group for part in parts for group in _with_scores(part, heads)]


def _with_scores(part: ScoredGroups, heads: bool) -> list[Group]:
    logps, numbers = part.scores.logps.double().tolist(), part.batch.answers_of_groups()
    beginnings = _head_logps(part) if heads else [None] * len(part.groups)
    return [
        replace(group, ref_logps=tuple(logps[number] for number in own), ref_head_logps=found)
        for group, own, found in zip(part.groups, numbers, beginnings, strict=True)
    ]


def _head_logps(part: ScoredGroups) -> list[tuple[float, ...]]:
    assert part.batch.items.pairs is not None
    return [tuple(both) for both in part.scores.heads(part.batch.items.pairs).double().tolist()]


def take_given(groups: Sequence[Group]) -> Sequence[Group]:
    """The groups with the reference scores that the data file claims."""
    return changed(groups, lambda group: replace(group, ref_logps=group.given_ref_logps))


def _score_into(
    store: ReferenceStore,
    groups: Sequence[Group],
    missing: np.ndarray,
    reference: Reference,
    how: ReferenceScoring,
    *,
    heads: bool,
) -> None:
    written = np.zeros(len(missing), dtype=bool)  # `missing` is sorted
    with reference.use() as model:
        for part in score_groups(model, groups, **how.settings):
            found = [*_answers_of(part.batch, part.scores), *(_heads_of(part) if heads else ())]
            keys = np.array([key for key, _, _ in found], dtype="S16")
            places = np.searchsorted(missing, keys).clip(max=len(missing) - 1)
            wanted = (missing[places] == keys).tolist()
            for (key, logp, length), place, is_missing in zip(found, places.tolist(), wanted, strict=True):
                if not isfinite(logp):
                    raise WrongReferenceError(
                        f"the reference gives a log-probability that is not finite, for one of {part.groups[0].source} "
                        f"to {part.groups[-1].source}; its weights or its precision are at fault"
                    )
                if is_missing and not written[place]:
                    written[place] = True
                    store.add(key, logp, length)


def _answers_of(batch: Batch, scores: SequenceScores) -> Iterator[tuple[bytes, float, int]]:
    logps, lengths = scores.logps.double().tolist(), scores.lengths.tolist()
    for number, answer in enumerate(batch.answers):
        prompt = batch.prompts[batch.prompt_of[number]]
        ids, own = (tokens.cpu().numpy().astype(np.int32) for tokens in (prompt, answer))
        mask = batch.masks[number] if batch.masks else None
        yield answer_key(ids, own, None if mask is None else mask.numpy()), logps[number], lengths[number]


def _heads_of(part: ScoredGroups) -> Iterator[tuple[bytes, float, int]]:
    for group, logps in zip(part.groups, _head_logps(part), strict=True):
        for (answer, mask), logp in zip(group.heads, logps, strict=True):
            yield answer_key(group.prompt, answer, mask), logp, trained_count(answer, mask)
