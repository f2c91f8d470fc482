"""Chat templates that write the date: one moment for a whole run, recorded and taken again by whatever reads it."""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from likelier.cli import main as cli
from likelier.data import dates, token_cache
from likelier.data.dates import as_of, dated, dates_written
from likelier.data.options import ChatOptions
from likelier.data.records import Message
from likelier.data.rendering import render
from likelier.data.tokenize import tokenize_records
from likelier.models.policy import load_policy
from likelier.runs.checkpoints import differences
from likelier.scoring.restore import card_of, recorded_chat
from likelier.training.config import parse
from likelier.utils.errors import ConfigError
from tests.helpers.small_runs import pair_rows, read_card, save_tiny, write_rows
from tests.helpers.support import chat_pairs, tiny_tokenizer

TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
LLAMA_3_1 = (
    "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}Today: {{ date_string }}\n"
)
LLAMA_3_2 = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{{- 'Today: ' + date_string + '\n' }}"
)
GRANITE = "Today's Date: {{ strftime_now('%B %d, %Y') }}.\n"
GPT_OSS = '{%- macro system() -%}Current date: {{ strftime_now("%Y-%m-%d") }}{%- endmacro -%}{{ system() }}\n'
MINUTES = "{{ strftime_now('%d %b %Y %H:%M:%S') }}\n"
MADE = "{% set f = '%' ~ 'H' %}{{ strftime_now(format=f ~ ':%M %-d %A 100%% %Q\n%') }}\n"
TALK = (Message("user", "hi"),)
DATE = "2026-02-03T04:05:06"


def written(template: str, date: str | None = DATE, **more: Any) -> str:
    """What stands in front of the conversation."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template + TURNS
    text = render(tokenizer, TALK, ChatOptions(date=date, **more), "here")
    assert text.endswith("user: hi\n")
    return text.removesuffix("user: hi\n").rstrip("\n")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (LLAMA_3_1, "Today: 03 Feb 2026"),
        (LLAMA_3_2, "Today: 03 Feb 2026"),
        (GRANITE, "Today's Date: February 03, 2026."),
        (GPT_OSS, "Current date: 2026-02-03"),
        (MINUTES, "03 Feb 2026 04:05:06"),
        (MADE, "04:05 3 Tuesday 100% %Q\n%"),
        ("{% set clock = strftime_now %}{{ clock('%j') }} {{ strftime_now('%Y') | int + 1 }}\n", "034 2027"),
    ],
)
def test_a_template_is_told_the_date_of_the_run(template: str, told: str) -> None:
    assert written(template) == told


@pytest.mark.parametrize("template", [LLAMA_3_2, GRANITE, GPT_OSS, MINUTES, MADE])
def test_its_clock_says_what_that_of_transformers_says(template: str) -> None:
    for _ in range(3):  # where a second ends between the two
        found = written(template, datetime.now().isoformat(timespec="seconds")), written(template, None)
        if found[0] == found[1]:
            return
    assert found[0] == found[1]


def test_a_template_with_a_date_of_its_own_keeps_it_where_none_is_given() -> None:
    assert written(LLAMA_3_1, None) == "Today: 26 Jul 2024"
    assert written(LLAMA_3_2, chat_template_kwargs={"date_string": "1 May"}) == "Today: 1 May"
    assert dated(ChatOptions(), LLAMA_3_1).date is None and dated(ChatOptions(), LLAMA_3_2).date is not None


def test_dates_are_read_from_flags_and_yaml() -> None:
    basis = {"model": "m", "data": "d", "output": "o"}
    assert parse(basis | {"date": "2026-11-29"}).chat.date == "2026-11-29"
    unquoted = yaml.safe_load("date: 2026-11-29 13:45:00")
    assert parse(basis | unquoted).chat.date == "2026-11-29T13:45:00"
    with pytest.raises(ConfigError, match=r"date='29\.11\.' is no date; write it as 2026-11-29, or"):
        parse(basis | {"date": "29.11."})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models whose templates write the second, take a date, write the day, know nothing of any."""
    root = tmp_path_factory.mktemp("models")
    for name, front in {"clock": MINUTES, "day": LLAMA_3_2, "given": LLAMA_3_1, "none": ""}.items():
        save_tiny(root / name)
        file = root / name / "chat_template.jinja"
        file.write_text(front.replace("\n", "") + file.read_text())
    write_rows(root / "pairs.jsonl", pair_rows())
    return root


