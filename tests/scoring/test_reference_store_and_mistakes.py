"""The reference store among other files, and among several processes; what a reference keeps in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from likelier.models.policy import Policy
from likelier.scoring import attach_scorer
from likelier.scoring.reference import ReferenceStore, start_reference, store
from likelier.scoring.reference.store import ReferenceScoring
from likelier.utils.distributed import Ranks
from likelier.utils.errors import LikelierWarning, RunFolderError
from likelier.utils.files import cache_folder
from tests.helpers.support import lora_policy, tiny_policy


def written(folder: Path, *keys: int, identity: str = "reference") -> ReferenceStore:
    """A store with one segment more: each key's score is minus its number."""
    made = ReferenceStore(folder, identity)
    for key in keys:
        made.add(bytes([key]) * 16, -float(key), key)
    made.flush()
    return made


def scores(found: ReferenceStore, *keys: int) -> list[float | None]:
    logps, known = found.find([bytes([key]) * 16 for key in keys])
    return [logp if is_known else None for logp, is_known in zip(logps.tolist(), known.tolist(), strict=True)]


# --- on disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [lambda content: content[:-1], lambda content: b"", lambda content: content[8:] * 2])
def test_whole_segments_are_found_beside_a_damaged_one(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    for keys in ((1, 2), (3,), (4, 5)):
        written(tmp_path, *keys)
    damaged = next(path for path in (tmp_path / "reference").iterdir() if len(path.read_bytes()) < 40)
    damaged.write_bytes(harm(damaged.read_bytes()))
    with pytest.warns(LikelierWarning, match=f"{damaged.name} is damaged"):
        found = ReferenceStore(tmp_path, "reference")
    assert len(found) == 4 and scores(found, 5, 3, 1, 4, 2) == [-5.0, None, -1.0, -4.0, -2.0]


def test_a_store_asked_and_written_in_turns_knows_all_that_came(tmp_path: Path) -> None:
    found = ReferenceStore(tmp_path, "reference")
    for key in (7, 3, 9, 1):
        assert scores(found, key, 0) == [None, None]
        found.add(bytes([key]) * 16, -float(key), key)
        found.flush()
        assert scores(found, key, 0) == [-float(key), None]
        index = found._index
        assert scores(found, 0, key) == [None, -float(key)] and found._index is index  # nothing to sort in
    assert len(found) == 4 and scores(ReferenceStore(tmp_path, "reference"), 9, 1, 3, 7) == [-9.0, -1.0, -3.0, -7.0]


def test_a_store_that_the_user_named_may_be_a_link_and_what_lies_in_it_may_not(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "named").symlink_to(tmp_path / "disk")
    written(tmp_path / "named", 1)
    assert scores(ReferenceStore(tmp_path / "disk", "reference"), 1) == [-1.0]
    (tmp_path / "disk" / "other").symlink_to(tmp_path / "disk" / "reference")
    with pytest.raises(RunFolderError, match="other is a link"):
        ReferenceStore(tmp_path / "disk", "other")


def test_in_our_own_cache_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    (cache_folder() / "reference").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match="reference is a link"):
        ReferenceStore(cache_folder() / "reference", "some")


# --- several processes -----------------------------------------------------------------------------------------------


@dataclass
class Meeting:
    """Where threads that play the ranks bring their tensors."""

    size: int
    brought: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = Barrier(self.size)

    def all_of(self, rank: int, values: Tensor) -> Tensor:
        self.brought[rank] = values
        self.barrier.wait(20)
        found = torch.stack([self.brought[number] for number in range(self.size)])
        self.barrier.wait(20)
        return found


def ranks_at(meeting: Meeting, rank: int) -> Ranks:
    class Here(Ranks):
        def total(self, values: Tensor) -> Tensor:
            return meeting.all_of(self.rank, values).sum(0)

        def lowest(self, values: Tensor) -> Tensor:
            return meeting.all_of(self.rank, values).amin(0)

    return Here(rank, meeting.size)


@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_gets_each_score_from_the_first_that_knows_it(size: int) -> None:
    rng, count = np.random.default_rng(size), 20
    known = rng.random((size, count)) < 0.4
    logps = np.where(known, -rng.random((size, count)), -1e9)  # what is not known is any number
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        asked = [
            pool.submit(store._exchanged, logps[rank], known[rank], ranks_at(meeting, rank)) for rank in range(size)
        ]
        found = [one.result(30) for one in asked]
    somewhere = known.any(0)
    assert 0 < somewhere.sum() < count
    for values, is_known in found:
        assert is_known.tolist() == somewhere.tolist()
        first = logps[known.argmax(0), np.arange(count)]
        assert values[somewhere].tolist() == first[somewhere].tolist()


def test_another_model_is_split_like_the_policy_where_that_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split: list[Any] = []
    monkeypatch.setattr(store, "shard_policy", lambda *given: split.append(given))
    other, moved = tiny_policy(), list[Any]()
    monkeypatch.setattr(other.model, "to", moved.append)
    ReferenceScoring(tmp_path, 64, "cpu").place(other)
    assert (split, moved) == ([], ["cpu"])
    ReferenceScoring(tmp_path, 64, "cpu", ranks=Ranks(1, 2), shard=True).place(other)
    assert (split, moved) == ([(other, torch.device("cpu"), Ranks(1, 2))], ["cpu"])


# --- in memory -------------------------------------------------------------------------------------------------------


def with_effect() -> Policy:
    policy = lora_policy()
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.05)
    return policy


@pytest.mark.parametrize("made", [tiny_policy, with_effect])
@pytest.mark.parametrize(("live", "keep_adapter"), [(None, None), (False, True), (True, False)])
def test_a_reference_stays_as_it_was_only_where_a_copy_is_asked_for(
    made: Callable[[], Policy], live: bool | None, keep_adapter: bool | None
) -> None:
    model = made().model
    attach_scorer(model, scorer="plain")
    asked = {"live": live, "keep_adapter": keep_adapter}
    given: Any = {name: value for name, value in asked.items() if value is not None}
    reference = start_reference(model, precision="float64", **given)
    copied = bool(live or (keep_adapter and made is with_effect))
    assert reference.at_hand == copied and reference.equals_policy
    weight = next(weight for weight in model.parameters() if weight.requires_grad)
    before = weight.detach().clone()
    weight.data.add_(1.0)
    with reference.use() as asked_model:
        held = next(one for one in asked_model.parameters() if one.shape == before.shape)
        assert torch.equal(held.detach(), before if copied else weight.detach())
        assert (asked_model is model) == (made is with_effect or not copied)
    assert torch.equal(weight.detach(), before + 1.0)
