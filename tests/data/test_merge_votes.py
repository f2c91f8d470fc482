"""Rows of several judges on the same answers become one row with votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from likelier import load_preferences
from likelier.cli.main import main
from likelier.data.audit.checks import audit_records
from likelier.data.records import Labelled, Pair, Record, Source
from likelier.data.votes import merge_votes

HERE = Source("made.jsonl", 1)


def pair(chosen: str = "yes", rejected: str = "no", number: int = 1, **more: Any) -> Pair:
    return Pair("ask", chosen, rejected, Source("made.jsonl", number), **more)


def merged(*records: Record) -> Record:
    (found,) = merge_votes(records).records
    return found


def test_verdicts_on_the_same_answers_are_votes_whichever_way_round() -> None:
    found = merged(pair("no", "yes"), pair(number=2), pair(number=3))
    assert found == pair(votes=(2, 1, 0))
    assert merged(pair(), pair("no", "yes", 2)) == pair(votes=(1, 1, 0))
    other = pair("yes", "maybe")
    assert merge_votes([pair(), other, pair(number=2)]).records == [pair(votes=(2, 0, 0)), other]


def test_votes_and_ties_that_rows_bring_are_counted_too() -> None:
    tie = pair("no", "yes", votes=(0, 0, 1))
    assert merged(pair(votes=(3, 1, 0)), pair("no", "yes"), tie) == pair(votes=(3, 2, 1))


def test_shares_stay_shares() -> None:
    found = merged(pair(flip_chance=0.2), pair("no", "yes", flip_chance=0.4))
    assert isinstance(found, Pair) and found.votes is None and found.flip_chance == pytest.approx(0.4)


def test_numbers_are_means_seen_from_the_answer_that_won() -> None:
    one = pair("no", "yes", margin=1.0, scores=(5.0, 4.0), weight=1.0)
    two = pair(margin=3.0, scores=(8.0, 2.0), weight=2.0)
    found = merged(one, two, two)
    assert isinstance(found, Pair) and found.scores is not None
    assert (found.chosen, found.votes, found.weight) == ("yes", (2, 1, 0), pytest.approx(5 / 3))
    assert found.margin == pytest.approx(5 / 3) and found.scores == (pytest.approx(20 / 3), 3.0)


def test_rows_that_all_weigh_nothing_weigh_nothing_together() -> None:
    found = merged(pair(weight=0.0), pair("no", "yes", 2, weight=0.0))
    assert isinstance(found, Pair) and found.weight == 0.0


def test_another_prompt_or_other_tools_are_another_case() -> None:
    rows = [pair(), Pair("ask!", "yes", "no", HERE), pair(tools="[]")]
    assert merge_votes(rows).records == rows


def test_a_judge_is_heard_once_for_each_verdict() -> None:
    found = merged(pair(judge="ann"), pair(judge="ann"), pair("no", "yes", judge="ben"), pair(judge="eve"))
    assert found == pair(votes=(2, 1, 0))


def test_single_answers_take_the_thumb_of_the_majority() -> None:
    up, down = Labelled("ask", "yes", True, HERE), Labelled("ask", "yes", False, Source("made.jsonl", 2))
    assert merge_votes([down, up, up]).records == [Labelled("ask", "yes", True, down.source)]
    tied = merge_votes([up, down])
    assert not tied.records and [row.reason for row in tied.left_out] == ["tied-labels"] * 2


# --- from files ----------------------------------------------------------------------------------------------------

ROWS = [
    {"q": "Name a prime.", "left": "7", "right": "9", "verdict": "left", "rater": "ann"},
    {"q": "Name a prime.", "left": "9", "right": "7", "verdict": "right", "rater": "ben"},
    {"q": "Name a colour.", "left": "red", "right": "loud", "verdict": "left", "rater": "ann"},
    {"q": "Name a colour.", "left": "red", "right": "loud", "verdict": "right", "rater": "ben"},
]
MAP = {"prompt": "q", "first": "left", "second": "right", "winner": "verdict"}
FLAGS = ["--columns", *(f"{role}={name}" for role, name in MAP.items())]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_several_files_are_merged_before_rows_are_held_out(tmp_path: Path) -> None:
    files = [write(tmp_path / "ann.jsonl", ROWS[::2]), write(tmp_path / "ben.jsonl", ROWS[1::2])]
    data = load_preferences(files, columns=MAP, merge_votes=True)
    assert [record.votes for record in data.train if isinstance(record, Pair)] == [(2, 0, 0), (1, 1, 0)]
    assert "merge_votes: 4 rows that judge the same answers became 2" in data.notes
    assert any("votes (--use-votes)" in note for note in data.notes)
    held = load_preferences(files, columns=MAP, merge_votes=True, eval_fraction=0.5)
    assert (len(held.train), len(held.test)) == (1, 1)


def test_convert_writes_one_row_of_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / "ann.jsonl", ROWS[::2]), write(tmp_path / "ben.jsonl", ROWS[1::2])]
    out = tmp_path / "one.jsonl"
    assert main(["convert", *files, str(out), "--merge-votes", "--keep-undecided", *FLAGS]) == 0
    assert [json.loads(line)["votes"] for line in out.read_text().splitlines()] == [[2, 0, 0], [1, 1, 0]]
    assert "2 pairs written" in capsys.readouterr().out


# --- in the audit --------------------------------------------------------------------------------------------------


def names(*records: Record) -> dict[str, int]:
    return {finding.name: finding.count for finding in audit_records(records).findings}


def test_agreement_of_two_judges_or_files_is_no_duplicate() -> None:
    judged = [pair(judge="ann"), pair(number=2, judge="ben"), pair(number=3, judge="ben")]
    assert names(*judged) == {"repeated-judgements": 1, "exact-duplicates": 1}
    assert names(pair(), Pair("ask", "yes", "no", Source("other.jsonl", 1))) == {"repeated-judgements": 1}
    assert names(pair(), pair(number=2)) == {"exact-duplicates": 1}


def test_in_a_file_of_repeated_judgements_agreement_is_no_duplicate() -> None:
    rows = [pair(f"yes {number // 2}", number=number) for number in range(20)]
    assert names(*rows)["exact-duplicates"] == 10
    found = names(*rows, pair("no", "yes 3", 21))
    assert found["repeated-judgements"] == 10 and found["contradictory-pairs"] == 1 and "exact-duplicates" not in found


def test_the_audit_proposes_votes_and_takes_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / "a.jsonl", ROWS), write(tmp_path / "b.jsonl", ROWS[:1])]
    main(["audit", *files, "--fail-on", "error", *FLAGS, "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in found["findings"]} >= {"repeated-judgements", "contradictory-pairs"}
    assert any("--merge-votes" in one["mend"] for one in found["findings"] if one["name"] == "repeated-judgements")
    main(["audit", *files, "--merge-votes", *FLAGS, "--format", "json"])
    merged_too = json.loads(capsys.readouterr().out)
    assert not {one["name"] for one in merged_too["findings"]} & {"repeated-judgements", "contradictory-pairs"}
    assert merged_too["statistics"]["noise"]["from"] == "votes"


def test_a_run_and_its_file_take_several_data_and_merge_votes() -> None:
    from likelier.data.options import DataSet
    from likelier.training.config import parse

    run = parse({"model": "m", "output": "o", "data": ["a.jsonl", "b.jsonl"], "merge-votes": True}).run
    assert run.merge_votes and run.data == (DataSet("a.jsonl"), DataSet("b.jsonl"))


@pytest.mark.parametrize("several", [False, True])
def test_rows_are_dropped_from_each_of_several_files(several: bool, tmp_path: Path) -> None:
    rows = [{"prompt": f"ask {number}", "chosen": "yes", "rejected": "no"} for number in (1, 2, 2, 3)]
    files = [tmp_path / name for name in ("one.jsonl", "two.jsonl")[: 1 + several]]
    for number, file in enumerate(files):
        changed = [{**row, "prompt": f"{row['prompt']} of {number}"} for row in rows]
        file.write_text("".join(json.dumps(row) + "\n" for row in changed), encoding="utf-8")
    clean = tmp_path / "clean.jsonl"
    main(["audit", *map(str, files), "--drop", "exact-duplicates", "--write", str(clean)])
    prompts = [json.loads(line)["prompt"] for line in clean.read_text(encoding="utf-8").splitlines()]
    assert prompts == [f"ask {one} of {number}" for number in range(len(files)) for one in (1, 2, 3)]


def test_ties_are_told_once_and_as_they_are_after_merging(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "first": "x", "second": "y", "winner": won} for won in ("a", "tie", "b")]
    rows.append({"prompt": "b", "first": "x", "second": "y", "winner": "tie"})
    data = load_preferences(rows, merge_votes=True)
    assert str(data).count("are undecided (ties)") == 1 and "2 pairs are undecided (ties)" in str(data)
    assert str(data).count("kept for who asks") == 1