def test_a_date_without_effect_is_refused(models: Path) -> None:
    with pytest.raises(ConfigError, match="date='2026-11-29' has no effect: the chat template asks for no date"):
        load_policy(models / "none", chat=ChatOptions(date="2026-11-29"))
    twice = ChatOptions(date="2026-11-29", chat_template_kwargs={"date_string": "1 May"})
    with pytest.raises(ConfigError, match="date and chat_template_kwargs: date_string were both given"):
        load_policy(models / "given", chat=twice)
    with pytest.raises(ConfigError, match="date has no effect: no row is a conversation"):
        plain = [type(chat_pairs(1)[0])("a", "b", "c", chat_pairs(1)[0].source)]
        tokenize_records(plain, tiny_tokenizer(), max_length=99, chat=ChatOptions(date="2026-11-29"))


# --- rows and their cache ------------------------------------------------------------------------------------------


class Ticking:
    """A clock that is a minute later at each look."""

    minute = 0

    @classmethod
    def now(cls) -> datetime:
        cls.minute += 1
        return datetime(2026, 11, 29, 23, 59 - cls.minute % 60)

    fromisoformat = datetime.fromisoformat


def test_all_rows_have_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dates, "datetime", Ticking)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = MINUTES.rstrip("\n") + str(tokenizer.chat_template)
    groups = tokenize_records(chat_pairs(600), tokenizer, max_length=999).groups  # more than are rendered at once
    fronts = {re.search(r"\d\d : ?\d\d|\d\d:\d\d", tokenizer.decode(group.prompt)) for group in groups}
    assert len({found[0] for found in fronts if found}) == 1


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LIKELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(token_cache, "WORTH_CACHING", 1)
    yield tmp_path / "cache" / "tokens"


def test_rows_with_a_date_are_kept_under_what_of_it_is_written(own_cache: Path) -> None:
    def folders(front: str, date: str) -> int:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = front + str(tokenizer.chat_template)
        tokenize_records(chat_pairs(2), tokenizer, max_length=999, cached=True, chat=ChatOptions(date=date))
        return len(list(own_cache.iterdir()))

    assert folders(LLAMA_3_2, "2026-11-29T10:00:00") == 1
    assert folders(LLAMA_3_2, "2026-11-29T23:59:59") == 1  # the same day
    assert folders(LLAMA_3_2, "2026-11-30T00:00:00") == 2
    assert folders(MINUTES, "2026-11-30T00:00:00") == 3
    assert folders(MINUTES, "2026-11-30T00:00:01") == 4
    assert folders(MADE, "2026-11-30T00:00:00") == 5


def test_what_is_written_is_the_whole_date_where_formats_are_made_elsewhere() -> None:
    assert json.loads(dates_written(LLAMA_3_2, DATE)) == ["03 Feb 2026"]
    assert dates_written("{% set f = strftime_now %}{{ f('%d') }}", DATE) == DATE
    assert dates_written(MADE + LLAMA_3_2, DATE) == DATE


# --- runs ----------------------------------------------------------------------------------------------------------


def train(models: Path, model: str, output: Path, *more: str) -> int:
    words = ["--model", str(models / model), "--data", str(models / "pairs.jsonl"), "--output", str(output)]
    return cli.main(["train", *words, "--batch-size", "4", "--max-steps", "2", "--save-steps", "1", *more])


