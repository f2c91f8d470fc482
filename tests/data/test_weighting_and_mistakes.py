"""Weights, margins and soft labels: what is counted among what, and what makes another run of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from likelier import DPO, KTO, PreferenceTrainer, SimPO
from likelier.data.groups import Group
from likelier.data.mismatched import data_hash, derangement, token_hash, with_partners
from likelier.data.prepare import prepare_data
from likelier.data.records import Message, Pair, Record, Source
from likelier.data.tokenize import tokenize_records
from likelier.data.weighting import Signals, applied, with_mean_weight_1
from likelier.objectives import Objective
from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError, DataError, RunFolderError
from tests.helpers.support import chat_pairs, labelled_rows, tiny_policy, tiny_tokenizer


def pair(number: int, prompt: str, answer: str = "yes", **more: Any) -> Pair:
    def says(text: str) -> tuple[Message, ...]:
        return (Message("assistant", text),)

    return Pair((Message("user", prompt),), says(answer), says(f"no {number}"), Source("rows", number, "row"), **more)


def prepared(records: Sequence[Record], objective: Objective, signals: Signals, max_length: int = 512) -> list[Group]:
    wants: dict[str, Any] = {
        "method": objective.method,
        "wants": objective.data,
        "partners": objective.needs_partner,
    }
    limits: dict[str, Any] = {"max_length": max_length, "truncation": "drop", "signals": signals}
    return prepare_data(records, [], tiny_tokenizer(), **wants, **limits).train.groups


def per_prompt(groups: Sequence[Group]) -> dict[bytes, float]:
    """The weight of each prompt's groups together."""
    found: dict[bytes, float] = defaultdict(float)
    for one in groups:
        found[one.prompt.tobytes()] += one.weight
    return found


def test_what_is_asked_for_is_told_by_the_options_names() -> None:
    asked = TrainingOptions(use_votes="soft", use_weights="scores", use_margins="column", min_score_gap=0.5)
    told = asked.signals.words()
    assert told == {name: getattr(asked, name) for name in told} and len(told) == 4
    assert TrainingOptions().signals.words() == {}


# --- weights of prompts ----------------------------------------------------------------------------------------------

LONG = "very good and " * 40


@pytest.mark.parametrize(
    ("signals", "left_out"),
    [
        (Signals(weights="prompt"), {"votes": (1, 1, 0)}),
        (Signals(weights="prompt"), {"flip_chance": 0.5}),
        (Signals(weights="prompt", min_score_gap=1.0), {"scores": (1.5, 1.0)}),
        (Signals(weights="prompt"), {"answer": LONG}),
    ],
    ids=["a tie", "an even share", "close scores", "too long"],
)
@pytest.mark.parametrize("objective", [DPO(), KTO()], ids=["dpo", "kto"])
@pytest.mark.filterwarnings("ignore:.*of the training rows do not fit")
def test_rows_that_are_left_out_take_no_share_of_their_prompts_weight(
    signals: Signals, left_out: dict[str, Any], objective: Objective
) -> None:
    """Every prompt counts alike: the first has one row left of three, the second two of two, the third its one."""
    scores: dict[str, Any] = {"scores": (3.0, 1.0)}
    records = [
        pair(1, "red cat", "yes it was", **scores),
        pair(2, "red cat", **scores | {"answer": "and right"} | left_out),
        pair(3, "red cat", **scores | {"answer": "but wrong"} | left_out),
        pair(4, "blue dog", "yes sat", **scores),
        pair(5, "blue dog", "yes ran", **scores),
        pair(6, "a hill", "very fast", **scores),
    ]
    groups = prepared(records, objective, signals, max_length=80)
    kept = len(groups)  # KTO takes the short answer of a pair whose other one is too long
    halves = objective.data == "labels" and "answer" in left_out
    assert {one.source.number for one in groups} == ({1, 2, 3, 4, 5, 6} if halves else {1, 4, 5, 6})
    weights = per_prompt(groups)
    assert len(weights) == 3 and list(weights.values()) == pytest.approx([kept / 3] * 3)
    if objective.data == "pairs":
        assert list(weights.values()) == pytest.approx([4 / 3] * 3)
        assert [one.weight for one in groups] == pytest.approx([4 / 3, 2 / 3, 2 / 3, 4 / 3])


def test_votes_still_count_beside_the_prompts_share() -> None:
    records = [
        pair(1, "red cat", "yes it was", votes=(3, 1, 0)),
        pair(2, "red cat", LONG, votes=(4, 0, 0)),
        pair(3, "blue dog", "yes sat", votes=(4, 0, 0)),
        pair(4, "blue dog", "yes ran", votes=(3, 1, 0)),
    ]
    with pytest.warns(UserWarning, match="do not fit"):
        groups = prepared(records, DPO(), Signals(weights="prompt", votes="weight"), max_length=80)
    shares = [0.5, 1 / 2, 0.5 / 2]
    mean = sum(shares) / 3
    assert [one.weight for one in groups] == pytest.approx([share / mean for share in shares])


def test_weights_have_mean_1_and_keep_their_proportions() -> None:
    groups = tokenize_records(chat_pairs(5), tiny_tokenizer(), max_length=512).groups
    weighed = [replace(one, weight=float(number)) for number, one in enumerate(groups)]
    for signals in (Signals(weights="column"), Signals(votes="weight"), Signals(weights="scores")):
        found = [one.weight for one in with_mean_weight_1(weighed, signals)]
        assert found == pytest.approx([number / 2 for number in range(5)])
    assert [one.weight for one in with_mean_weight_1(weighed, Signals(votes="soft"))] == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="of every other one is 0"):
        with_mean_weight_1([replace(one, weight=0.0) for one in groups], Signals(weights="column"))


