"""Rows without a verdict: values that the user calls none, rows without any value, and how both are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from likelier.data.audit.checks import audit_records
from likelier.data.load import PreferenceData, load_preferences
from likelier.data.records import Labelled, Pair
from likelier.utils.errors import ConfigError, DataError

WON = ("a", "b", "?", "Unsure", "tie")
COMPARED = [{"prompt": f"ask {at}", "first": "one", "second": "two", "winner": won} for at, won in enumerate(WON)]
RATED = [{"prompt": "ask", "completion": f"{at}", "label": value} for at, value in enumerate(("up", "down", "skip"))]


def refused(rows: list[dict[str, Any]], **columns: Any) -> str:
    with pytest.raises(DataError) as told:
        load_preferences(rows, columns=columns)
    return str(told.value)


def loaded(rows: list[dict[str, Any]], *words: str) -> PreferenceData:
    from likelier.data.columns import columns_of

    return load_preferences(rows, columns=columns_of(list(words)))


def test_values_that_are_no_verdict_leave_their_rows_out() -> None:
    found = loaded(COMPARED, "no_verdict=?,unsure")
    assert [record.chosen for record in found.train if isinstance(record, Pair)] == ["one", "two", "one"]
    assert found.unusable.counts() == {"no-judgement": 2}
    found = loaded(RATED, "no_verdict=skip")
    assert [record.desirable for record in found.train if isinstance(record, Labelled)] == [True, False]
    assert found.unusable.counts() == {"no-label": 1}


def test_each_of_several_judges_may_have_no_verdict() -> None:
    rows = [COMPARED[0] | {"winner": ["a", "?", "b", "a"]}, COMPARED[1] | {"winner": ["?", "?"]}]
    found = load_preferences(rows, columns={"no_verdict": ["?"]})
    (pair,) = found.train
    assert isinstance(pair, Pair) and pair.votes == (2, 1, 0)
    assert found.unusable.counts() == {"no-judgement": 1}


def test_the_question_proposes_to_leave_out_what_means_nothing_where_the_others_are_clear() -> None:
    assert "--columns 'no_verdict=?,unsure'\n" in refused(COMPARED)
    assert "--columns no_verdict=skip\n" in refused(RATED)
    assert "no_verdict=" not in refused([row | {"winner": won} for row, won in zip(COMPARED, "xyzxy", strict=True)])
    assert "--columns 'no_verdict=?')" in refused(COMPARED, winner_coding="a/b/tie")


def test_where_nothing_is_judged_no_verdict_has_no_effect() -> None:
    with pytest.raises(ConfigError, match="no_verdict has no effect on 'prompt, chosen, rejected'"):
        load_preferences([{"prompt": "a", "chosen": "b", "rejected": "c"}], columns={"no_verdict": "?"})


@pytest.mark.parametrize("empty", [{}, {"other": None}, {"other": "", "more": None}])
@pytest.mark.parametrize("first", [True, False])
def test_a_row_without_any_value_is_counted_and_not_the_end_of_a_mapped_file(
    empty: dict[str, Any], first: bool, tmp_path: Path
) -> None:
    row = {"q": "ask", "l": "one", "r": "two"}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in ([empty, row] if first else [row, empty])))
    found = load_preferences(path, columns={"prompt": "q", "chosen": "l", "rejected": "r"})
    assert len(found.train) == 1 and found.unusable.counts() == {"blank-row": 1}
    assert found.unusable[0].source.number == (1 if first else 2)


def test_rows_without_a_verdict_are_told_apart_from_rows_that_cannot_be_used() -> None:
    rows = [*RATED, {"prompt": "ask", "completion": "", "label": "up"}]
    text = str(loaded(rows, "no_verdict=skip"))
    assert "; 1 rows cannot be used:\n  1 x empty-answer: rows, row 4\n1 rows hold no verdict:\n  1 x no-label:" in text
    assert "cannot be used" not in str(loaded(RATED, "no_verdict=skip"))


def test_an_audit_blames_no_row_for_having_no_verdict() -> None:
    found = loaded([*COMPARED, COMPARED[3], COMPARED[3]], "no_verdict=?,unsure")
    audit = audit_records(found.train, found.unusable)
    (finding,) = (one for one in audit.findings if one.name == "no-judgement")
    assert finding.severity == "info" and finding.summary.startswith("rows without a verdict (no judgement): 4 of 7")