@pytest.fixture(scope="module")
def run(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that began at DATE and was cut after its first step."""
    root = tmp_path_factory.mktemp("dated") / "run"
    with as_of(DATE):
        assert train(models, "clock", root) == 0
    shutil.rmtree(root / "checkpoints" / "step-2")
    return root


@pytest.fixture
def cut(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


@pytest.mark.slow
def test_a_run_goes_on_with_the_date_on_which_it_began(models: Path, cut: Path) -> None:
    assert read_card(cut)["chat"] == {"date": DATE}
    before = (cut / "model.safetensors").read_bytes()
    assert train(models, "clock", cut, "--resume") == 0
    assert read_card(cut)["chat"] == {"date": DATE} and (cut / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_another_date_is_named_and_the_data_are_not_accused(
    models: Path, cut: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(models, "clock", cut, "--resume", "--date", "2026-11-30") == 2
    said = capsys.readouterr().err
    assert "the date that the chat template is told changed since the run began" in said
    assert f"date: was '{DATE}', is '2026-11-30'" in said and "training data" not in said and "data_hash" not in said


@pytest.mark.slow
def test_the_same_date_gives_the_same_run(models: Path, run: Path, tmp_path: Path) -> None:
    for name, date in (("same", DATE), ("other", "2026-02-03T04:05:07")):
        assert train(models, "clock", tmp_path / name, "--date", date) == 0
        same = read_card(tmp_path / name)["data"]["hash"] == read_card(run)["data"]["hash"]
        assert same is (name == "same")


@pytest.mark.slow
def test_what_reads_a_run_takes_its_date(run: Path) -> None:
    chat = recorded_chat(card_of(str(run)))
    policy = load_policy(run, chat=chat)
    text = render(policy.tokenizer, TALK, policy.chat, "here")
    assert chat.date == DATE and text.startswith("03 Feb 2026 04:05:06")


@pytest.mark.slow
def test_runs_whose_template_writes_no_date_have_none(models: Path, tmp_path: Path) -> None:
    for model in ("given", "none"):
        assert train(models, model, tmp_path / model) == 0
        assert read_card(tmp_path / model)["chat"] == {} and read_card(tmp_path / model)["fingerprint"]["date"] is None
    assert train(models, "given", tmp_path / "told", "--date", "2026-11-29") == 0
    assert read_card(tmp_path / "told")["data"]["hash"] != read_card(tmp_path / "given")["data"]["hash"]


@pytest.mark.slow
def test_stages_and_sweeps_have_one_date_for_all_their_runs(models: Path, tmp_path: Path) -> None:
    shared = {"model": str(models / "clock"), "data": str(models / "pairs.jsonl"), "batch_size": 4, "max_steps": 2}
    stages = {"stages": [{"name": "one", "method": "sft"}, {"name": "two", "method": "dpo"}]}
    (tmp_path / "stages.yaml").write_text(json.dumps(shared | stages | {"output": str(tmp_path / "staged")}))
    assert cli.main(["train", str(tmp_path / "stages.yaml")]) == 0
    began = read_card(tmp_path / "staged")["began"]
    for folder in sorted((tmp_path / "staged").glob("*/run.json")):
        assert read_card(folder.parent)["chat"] == {"date": began}
    (tmp_path / "run.yaml").write_text(json.dumps(shared | {"eval_fraction": 0.25}))
    words = ["sweep", str(tmp_path / "run.yaml"), "--vary", "dpo.beta=0.1,0.2", "--output", str(tmp_path / "sweep")]
    assert cli.main(words) == 0
    began = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["began"]
    cards = [read_card(path.parent) for path in (tmp_path / "sweep").glob("*/run.json")]
    assert len(cards) == 2 and all(card["chat"] == {"date": began} for card in cards)


def test_what_is_compared_before_a_run_goes_on() -> None:
    then = {"date": DATE, "data_hash": "a"}
    told = differences(then, {"date": None, "data_hash": "b"}) or ""
    assert told.startswith("the date that the chat template is told changed") and "data_hash" not in told
    assert "the training data changed" in (differences(then, {"date": DATE, "data_hash": "b"}) or "")
    assert differences({"data_hash": "a"}, {"date": DATE, "data_hash": "a"}) is None  # a run of before
