"""A file of no known layout: the column map that its own columns' names propose holds, as a command to be pasted."""

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from likelier.cli.main import main
from likelier.data.load import load_preferences
from likelier.utils.errors import DataError

ASKED = ("Name a prime number.", "What is the capital of France?", "Name a colour.")
GOOD = ("Seven.", "Paris.", "Red.")
BAD = ("Nine.", "Lyon, I think.", "Loud.")


def rows_of(**columns: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


# Each with the words that are proposed, of the first proposal if there are several.
FILES: Mapping[str, tuple[list[dict[str, Any]], str]] = {
    "two answers by their names": (
        rows_of(question=ASKED, good=GOOD, bad=BAD),
        "prompt=question chosen=good rejected=bad",
    ),
    "a winner in numbers, which is asked for": (
        rows_of(instruction=ASKED, output_a=GOOD, output_b=BAD, winner=(1, 2, 1)),
        "prompt=instruction first=output_a second=output_b winner_coding=1/2/0",
    ),
    "a rating of one answer": (
        rows_of(text=ASKED, response=GOOD, rating=(5, 1, 4)),
        "prompt=text completion=response label=rating threshold=4",
    ),
    "German names": (
        rows_of(Frage=ASKED, gute_Antwort=GOOD, schlechte_Antwort=BAD),
        "prompt=Frage chosen=gute_Antwort rejected=schlechte_Antwort",
    ),
    "German names and a winner": (
        rows_of(**{"Anweisung": ASKED, "Antwort A": GOOD, "Antwort B": BAD, "Gewinner": ("A", "B", "unentschieden")}),
        "prompt=Anweisung 'first=Antwort A' 'second=Antwort B' winner=Gewinner",
    ),
    "objects in lists": (
        [
            {"input": {"question": q, "lang": "en"}, "outputs": [{"text": g, "score": 5}, {"text": b, "score": 2}]}
            for q, g, b in zip(ASKED, GOOD, BAD, strict=True)
        ],
        "prompt=input.question answers=outputs.text scores=outputs.score",
    ),
    "objects in objects": (
        [
            {"data": {"user_query": q, "preferred_response": {"text": g}, "rejected_response": {"text": b}}}
            for q, g, b in zip(ASKED, GOOD, BAD, strict=True)
        ],
        "prompt=data.user_query chosen=data.preferred_response.text rejected=data.rejected_response.text",
    ),
    "forty columns": (
        [
            {
                **{f"meta_{number}": number for number in range(32)},
                "user_prompt": q,
                "model_a": "x",
                "model_b": "y",
                "response_a": g,
                "response_b": b,
                "tokens_a": 3,
                "tokens_b": 4,
                "overall_preference": "response_a",
            }
            for q, g, b in zip(ASKED, GOOD, BAD, strict=True)
        ],
        "prompt=user_prompt first=response_a second=response_b winner=overall_preference",
    ),
    "votes for two replies to a post": (
        rows_of(title=ASKED, body=("More.",) * 3, reply1=GOOD, reply2=BAD, votes1=(3, 2, 9), votes2=(1, 1, 2)),
        "prompt=title,body first=reply1 second=reply2 votes=votes1,votes2",
    ),
    "lists with rewards": (
        rows_of(query=ASKED, answers=tuple(zip(GOOD, BAD, strict=True)), rewards=((0.9, 0.1),) * 3),
        "prompt=query scores=rewards",
    ),
    "whole conversations": (
        rows_of(
            dialog_good=[talk(*both) for both in zip(ASKED, GOOD, strict=True)],
            dialog_bad=[talk(*both) for both in zip(ASKED, BAD, strict=True)],
        ),
        "chosen=dialog_good rejected=dialog_bad",
    ),
    "the only other text": (rows_of(ticket=ASKED, chosen=GOOD, rejected=BAD), "prompt=ticket"),
    "answers without a judgement": (rows_of(question=ASKED, answer=GOOD), "prompt=question completion=answer"),
    "a thumb for a conversation": (
        rows_of(conversation=[talk(*both) for both in zip(ASKED, GOOD, strict=True)], thumbs=("up", "up", "down")),
        "messages=conversation label=thumbs",
    ),
}


def written(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    flat = all(not isinstance(value, (list, tuple, dict)) for row in rows for value in row.values())
    if not flat:
        path = path.with_suffix(".jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    with open(path.with_suffix(".csv"), "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path.with_suffix(".csv")


def proposed(message: str) -> list[str]:
    return [line.strip() for line in message.splitlines() if line.startswith("  likelier ")]


@pytest.mark.parametrize("kind", FILES)
def test_what_is_proposed_for_a_file_can_be_pasted_and_holds(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, words = FILES[kind]
    path, out = written(tmp_path / "my file", rows), tmp_path / "out.jsonl"
    assert main(["convert", str(path), str(out)]) == 2
    commands = proposed(capsys.readouterr().err)
    assert commands[0].endswith(f" --columns {words}")
    for number, command in enumerate(commands):
        name, *typed = shlex.split(command)
        typed[2] = str(tmp_path / f"{number}.jsonl")
        assert name == "likelier" and main(typed) == 0
        assert (tmp_path / f"{number}.jsonl").read_text().count("\n") >= 2


@pytest.mark.parametrize(
    "rows",
    [
        rows_of(col1=ASKED, col2=GOOD, col3=BAD),
        rows_of(question=ASKED, good=GOOD, bad=GOOD),  # every row would be left out
        rows_of(question=ASKED, answer_a=GOOD, answer_b=BAD, winner=("x", "y", "z")),  # which nothing explains
        rows_of(**{"question": ASKED, "good,very": GOOD, "bad,very": BAD}),  # a comma parts columns
    ],
)
def test_nothing_is_proposed_that_would_fail(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Say with columns which of them is what") as told:
        load_preferences(str(written(tmp_path / "rows", rows)))
    assert "A guess" not in str(told.value) and "Guesses" not in str(told.value)


def test_a_guess_stands_before_the_known_layouts_and_adds_to_the_map_that_was_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "rows", rows_of(Thema=ASKED, good=GOOD, bad=BAD))
    assert main(["audit", str(path), "--columns", "prompt=Thema"]) == 2
    message = capsys.readouterr().err
    assert proposed(message) == [f"likelier audit {path} --columns prompt=Thema --columns chosen=good rejected=bad"]
    assert message.index("  likelier audit") < message.index("as one of the known layouts")
    assert main(shlex.split(proposed(message)[0])[1:]) in (0, 3)


def test_without_a_command_or_with_several_files_the_words_alone_are_proposed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = written(tmp_path / "known", rows_of(prompt=ASKED, chosen=GOOD, rejected=BAD))
    path = written(tmp_path / "rows", rows_of(question=ASKED, good=GOOD, bad=BAD))
    words = "\n  --columns prompt=question chosen=good rejected=bad\n"
    with pytest.raises(DataError) as told:
        load_preferences(str(path))
    assert words in str(told.value)
    assert main(["audit", str(known), str(path)]) == 2
    assert words in capsys.readouterr().err


def test_for_prompts_nothing_but_the_prompt_is_proposed(tmp_path: Path) -> None:
    from likelier.data.prompts import load_prompts

    with pytest.raises(DataError) as told:
        load_prompts(str(written(tmp_path / "rows", rows_of(question=ASKED, answer=GOOD))))
    assert "\n  --columns prompt=question\n" in str(told.value)


def test_many_columns_are_not_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"and 11 more: not a format known here"):
        load_preferences([{f"column {number}": "x" for number in range(31)}])


def test_a_column_of_the_map_is_proposed_for_nothing_else(tmp_path: Path) -> None:
    """Texts with a judgement and no prompt: it is said how all get one, and that does."""
    file = tmp_path / "reviews.csv"
    file.write_text("text,label\nI liked it a lot,1\nA waste of time,0\nFine,1\n", encoding="utf-8")
    for given in (None, {"completion": "text"}):
        with pytest.raises(DataError) as error:
            load_preferences(str(file), columns=given)
        assert "prompt=text" not in str(error.value)
        assert "'prompt=\"Write a review.\"' completion=text" in str(error.value)
    assert len(load_preferences(str(file), columns={"prompt": '"Write a review."', "completion": "text"}).train) == 3