def test_held_out_rows_may_lack_what_training_rows_must_have() -> None:
    """What would have no effect is refused for the rows that are trained on, and for no others."""
    records = [pair(1, "red cat"), pair(2, "blue dog")]
    for signals in (Signals(votes="soft"), Signals(weights="column"), Signals(weights="prompt")):
        with pytest.raises(ConfigError, match="has no effect"):
            applied(records, signals)
        kept, left_out = applied(records, signals, held_out=True)
        assert len(kept) == 2 and not left_out


def test_a_gap_of_just_as_much_as_asked_for_is_enough() -> None:
    records = [pair(1, "red cat", scores=(2.0, 1.0)), pair(2, "blue dog", scores=(1.9, 1.0))]
    kept, left_out = applied(records, Signals(min_score_gap=1.0))
    assert [one.source.number for one in kept] == [1] and [one.reason for one in left_out] == ["scores-too-close"]


# --- the hash of the data --------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Group], Group]] = {
    "weight": lambda one: replace(one, weight=one.weight + 1e-9),
    "margin": lambda one: replace(one, margin=0.25),
    "another margin": lambda one: replace(one, margin=0.0),
    "soft label": lambda one: replace(one, flip_chance=0.25),
    "another soft label": lambda one: replace(one, flip_chance=0.0),
    "prompt": lambda one: replace(one, prompt=one.prompt[1:]),
    "answer": lambda one: replace(one, answers=(one.answers[0], one.answers[1][:-1])),
    "order of the answers": lambda one: replace(one, answers=one.answers[::-1]),
    "label": lambda one: replace(one, desirable=True),
}


def test_whatever_a_step_reads_of_the_data_is_in_their_hash() -> None:
    groups = tokenize_records(chat_pairs(6), tiny_tokenizer(), max_length=512).groups
    for at in (0, 3, 5):
        hashes = {"as it is": data_hash(groups)}
        for name, change in CHANGES.items():
            hashes[name] = data_hash([*groups[:at], change(groups[at]), *groups[at + 1 :]])
        assert len(set(hashes.values())) == len(hashes)
    exchanged = [replace(groups[0], flip_chance=0.1), replace(groups[1], flip_chance=0.2)]
    other = [replace(groups[0], flip_chance=0.2), replace(groups[1], flip_chance=0.1)]
    assert data_hash(exchanged) != data_hash(other)


def test_scores_and_sources_are_not_in_the_hash_and_signals_not_in_the_tokens() -> None:
    groups = tokenize_records(chat_pairs(3), tiny_tokenizer(), max_length=512).groups
    same = [replace(one, ref_logps=(1.0, 2.0), source=Source("elsewhere", 9)) for one in groups]
    assert data_hash(same) == data_hash(groups) == token_hash(groups)
    signals = [replace(one, weight=2.0, margin=1.0, flip_chance=0.5) for one in groups]
    assert token_hash(signals) == token_hash(groups) != data_hash(signals)


def test_partners_are_a_matter_of_the_tokens_alone() -> None:
    groups = tokenize_records(labelled_rows(12), tiny_tokenizer(), max_length=512).groups
    weighed = [replace(one, weight=3.0) for one in groups]
    assert derangement(groups, token_hash(groups)) == derangement(weighed, token_hash(weighed))
    joined = with_partners(weighed, 512)
    assert all(
        one.weight == 3.0 and one.desirable is before.desirable for one, before in zip(joined, weighed, strict=True)
    )


# --- resuming with other weights -------------------------------------------------------------------------------------


class Cut(Exception):
    """As if the process were gone."""


def run(folder: Path, objective: Objective, *, resume: bool = False, **more: Any) -> PreferenceTrainer:
    settings: dict[str, Any] = {"batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, "save_steps": 1, **more}
    return PreferenceTrainer(tiny_policy(), objective, chat_pairs(8), output_dir=folder, resume=resume, **settings)


def cut(folder: Path, objective: Objective, monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    """A run that ends in its second step."""
    trainer = run(folder, objective, **more)
    walk, done = trainer._walker.walk, 0

    def walked(*given: Any) -> Any:
        nonlocal done
        done += 1
        if done == 2:
            raise Cut
        return walk(*given)

    monkeypatch.setattr(trainer._walker, "walk", walked)
    with pytest.raises(Cut):
        trainer.train()


@pytest.mark.slow
def test_a_named_reference_that_changed_since_the_cut_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tmp_path / "run", DPO(), monkeypatch, reference=tiny_policy(seed=5))
    with pytest.raises(RunFolderError, match="reference: was"):
        run(tmp_path / "run", DPO(), resume=True, reference=tiny_policy(seed=6)).train()
    resumed = run(tmp_path / "run", DPO(), resume=True, reference=tiny_policy(seed=5))
    resumed.train()
    assert resumed.folder.read_card()["status"] == "done"


@pytest.mark.slow
def test_another_kind_of_reference_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(tmp_path / "run", DPO(), monkeypatch)
    with pytest.raises(RunFolderError, match="reference"):
        run(tmp_path / "run", DPO(), resume=True, reference=tiny_policy(seed=6)).train()


@pytest.mark.slow
def test_a_margin_that_changed_since_the_cut_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(tmp_path / "run", SimPO(gamma_beta_ratio=0.5), monkeypatch)
    with pytest.raises(RunFolderError, match="differ from the interrupted run"):
        run(tmp_path / "run", SimPO(gamma_beta_ratio=0.4), resume=True).train()
