"""`likelier preview`: what each row trains on, shown before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from likelier.cli.main import main
from likelier.data.options import ChatOptions
from likelier.data.preview import RowPreview, bracketed, in_brief, preview_rows, visible
from likelier.data.records import Demonstration, Labelled, Message, Pair, Source, TokenIds
from likelier.data.tokenize import tokenize_records
from likelier.runs.card import RunCard
from likelier.runs.hub import _without_a_row
from tests.helpers.chat_templates import DEEPSEEK, PHI, QWEN3
from tests.helpers.small_runs import write_rows
from tests.helpers.support import CHATML, chat_pairs, labelled_rows, tiny_model, tiny_tokenizer

ASK = (Message("user", "was it right"),)


def pair(chosen: Any = "yes it was", rejected: Any = "no", prompt: Any = ASK, **more: Any) -> Pair:
    answers = ((Message("assistant", text),) if isinstance(prompt, tuple) else text for text in (chosen, rejected))
    return Pair(prompt, *answers, Source("rows.jsonl", 7), **more)


def preview(record: Any, template: str = CHATML, **more: Any) -> RowPreview:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    (row,) = preview_rows([record], tokenizer, **{"max_length": 99, **more})
    return row


@pytest.mark.parametrize("record", [*chat_pairs(3), *labelled_rows(2)])
def test_it_shows_exactly_the_tokens_that_training_takes(record: Pair | Labelled) -> None:
    row, tokenizer = preview(record), tiny_tokenizer()
    (group,) = tokenize_records([record], tokenizer, max_length=99).groups
    assert [token.id for token in row.prompt] == group.prompt.tolist()
    assert [[token.id for token in answer.tokens] for answer in row.answers] == [
        one.tolist() for one in group.own_answers
    ]
    assert "".join(token.text for token in row.answers[0].tokens) == tokenizer.decode(group.answers[0])
    assert not row.problem and not row.cut and not row.missing


def test_a_conversation_says_where_and_why_the_answer_starts_and_how_it_ends() -> None:
    row = preview(pair())
    assert row.starts.startswith("behind the generation prompt of the template, ") and "assistant" in row.starts
    assert [answer.ends for answer in row.answers] == ["ends with <|im_end|>"] * 2
    assert bracketed(row.answers[0].tokens) == "[yes it was<|im_end|>\u21b5]"
    assert [token.text for token in row.answers[0].tokens if token.special] == ["<|im_end|>"]
    assert visible(row.prompt).endswith("<|im_start|>assistant\u21b5")


@pytest.mark.parametrize(
    ("record", "starts"),
    [
        (pair("yes", " no", prompt="was it right?\n"), "behind the prompt's text, 'was it right?\\n'"),
        (pair("sat", "at", prompt="the c"), "reaches across the boundary"),
        (Pair(TokenIds((5, 6)), TokenIds((7, 2)), TokenIds((8, 2)), Source("rows.jsonl", 7)), "where the file says"),
        (pair(prompt=(Message("system", "good"), *ASK)), "behind the generation prompt of the template"),
    ],
)
def test_every_kind_of_prompt_has_its_reason(record: Pair, starts: str) -> None:
    assert starts in preview(record).starts


def test_what_is_cut_is_told() -> None:
    long = pair("the cat sat on the mat " * 4, "no " * 20, prompt="the dog ran up the hill " * 3)
    whole = preview(long, max_length=999)
    cut = preview(long, max_length=40, truncation="cut-answer-right")
    assert not whole.cut and "tokens" in cut.cut[0]
    assert "has no end-of-sequence token" in cut.answers[0].ends
    left = preview(long, max_length=max(len(one.tokens) for one in whole.answers) + 5, truncation="cut-prompt-left")
    assert left.cut and left.cut[0].startswith("the prompt's first")
    dropped = preview(long, max_length=9)
    assert dropped.problem.startswith("over-max-length") and dropped.answers


def test_a_row_that_ends_the_run_is_shown_all_the_same() -> None:
    row = preview(pair("<think>\nhm\n</think>\nyes"), DEEPSEEK)
    assert row.problem.startswith("reasoning-lost: the chat template leaves out the reasoning of the answer: 'hm'")
    assert "yes" in visible(row.answers[0].tokens) and "hm" not in visible(row.answers[0].tokens)
    assert "but reasoning-lost" in in_brief(row)[0]


def test_what_of_the_row_is_not_in_the_tokens_is_named() -> None:
    prompt = (Message("user", "was it right", "", '{"name": "Ann"}'),)
    assert preview(pair(prompt=prompt, tools='[{"name": "look"}]'), PHI).missing == ("tools", "name")


def test_a_refused_row_has_its_reason_and_no_tokens() -> None:
    row = preview(pair(), "{{ raise_exception('no') }}")
    assert row.problem.startswith("template-refuses") and not row.answers and not row.prompt


def test_the_brief_form_has_three_lines_at_most() -> None:
    for record in (pair("very " * 99, "no"), labelled_rows(1)[0], Demonstration(ASK, pair().chosen, Source("f", 1))):
        lines = in_brief(preview(record, max_length=999))
        assert 2 <= len(lines) <= 3 and max(map(len, lines)) < 200
        assert all("[" in line for line in lines[1:])


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    def row(number: int) -> dict[str, Any]:
        return {
            "prompt": [{"role": "user", "content": f"was it {number}"}],
            "chosen": f"yes {number}",
            "rejected": "no",
        }

    path = tmp_path / "rows.jsonl"
    rows = [row(number) for number in range(1, 6)]
    rows[3]["chosen"] = ""
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    return path


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["preview", *words]) == 0
    return capsys.readouterr().out


def test_the_first_rows_as_text(capsys: pytest.CaptureFixture[str], model: str, data: Path) -> None:
    out = shown(capsys, str(data), "--model", model, "--rows", "2")
    assert f"{data}:1" in out and f"{data}:2" in out and f"{data}:3" not in out
    lines = out.splitlines()
    assert lines[-3].split()[0] == "prompt" and lines[-2] == "  chosen     [yes 2<|im_end|>\u21b5]"
    assert "5 of 5 tokens trained on, behind" in out


@pytest.mark.parametrize("name", ["{}:3", "rows.jsonl:3", "3"])
def test_a_row_by_its_place(capsys: pytest.CaptureFixture[str], model: str, data: Path, name: str) -> None:
    found = json.loads(shown(capsys, str(data), "--model", model, "--row", name.format(data), "--format", "json"))
    assert [row["source"] for row in found] == [f"{data}:3"]
    assert {token["kind"] for token in found[0]["answers"][0]["tokens"]} == {"trained"}


def test_an_unusable_row_by_its_place(capsys: pytest.CaptureFixture[str], model: str, data: Path) -> None:
    assert "problem    empty-answer" in shown(capsys, str(data), "--model", model, "--row", "4")


def test_a_page(capsys: pytest.CaptureFixture[str], model: str, data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    shown(capsys, str(data), "--model", model, "--html", str(page))
    text = page.read_text(encoding="utf-8")
    assert text.count('class="trained special"') == 6 and "<script" not in text and str(tmp_path) not in text


def test_chat_options_are_taken(capsys: pytest.CaptureFixture[str], model: str, data: Path, tmp_path: Path) -> None:
    template = tmp_path / "phi.jinja"
    template.write_text(PHI, encoding="utf-8")
    out = shown(capsys, str(data), "--model", model, "--rows", "1", "--chat-template", str(template))
    assert "[yes 1<|end|>\u21b5]" in out
    assert "Be brief." in shown(capsys, str(data), "--model", model, "--rows", "1", "--system-prompt", "Be brief.")


def test_tools_and_their_calls_stand_in_the_prompt_as_they_stand_in_the_file(
    capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> None:
    """Keys in no alphabetical order, in the file itself, as JSON text, and in what `convert` made of it."""
    (template := tmp_path / "qwen.jinja").write_text(QWEN3, encoding="utf-8")
    properties = {"zone": {"type": "string"}, "city": {"type": "string", "enum": ["b", "a"]}}
    function = {"name": "look", "description": "looks", "parameters": {"type": "object", "properties": properties}}
    tool, call = {"type": "function", "function": function}, {"name": "look", "arguments": {"zone": "b", "city": "a"}}
    asked, called = (
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": call}]},
    )
    prompt = [asked, called, {"role": "tool", "content": "red"}, asked]
    row = {"tools": [tool], "rejected": "no", "prompt": prompt, "chosen": "yes"}
    given = write_rows(tmp_path / "given.jsonl", [row])
    spelled = write_rows(tmp_path / "spelled.jsonl", [row | {"tools": json.dumps([tool])}])
    assert main(["convert", str(given), str(tmp_path / "written.jsonl")]) == 0
    capsys.readouterr()
    for file in (given, spelled, tmp_path / "written.jsonl"):
        words = ("--model", model, "--chat-template", str(template), "--format", "json")
        (found,) = json.loads(shown(capsys, str(file), *words))
        text = "".join(token["text"] for token in found["prompt"])
        assert f"<tools>{json.dumps(tool)}</tools>" in text, file.name
        assert f"<tool_call>\n{json.dumps(call)}\n</tool_call>" in text, file.name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row", "99"], "no row is called 99"),
        (["--row", "1", "--rows", "2"], "--rows and --row were both given"),
        (["--format", "json", "--html", "x.html"], "--format has no effect with --html"),
    ],
)
def test_what_is_refused(
    capsys: pytest.CaptureFixture[str], model: str, data: Path, words: list[str], message: str
) -> None:
    assert main(["preview", str(data), "--model", model, *words]) == 2
    assert message in capsys.readouterr().err


def test_the_card_keeps_the_row_and_the_hub_does_not_get_it() -> None:
    card = {"data": {"hash": "x", "first_row": {"chosen": "[secret]"}}, "error": "secret", "status": "done"}
    assert _without_a_row(RunCard.of(card)) == {"data": {"hash": "x"}, "status": "done"}


def test_options_of_a_preview_are_those_of_training() -> None:
    assert preview(pair(), chat=ChatOptions(system_prompt="be good")).prompt[0].special


def test_the_rows_are_those_that_training_takes(capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    judged = [
        ("the cat", "sat", "ran"),
        ("the cat", "ran", "sat"),
        ("the mat", "was", "ran"),
        ("the mat", "was", "ran"),
    ]
    rows = [{"prompt": prompt, "chosen": one, "rejected": other} for prompt, one, other in judged]
    command = ["preview", str(write_rows(tmp_path / "votes.jsonl", rows)), "--model", model, "--rows", "9"]
    shown = {}
    for more in ("", "--merge-votes", "--merge-votes --use-votes soft"):
        assert main([*command, "--format", "json", *more.split()]) == 0
        shown[more] = [Path(row["source"]).name for row in json.loads(capsys.readouterr().out)]
    assert shown[""] == [f"votes.jsonl:{number}" for number in (1, 2, 3, 4)]
    assert shown["--merge-votes"] == ["votes.jsonl:3"]  # the other one is a tie, on which training has nothing to say
    assert shown["--merge-votes --use-votes soft"] == ["votes.jsonl:1", "votes.jsonl:3"]
    assert main([*command, "--use-votes", "soft"]) == 2
    assert "use_votes=soft has no effect" in capsys.readouterr().err
    write_rows(tmp_path / "votes.jsonl", rows[:2])
    assert main([*command, "--merge-votes"]) == 2
    assert "none of the rows is left" in capsys.readouterr().err
