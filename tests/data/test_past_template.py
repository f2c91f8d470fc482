"""Text for a model that has a chat template goes past it: every command that reads rows with a model says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from likelier.advice.timing import rows_of_run
from likelier.cli.main import main
from likelier.data.audit.checks import audit_records
from likelier.data.load import load_preferences
from likelier.data.prepare import prepare_data
from likelier.data.records import Pair, Record, Source, TokenIds
from likelier.utils.errors import ConfigError, DataError
from tests.helpers.small_runs import save_tiny, write_rows
from tests.helpers.support import chat_pairs, tiny_tokenizer

ROWS = [{"prompt": f"say {number}", "chosen": "yes now", "rejected": "no"} for number in range(6)]
SAID = "rows of text, which goes past the model's chat template: "


def texts(count: int) -> list[Record]:
    return [Pair(f"say {number}", " yes", " no", Source("pairs.jsonl", number)) for number in range(count)]


def said_of(records: list[Record], capsys: pytest.CaptureFixture[str], *, chat: bool = True) -> str:
    tokenizer = tiny_tokenizer(chat=chat)
    how = {"method": "dpo", "wants": "pairs", "partners": False, "max_length": 512, "truncation": "drop"}
    prepare_data(records[:-1], records[-1:], tokenizer, **how)  # type: ignore[arg-type]
    return capsys.readouterr().err


def test_training_counts_the_rows_of_text_and_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_of([*chat_pairs(3), *texts(4)], capsys)
    assert f"{SAID}4 of 7. " in said and "--columns chat=true" in said


def test_nothing_is_said_where_nothing_goes_past(capsys: pytest.CaptureFixture[str]) -> None:
    end = tiny_tokenizer().eos_token_id
    tokens = Pair(TokenIds((5, 6)), TokenIds((7, end)), TokenIds((8, end)), Source("pairs.jsonl", 9))
    assert SAID not in said_of([*chat_pairs(3), tokens], capsys)
    assert SAID not in said_of(texts(4), capsys, chat=False)


def test_rows_that_hold_markup_are_told_of_by_that_alone(capsys: pytest.CaptureFixture[str]) -> None:
    rendered = Pair("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "yes", "no", Source("pairs.jsonl", 9))
    assert SAID not in (said := said_of([rendered, rendered], capsys)) and "2 of 2 rows hold chat markup" in said
    assert f"{SAID}3 of 4" in said_of([rendered, *texts(3)], capsys)


def test_the_audit_has_a_finding_of_its_own() -> None:
    tokenizer = tiny_tokenizer()
    finding = audit_records([*chat_pairs(3), *texts(2)], tokenizer=tokenizer, max_length=512).finding(
        "past-chat-template"
    )
    assert finding and (finding.count, finding.severity, finding.records) == (2, "warning", (3, 4))
    assert "--columns chat=true" in finding.mend
    for records, chat in ((chat_pairs(3), True), (texts(3), False)):
        audit = audit_records(records, tokenizer=tiny_tokenizer(chat=chat), max_length=512)
        assert audit.finding("past-chat-template") is None


def test_plans_say_it_of_all_rows(tmp_path: Path) -> None:
    model, file = save_tiny(tmp_path / "tiny"), write_rows(tmp_path / "pairs.jsonl", ROWS)
    plan = rows_of_run(load_preferences(file, eval_fraction=0.4), str(model), "dpo")
    assert any(f"{SAID}6 of 6. " in line for line in plan.words()) and plan.as_json()["past_chat_template"] == 6
    turned = rows_of_run(load_preferences(file, columns={"chat": True}), str(model), "dpo")
    assert not any(SAID in line for line in turned.words()) and turned.as_json()["past_chat_template"] == 0


def test_preview_and_score_say_it_and_the_flag_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, file = str(save_tiny(tmp_path / "tiny")), str(write_rows(tmp_path / "pairs.jsonl", ROWS))
    scored = ["--reference", model, "--output", str(tmp_path / "scores.jsonl"), "--overwrite"]
    for command in (["preview", file, "--rows", "6"], ["score", "--data", file, *scored]):
        assert main([*command, "--model", model]) == 0
        assert f"{SAID}6 of 6. " in capsys.readouterr().err, command
        assert main([*command, "--model", model, "--columns", "chat=true"]) == 0
        assert SAID not in capsys.readouterr().err, command


@pytest.mark.parametrize("command", [["audit"], ["preview"], ["recommend"]])
def test_messages_for_a_base_model_end_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    model, file = str(save_tiny(tmp_path / "base", chat=False)), str(write_rows(tmp_path / "pairs.jsonl", ROWS))
    assert main([*command, file, "--model", model, "--columns", "chat=true"]) == 2
    said = capsys.readouterr().err
    assert "pairs.jsonl:1: the row is a conversation" in said and "--chat-template" in said
    assert "--columns chat=false" in said


# --- chat=true -----------------------------------------------------------------------------------------------------


def test_a_text_that_went_through_a_template_is_not_put_into_another_turn(tmp_path: Path) -> None:
    rendered = [ROWS[0] | {"prompt": f"{mark}say"} for mark in ("<|im_start|>user\n", " [INST] ", "<start_of_turn>")]
    quoting = ROWS[1] | {"prompt": "what does <|im_start|> mean?"}
    file = write_rows(tmp_path / "pairs.jsonl", [*rendered, quoting])
    data = load_preferences(file, columns={"chat": True})
    assert [(row.source.number, row.reason) for row in data.unusable] == [
        (1 + at, "rendered-already") for at in range(3)
    ]
    assert "<|im_start|>" in data.unusable[0].detail and [record.source.number for record in data.train] == [4]
    assert not load_preferences(file).unusable
    write_rows(file, rendered)
    with pytest.raises(DataError, match="rendered-already"):
        load_preferences(file, columns={"chat": True})


def test_it_is_an_error_where_every_prompt_is_a_conversation(tmp_path: Path) -> None:
    talk = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    file = write_rows(tmp_path / "pairs.jsonl", talk)
    with pytest.raises(ConfigError, match=r"chat=true has no effect on .*pairs\.jsonl"):
        load_preferences(file, columns={"chat": True})
    write_rows(file, [*talk, ROWS[0]])
    assert len(load_preferences(file, columns={"chat": True}).train) == 7


def test_of_several_files_one_on_which_it_has_an_effect_is_enough(tmp_path: Path) -> None:
    talk = [row | {"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    whole = [{"messages": [*row["prompt"], {"role": "assistant", "content": "yes"}], "label": True} for row in talk]  # type: ignore[misc]
    text, messages = write_rows(tmp_path / "a.jsonl", ROWS), write_rows(tmp_path / "b.jsonl", talk)
    labelled = write_rows(tmp_path / "c.jsonl", whole)
    chat = {"columns": {"chat": True}}
    data = load_preferences([str(messages), str(text)], **chat)  # type: ignore[arg-type]
    assert len(data.train) == 12 and all(isinstance(record.prompt, tuple) for record in data.train)
    assert len(load_preferences(text, eval_data=str(messages), **chat).test) == 6  # type: ignore[arg-type]
    assert len(load_preferences([str(text), str(labelled)], **chat).train) == 12  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"chat=true has no effect on .*b\.jsonl, .*c\.jsonl: no text becomes a turn"):
        load_preferences([str(messages), str(labelled)], **chat)  # type: ignore[arg-type]
    assert main(["convert", str(messages), str(text), str(tmp_path / "out.jsonl"), "--columns", "chat=true"]) == 0
