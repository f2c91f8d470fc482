"""What is said of signals, and when asking for one is refused: each figure and each reason beside its own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from likelier.data.groups import Group
from likelier.data.records import Labelled, Message, Pair, Source
from likelier.data.weighting import Signals, applied, say_signals, with_even_prompts
from likelier.utils.errors import ConfigError, DataError


def pair(number: int, prompt: str = "a", **more: Any) -> Pair:
    said = (Message("assistant", "yes"),), (Message("assistant", "no"),)
    return Pair((Message("user", prompt),), *said, Source("rows", number, "row"), **more)


def group(**more: Any) -> Group:
    ids = np.arange(3, dtype=np.int32)
    return Group(ids, (ids, ids), Source("rows", 0, "row"), **more)


def test_what_is_said_of_signals_is_what_the_groups_hold(capsys: pytest.CaptureFixture[str]) -> None:
    groups = [group(weight=0.25, margin=1.0), group(weight=1.75), group(weight=1.0, margin=4.0)]
    say_signals(groups, Signals(weights="column"))
    said = capsys.readouterr().err
    assert "weights: scaled to mean 1, from 0.25 to 1.75" in said and "margins: from 1 to 4, mean 2.5" in said
    assert "soft labels" not in said
    say_signals([group(flip_chance=chance) for chance in (0.0, 0.5, 0.25, 0.5, None)], Signals())
    said = capsys.readouterr().err
    assert "soft labels: 3 of 4 pairs are not unanimous, 2 are ties" in said
    assert "weights" not in said and "margins" not in said
    say_signals([group()], Signals())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("signals", "without", "having", "reason"),
    [
        (Signals(votes="soft"), {}, {"votes": (3, 1, 0)}, "no pair has votes for both answers"),
        (Signals(votes="weight"), {"votes": (3, 0, 0)}, {"votes": (3, 1, 0)}, "no pair has votes for both answers"),
        (Signals(weights="column"), {}, {"weight": 0.5}, "no row has a weight other than 1"),
        (Signals(margins="column"), {}, {"margin": 0.0}, "no pair has a margin"),
    ],
)
def test_a_signal_that_no_row_has_is_refused_by_its_own_reason(
    signals: Signals, without: dict[str, Any], having: dict[str, Any], reason: str
) -> None:
    rows = [pair(0, "a", **without), pair(1, "b", **without)]
    with pytest.raises(ConfigError, match=reason) as caught:
        applied(rows, signals)
    name, value = next((name, value) for name, value in vars(signals).items() if value not in ("majority", None))
    assert f"use_{name}={value} has no effect" in str(caught.value)
    kept, _ = applied([pair(0, "a", **having), pair(1, "b", **having)], signals)
    assert len(kept) == 2


def test_prompts_are_evened_out_only_where_one_repeats() -> None:
    with pytest.raises(ConfigError, match="use_weights=prompt has no effect: every row has a prompt of its own"):
        applied([pair(0, "a"), pair(1, "b")], Signals(weights="prompt"))
    kept, _ = applied([pair(0, "a"), pair(1, "b"), pair(2, "a")], Signals(weights="prompt"))
    assert [one.weight for one in kept] == [0.5, 1.0, 0.5]
    rows = [pair(0, "a"), pair(1, "b")]
    groups = [group(weight=0.5), group(weight=1.0)]
    assert [one.weight for one in with_even_prompts(groups, rows, kept, Signals(weights="prompt"))] == [1.0, 1.0]
    assert [one.weight for one in with_even_prompts(groups, rows, kept, Signals(weights="column"))] == [0.5, 1.0]


@pytest.mark.parametrize("value", [-1e-9, math.inf, math.nan])
def test_a_weight_or_margin_is_a_number_from_0_on(value: float) -> None:
    for name in ("weight", "margin"):
        wants = Signals(**{f"{name}s": "column"})  # type: ignore[arg-type]
        with pytest.raises(DataError, match=f"the {name} must be a number from 0 on"):
            applied([pair(0, **{name: value})], wants)
        kept, _ = applied([pair(0, **{name: 0.0}), pair(1, **{name: 0.5})], wants)
        assert [getattr(one, name) for one in kept] == [0.0, 0.5]


def test_scores_serve_as_weight_and_margin_with_the_chosen_ones_first() -> None:
    rows = [pair(0, scores=(3.0, 1.0)), pair(1, scores=(2.0, 2.0))]
    for name in ("weight", "margin"):
        kept, left_out = applied(rows, Signals(**{f"{name}s": "scores"}))  # type: ignore[arg-type]
        assert [getattr(one, name) for one in kept] == [2.0, 0.0] and left_out == []
        with pytest.raises(DataError, match=r"the smaller one \(by 0.5\)"):
            applied([pair(0, scores=(1.0, 1.5))], Signals(**{f"{name}s": "scores"}))  # type: ignore[arg-type]
        for scores in ((math.nan, 1.0), (1.0, math.inf), None):
            with pytest.raises(DataError):
                applied([pair(0, scores=scores)], Signals(**{f"{name}s": "scores"}))  # type: ignore[arg-type]


def test_votes_and_labels_go_only_where_they_belong() -> None:
    told = Labelled((Message("user", "a"),), (Message("assistant", "yes"),), True, Source("rows", 0, "row"))
    rows = [replace(told, weight=0.5), pair(1, votes=(3, 1, 0), weight=2.0, margin=7.0)]
    (label, both), _ = applied(rows, Signals(votes="weight", weights="column"))
    assert label.weight == 0.5 and both.weight == 2.0 * 0.5
    assert both.margin is None and both.flip_chance is None  # type: ignore[union-attr]
    (label, both), _ = applied(rows, Signals(votes="soft"))
    assert label.weight == both.weight == 1.0 and both.flip_chance == 0.25  # type: ignore[union-attr]
