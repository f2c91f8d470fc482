"""A run's card: what is absent, what is null, what must be there, and what nobody reads by name."""

import pytest

from likelier.runs.card import Counts, LearningRate, Parameters, Stage, checked_card, required
from likelier.utils.errors import RunFolderError


def test_what_is_absent_or_null_is_as_if_never_written() -> None:
    nulls = {"reference": None, "options": {"truncation": None}, "data": {"eval": None}, "stages": None, "files": None}
    for card in (checked_card({}, "run.json"), checked_card(nulls, "run.json")):
        assert card.reference.words is None and not card.reference.equals_policy and card.stages == ()
        assert (card.options.truncation, card.data.held_out, card.files, card.adapter) == ("drop", 0, None, {})


def test_blocks_are_read_with_what_they_hold() -> None:
    content = {
        "parameters": {"all": 10, "trainable": 2},
        "learning_rate": {"value": 1e-5, "source": "given"},
        "data": {"train": {"groups": 7, "unusable": 1}, "eval": {"groups": 3}},
        "stages": [{"name": "sft", "folder": "1-sft", "begins_with": "x"}],
        "fingerprint": {"adapter": {"dropout": 0.1}},
    }
    card = checked_card(content, "run.json")
    assert (card.parameters, card.learning_rate) == (Parameters(10, 2), LearningRate(1e-5, "given"))
    assert card.data.train == Counts(7, 1) and card.data.held_out == 3 and card.adapter == {"dropout": 0.1}
    assert card.stages == (Stage("sft", "1-sft"),)


def test_what_no_field_names_is_kept() -> None:
    card = checked_card({"run": {"output": "o"}, "of_tomorrow": [1], "error": None}, "run.json")
    assert card.raw == {"run": {"output": "o"}, "of_tomorrow": [1]} and card.block("run") == {"output": "o"}
    assert card.block("lora") == {}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ([], "it holds something else, where names and values"),
        ({"parameters": {"all": 1}}, "parameters.trainable is None, where a whole number from 0 on"),
        ({"reference": {"equals_policy": "yes"}}, "reference.equals_policy is 'yes', where true or false"),
        ({"data": {"train": {"groups": -1}}}, "data.train.groups is -1, where a whole number"),
        ({"unusable_rows": {"empty": "x"}}, "unusable_rows.empty is 'x'"),
        ({"stages": [{"name": "a", "folder": "b", "reference": 3}]}, r"stages\[0\].reference is 3"),
        ({"files": {"run.json": {"bytes": 3}}}, "files.run.json.hash is None, where text"),
    ],
)
def test_what_has_another_shape_is_named(content: object, place: str) -> None:
    with pytest.raises(RunFolderError, match=rf"^here/run.json is damaged: {place}"):
        checked_card(content, "here/run.json")


def test_local_paths_leave_only_their_last_part() -> None:
    card = checked_card({"run": {"model": "/home/me/a", "data": "/x/b.jsonl"}, "error": "no /home/me/a"}, "run.json")
    shown = card.with_base_names
    assert (shown.run.model, shown.run.data, shown.error) == ("a", "b.jsonl", "no a")


def test_what_is_needed_is_asked_for_by_name() -> None:
    assert required(0, "run", "options.seed") == 0
    with pytest.raises(RunFolderError, match=r"^run/run\.json does not tell options\.seed"):
        required(None, "run", "options.seed")
