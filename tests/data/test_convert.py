"""Canonical JSON lines: what is written is read again as it was, one kind becomes another, and TRL takes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from likelier import DataSet, load_preferences
from likelier.cli import main as cli
from likelier.data.convert import convert_file, converted, to_pairs, write_records
from likelier.data.records import Demonstration, Labelled, Message, Pair, Record, Source, TokenIds, to_labels
from likelier.utils.errors import DataError, LikelierWarning
from tests.helpers.support import chat_pairs, labelled_rows, tiny_policy

HERE = Source("rows", 1)


def plain(records: Sequence[Record]) -> list[Record]:
    """The records without their places."""
    return [replace(record, source=HERE) for record in records]


def written(folder: Path, records: Sequence[Record]) -> list[Record]:
    """The records after they were written and read again."""
    path = folder / "out.jsonl"
    write_records(records, path)
    data = load_preferences(path)
    assert not data.unusable
    return plain(data.train)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def convert(folder: Path, rows: list[dict[str, Any]], **how: Any) -> list[dict[str, Any]]:
    source = folder / "in.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    columns = how.pop("columns", None)
    convert_file(DataSet(str(source), columns=columns), folder / "out.jsonl", overwrite=True, **how)
    return lines(folder / "out.jsonl")


# --- nothing is lost -----------------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
answer = words.filter(str.strip)
calls = st.sampled_from(["", '[{"function": {"name": "look"}, "type": "function"}]'])
turn = st.builds(Message, st.sampled_from(["user", "assistant", "tool"]), words, calls)
talk = st.tuples(st.lists(turn, max_size=2), words).map(lambda parts: (*parts[0], Message("user", parts[1])))
number = st.floats(0, 1e6, allow_nan=False)
votes = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)).map(lambda v: (max(v[:2]), min(v[:2]), v[2]))
extras: dict[str, Any] = {
    "votes": st.none() | votes.filter(any),
    "weight": number,
    "margin": st.none() | number,
    "scores": st.none() | st.tuples(number, number),
    "tools": st.sampled_from(["", '[{"name": "look"}]']),
}
soft: dict[str, Any] = {**extras, "votes": st.none(), "flip_chance": st.none() | st.floats(0, 0.5)}
many = {"min_size": 1, "max_size": 6}


def said(text: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[Message, ...]]:
    return text.map(lambda words: (Message("assistant", words),))


def different(pair: Pair) -> bool:
    return pair.chosen != pair.rejected


text_pairs = st.builds(Pair, words, answer, answer, st.just(HERE), **extras).filter(different)
talk_pairs = st.builds(Pair, talk, said(answer), said(answer), st.just(HERE), **soft).filter(different)
small: dict[str, Any] = {"weight": number, "tools": extras["tools"]}
text_labels = st.builds(Labelled, words, answer, st.booleans(), st.just(HERE), **small)
talk_labels = st.builds(Labelled, talk, said(answer), st.booleans(), st.just(HERE), **small)
demonstrations = st.builds(Demonstration, talk, said(answer), st.just(HERE), **small)
files = st.one_of(
    *(st.lists(kind, **many) for kind in (text_pairs, talk_pairs, text_labels, talk_labels, demonstrations))
)
quick = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(records=files)
def test_what_is_written_is_read_again_as_it_was(tmp_path: Path, records: list[Record]) -> None:
    assert written(tmp_path, records) == records


@quick
@given(pairs=st.lists(st.one_of(text_pairs, talk_pairs), **many))
def test_pairs_become_labels_and_the_same_pairs_again(pairs: list[Pair]) -> None:
    decided = [pair for pair in pairs if pair.is_decided]
    again, left_out = to_pairs(to_labels(decided))
    kept = [replace(pair, votes=None, flip_chance=None, margin=None, scores=None) for pair in decided]
    key = repr
    assert sorted(plain(again), key=key) == sorted(kept, key=key) or left_out  # the same answer up here and down there
    if left_out:
        assert {row.reason for row in left_out} == {"identical-answers"}


@quick
@given(labels=st.lists(text_labels, **many))
def test_labels_become_pairs_with_every_answer_in_one(labels: list[Labelled]) -> None:
    few = [
        replace(label, prompt="ask", tools="", answer=f"{label.answer} {place}") for place, label in enumerate(labels)
    ]
    pairs, left_out = to_pairs(few)
    if len({label.desirable for label in few}) == 1:
        assert not pairs and len(left_out) == len(few)
        return
    good, bad = ({label.answer for label in few if label.desirable is side} for side in (True, False))
    assert {pair.chosen for pair in pairs} == good and {pair.rejected for pair in pairs} == bad
    assert len(pairs) == max(len(good), len(bad)) and not left_out


def test_token_ids_and_their_reference_scores_are_kept(tmp_path: Path) -> None:
    pair = Pair(TokenIds((1, 2)), TokenIds((3,)), TokenIds((4, 5)), HERE, (-1.5, -2.25))
    assert written(tmp_path, [pair]) == [pair]
    with pytest.raises(DataError, match="single answers of token ids have no layout"):
        write_records(to_labels([pair]), tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["out.jsonl"]
    assert len(lines(tmp_path / "out.jsonl")) == 1  # as it was


def test_columns_are_written_where_any_row_has_something_to_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = Pair("ask", "yes", "no", HERE)
    write_records([pair, replace(pair, weight=2.0, votes=(2, 1, 0))], tmp_path / "out.jsonl")
    first, second = lines(tmp_path / "out.jsonl")
    assert first == {"prompt": "ask", "chosen": "yes", "rejected": "no", "votes": None, "weight": 1.0}
    assert second["votes"] == [2, 1, 0]
    write_records([replace(pair, weight=float("nan"))], tmp_path / "out.jsonl")
    assert "weight" not in lines(tmp_path / "out.jsonl")[0]
    assert "weight: left out, since rows:1 has no number there" in capsys.readouterr().err


def test_rows_of_several_kinds_are_warned_of(tmp_path: Path) -> None:
    text = Pair("ask", "yes", "no", HERE)
    with pytest.warns(LikelierWarning, match="some prompts are text and some are messages"):
        write_records([text, *chat_pairs(1)], tmp_path / "out.jsonl")


# --- from one kind to another --------------------------------------------------------------------------------------

VOTES = {"prompt": "ask", "first": "one", "second": "two"}


def test_votes_become_majority_pairs(tmp_path: Path) -> None:
    rows = [VOTES | {"winner": ["b", "b", "a"]}, VOTES | {"winner": ["a", "b", "tie"]}]
    (row,) = convert(tmp_path, rows)
    assert row == {"prompt": "ask", "chosen": "two", "rejected": "one", "votes": [2, 1, 0]}
    assert [row["votes"] for row in convert(tmp_path, rows, keep_undecided=True)] == [[2, 1, 0], [1, 1, 1]]


def test_rankings_become_pairs_with_their_scores(tmp_path: Path) -> None:
    rows = [{"q": "ask", "a": ["low", "high", "mid"], "s": [1, 3, 2]}]
    columns = {"prompt": "q", "answers": "a", "scores": "s", "pairs_from": "adjacent"}
    found = convert(tmp_path, rows, columns=columns)
    assert [(row["chosen"], row["rejected"], row["score_chosen"]) for row in found] == [
        ("high", "mid", 3),
        ("mid", "low", 2),
    ]


def test_pairs_become_labels_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "ask", "chosen": "yes", "rejected": "no", "weight": 2, "margin": 1}]
    labels = convert(tmp_path, rows, to="labels")
    assert labels == [
        {"prompt": "ask", "completion": "yes", "label": True, "weight": 2.0},
        {"prompt": "ask", "completion": "no", "label": False, "weight": 2.0},
    ]
    assert "labels have no margin: left behind" in capsys.readouterr().err
    assert convert(tmp_path, rows, to="answers") == [{"prompt": "ask", "completion": "yes", "weight": 2.0}]


def test_labels_of_a_prompt_become_pairs(tmp_path: Path) -> None:
    def row(prompt: str, answer: str, label: bool) -> dict[str, Any]:
        return {"prompt": prompt, "completion": answer, "label": label}

    rows = [row("p", "a", True), row("q", "x", True), row("p", "b", False), row("p", "c", False), row("q", "x", False)]
    source = tmp_path / "in.json"
    source.write_text(json.dumps([*rows, row("alone", "y", True)]))
    summary = convert_file(DataSet(str(source)), tmp_path / "out.jsonl", to="pairs")
    assert [(one["chosen"], one["rejected"]) for one in lines(tmp_path / "out.jsonl")] == [("a", "b"), ("a", "c")]
    assert summary.startswith(f"2 pairs written to {tmp_path}/out.jsonl; 2 left out")
    assert "1 x identical-answers" in summary and "1 x no-answer-of-the-other-label" in summary


@pytest.mark.parametrize(
    ("records", "to", "message"),
    [
        ([Demonstration("a", "b", HERE)], "pairs", "cannot become a pair; add a label"),
        ([Demonstration("a", "b", HERE)], "labels", "is no label; convert to answers instead"),
    ],
)
def test_what_cannot_become_another_kind_is_refused(records: list[Record], to: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        converted(records, to)


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    row = {"task": "do {it}", "input": "", "good": "yes ✓", "bad": "no"}
    source.write_text(json.dumps(row) + "\n", encoding="utf-8")
    words = ["convert", str(source), str(out), "--columns", "prompt={task}\\n{input}", "chosen=good", "rejected=bad"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"1 pairs written to {out}\n"
    assert lines(out) == [{"prompt": "do {it}", "chosen": "yes ✓", "rejected": "no"}]
    assert "✓" in out.read_text(encoding="utf-8")
    assert cli.main([*words, "--to", "labels", "--overwrite"]) == 0 and len(lines(out)) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["in.jsonl", "out.csv"], "out.csv: JSON lines are written; give a name that ends in .jsonl"),
        (["in.jsonl", "in.jsonl"], "in.jsonl is the data itself and would be overwritten"),
        (["in.jsonl", "nowhere/out.jsonl"], "nowhere/out.jsonl cannot be written: No such file or directory"),
        (["in.jsonl", "out.jsonl", "--keep-undecided"], "keep_undecided has no effect: no undecided pair"),
        (["in.jsonl", "out.jsonl", "--columns", "choosen=a"], "unknown role 'choosen'; did you mean chosen?"),
        (["in.jsonl", "out.jsonl", "--split", "train"], "in.jsonl is a file, on which split has no effect"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"prompt": "ask", "chosen": "yes", "rejected": "no"}\n')
    assert cli.main(["convert", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["in.jsonl"]


@pytest.mark.parametrize(("to", "said"), [("pairs", True), ("labels", False)])
def test_ties_that_are_left_out_are_told_with_what_keeps_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, said: bool
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [VOTES | {"winner": winner} for winner in ("a", "tie")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert cli.main(["convert", str(source), str(out), "--to", to]) == 0
    told = capsys.readouterr().out
    assert "1 x undecided-pair" in told and ("--keep-undecided writes them too" in told) == said


def test_nothing_left_to_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row is left to write:\n  1 x undecided-pair"):
        convert(tmp_path, [VOTES | {"winner": "tie"}])


# --- other tools take it -------------------------------------------------------------------------------------------

TRL: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "max_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def _rich(records: Sequence[Any], chat: bool) -> list[Any]:
    """With every column that may be written, as text where `chat` is off."""

    def text(content: Any) -> Any:
        return content if chat else " " + content[-1].content

    found = []
    for place, one in enumerate(records):
        weighed = replace(one, prompt=text(one.prompt), weight=1.0 + place)
        if isinstance(weighed, Pair):
            sides = {"chosen": text(one.chosen), "rejected": text(one.rejected)}
            weighed = replace(weighed, **sides, votes=(2, 1, 0), margin=0.5, scores=(2.0, 1.0))
        else:
            weighed = replace(weighed, answer=text(one.answer))
        found.append(weighed)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("chat", [True, False], ids=["messages", "text"])
@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_trl_trains_on_the_file_as_it_is(tmp_path: Path, kind: str, chat: bool) -> None:
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    from likelier.data.tokenize import tokenize_records

    trainer_kind, config = (DPOTrainer, DPOConfig) if kind == "pairs" else (KTOTrainer, KTOConfig)
    records = _rich(chat_pairs(6) if kind == "pairs" else labelled_rows(6), chat)
    write_records(records, tmp_path / "out.jsonl")
    policy = tiny_policy(dtype=__import__("torch").float32)
    more = {"train_sampling_strategy": "sequential"} if kind == "labels" else {}
    trainer = trainer_kind(
        model=policy.model,
        ref_model=tiny_policy(dtype=__import__("torch").float32).model,
        args=config(output_dir=str(tmp_path / "trl"), **TRL, **more),
        train_dataset=datasets.load_dataset("json", data_files=str(tmp_path / "out.jsonl"), split="train"),
        processing_class=policy.tokenizer,
    )
    side = "chosen_ids" if kind == "pairs" else "completion_ids"
    ours = tokenize_records(load_preferences(tmp_path / "out.jsonl").train, policy.tokenizer, max_length=512).groups
    for theirs, group in zip(trainer.train_dataset, ours, strict=True):
        assert theirs["prompt_ids"] == group.prompt.tolist() and theirs[side] == group.answers[0].tolist()
    trainer.train()
