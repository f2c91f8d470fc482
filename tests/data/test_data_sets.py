"""Several data sets in a run: names, weights, splits; and how conversations become text."""

import json
from pathlib import Path
from typing import Any

import pytest

from likelier import DPO, ChatOptions, DataSet, PreferenceTrainer, load_preferences
from likelier.cli.main import main
from likelier.data.names import Named, distinct_names
from likelier.data.records import Message
from likelier.data.tokenize import tokenize_records
from likelier.models.policy import set_template
from likelier.training.config import data_sets, parse
from likelier.utils.errors import ConfigError, DataError
from tests.cli.test_cli import as_json, write_lines
from tests.helpers.support import CHATML, chat_pairs, tiny_policy, tiny_tokenizer


def _file(path: Path, count: int, seed: int) -> Path:
    names = ("prompt", "chosen", "rejected")
    pairs = chat_pairs(count, seed)
    return write_lines(path, [{name: as_json(getattr(pair, name)) for name in names} for pair in pairs])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return _file(tmp_path / "plain.jsonl", 10, 1), _file(tmp_path / "other.jsonl", 20, 2)


def test_a_weight_says_how_often_rows_are_seen(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    one, two = map(str, files)
    data = load_preferences([DataSet(one, weight=2.5), DataSet(two, name="rest", weight=0.25)])
    names = [record.source.data_set for record in data.train]
    assert (names.count("plain"), names.count("rest")) == (25, 5)
    counts = [data.train.count(record) for record in data.train if record.source.data_set == "plain"]
    assert set(counts) == {2, 3}
    again = load_preferences([DataSet(one, weight=2.5), DataSet(two, name="rest", weight=0.25)])
    other = load_preferences([DataSet(one, weight=2.5), DataSet(two, name="rest", weight=0.25)], seed=1)
    assert again.train == data.train != other.train
    said = capsys.readouterr().err
    assert "rest: 20 pairs (prompt, chosen, rejected), weight 0.25" in said and "rest: 5 rows an epoch from 20" in said


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["prefs.jsonl", "b/prefs.jsonl"], ["prefs", "b/prefs"]),
        (["x/a/prefs.jsonl", "y/b/prefs.csv", "other"], ["prefs.jsonl", "prefs.csv", "other"]),
        (["x/a/prefs.jsonl", "y/a/prefs.jsonl"], ["x/a/prefs", "y/a/prefs"]),
        (["a/prefs.jsonl", "a/prefs.csv", "b/prefs.csv"], ["a/prefs.jsonl", "a/prefs.csv", "b/prefs.csv"]),
        (["me/chats", "you/chats/"], ["me/chats", "you/chats"]),
        (["prefs", "prefs"], ["prefs", "prefs"]),
    ],
)
def test_files_of_one_name_are_told_apart_by_their_folders(paths: list[str], names: list[str]) -> None:
    assert distinct_names([Named(path) for path in paths]) == names


def test_subsets_of_one_set_are_told_apart_and_names_that_are_given_stand() -> None:
    assert distinct_names([Named("me/chats", "train"), Named("me/chats", "test")]) == ["chats-train", "chats-test"]
    assert distinct_names([Named("a/prefs.jsonl")], taken=["prefs"]) == ["prefs.jsonl"]


@pytest.mark.parametrize("command", ["audit", "convert"])
def test_files_of_one_name_go_together(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("a", 1), ("b", 2)):
        Path(folder).mkdir()
        _file(Path(folder, "prefs.jsonl"), 10, seed)
    out = ["both.jsonl"] if command == "convert" else []
    assert main([command, "a/prefs.jsonl", "b/prefs.jsonl", *out]) != 2  # an audit that finds something gives 3
    assert "a/prefs: 10 pairs" in (said := capsys.readouterr().err) and "b/prefs: 10 pairs" in said
    sets = parse({"model": "m", "output": "o", "data": ["a/prefs.jsonl", "b/prefs.jsonl"]}).run.data
    assert {record.source.data_set for record in load_preferences(sets).train} == {"a/prefs", "b/prefs"}


def test_held_out_prompts_are_no_part_of_any_weight(files: tuple[Path, Path]) -> None:
    data = load_preferences([DataSet(str(file), weight=3) for file in files], eval_fraction=0.3)
    held = {record.prompt for record in data.test}
    assert held.isdisjoint(record.prompt for record in data.train)
    assert len(data.train) == 3 * (30 - len(data.test))


@pytest.mark.slow
def test_evaluation_tells_each_data_set_apart(files: tuple[Path, Path], tmp_path: Path) -> None:
    data = load_preferences(files[0], eval_data=list(files))
    trainer = PreferenceTrainer(
        tiny_policy(),
        DPO(),
        data.train,
        eval_data=data.test,
        output_dir=tmp_path / "run",
        batch_size=8,
        max_steps=1,
        warmup=0,
    )
    trainer.train()
    end = trainer.folder.read_card()["evaluation_end"]
    whole = end["eval_ranking_accuracy"] * 30
    parts = end["eval_ranking_accuracy/plain"] * 10 + end["eval_ranking_accuracy/other"] * 20
    assert parts == pytest.approx(whole)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "data is an empty list"),
        ([{"weight": 1}], "a data set without path"),
        ([{"path": "a", "wieght": 1}], "unknown option 'wieght' of a data set; did you mean weight?"),
        ([{"path": "a", "weight": 0}], "a: weight=0.0 is out of range"),
        ([{"path": "a", "weight": "much"}], "weight='much' is not a number"),
        ([1], "data: 1 is no data set"),
    ],
)
def test_a_data_set_that_cannot_be_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"model": "m", "output": "o", "data": value})
    assert message in str(caught.value)


def test_what_has_no_effect_on_a_data_set_is_refused(files: tuple[Path, Path]) -> None:
    path = str(files[0])
    for choice in ({"split": "train"}, {"subset": "a"}, {"revision": "b"}):
        with pytest.raises(ConfigError, match=f"is a file, on which {next(iter(choice))} has no effect"):
            load_preferences(DataSet(path, **choice))
    with pytest.raises(ConfigError, match="a weight has no effect on evaluation data"):
        load_preferences(path, eval_data=[DataSet(path, weight=2)])
    with pytest.raises(ConfigError, match="two data sets are called 'plain'"):
        load_preferences([path, path])
    with pytest.raises(ConfigError, match=r"weight=0\.01 of its 10 rows is none"):
        load_preferences(DataSet(path, weight=0.01))


def test_a_split_of_a_datasets_folder(tmp_path: Path) -> None:
    import datasets

    rows = {name: datasets.Dataset.from_list([{"prompt": name, "chosen": "a", "rejected": "b"}]) for name in "xy"}
    datasets.DatasetDict(rows).save_to_disk(tmp_path / "set")
    found = load_preferences(DataSet(str(tmp_path / "set"), split="y")).train
    assert [record.prompt for record in found] == ["y"]
    with pytest.raises(DataError, match=r"holds the splits \['x', 'y'\] and none is called train; name one with split"):
        load_preferences(tmp_path / "set")
    with pytest.raises(DataError, match="none is called z; name one with split"):
        load_preferences(DataSet(str(tmp_path / "set"), split="z"))
    with pytest.raises(ConfigError, match="is a folder, on which revision has no effect"):
        load_preferences(DataSet(str(tmp_path / "set"), revision="main"))


def test_a_hub_set_is_asked_for_as_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load(name: str, subset: str | None, *, split: str | None, revision: str | None) -> Any:
        asked.append((name, subset, split, revision))
        return datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    load_preferences(DataSet("owner/set", subset="en", split="train_prefs", revision="v1"))
    assert asked == [("owner/set", "en", "train_prefs", "v1")]
    assert DataSet("owner/set").name == "set"


def test_yaml_names_data_sets_in_three_ways() -> None:
    found = data_sets("data", ["a.jsonl", {"path": "b.jsonl", "weight": "5e-1", "name": "b"}])
    assert found == (DataSet("a.jsonl"), DataSet("b.jsonl", name="b", weight=0.5))
    assert data_sets("data", {"path": "a.jsonl"}) == (DataSet("a.jsonl"),)


# --- conversations -------------------------------------------------------------------------------------------------

# Before an answer and where one stands, as templates with a thinking mode have it.
_MODE = "{% if enable_thinking %}{{ 'think\n' }}{% endif %}"
THINKING = CHATML.replace(
    "+ '\n' + message['content']",
    "+ '\n' }}{% if message['role'] == 'assistant' %}" + _MODE + "{% endif %}{{ message['content']",
).replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n' }}" + _MODE)


def _text(chat: ChatOptions, **settings: Any) -> tuple[str, str]:
    tokenizer = tiny_tokenizer()
    set_template(tokenizer, chat)
    found = tokenize_records(chat_pairs(1), tokenizer, max_length=512, chat=chat, **settings).groups[0]
    return tokenizer.decode(found.prompt), tokenizer.decode(found.answers[0])


def test_a_template_its_arguments_and_a_system_prompt_reach_the_tokens(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(THINKING)
    plain, answer = _text(ChatOptions())
    thinking, _ = _text(ChatOptions(str(tmp_path / "chat.jinja"), {"enable_thinking": True}))
    asked, same = _text(ChatOptions(system_prompt="be brief"))
    assert thinking == plain + "think\n"
    assert asked == "<|im_start|>system\nbe brief<|im_end|>\n" + plain and same == answer


def test_a_conversation_keeps_its_own_system_turn() -> None:
    pair = chat_pairs(1)[0]
    with_system = pair.__class__((Message("system", "own"), *pair.prompt), pair.chosen, pair.rejected, pair.source)
    tokenizer = tiny_tokenizer()
    found = tokenize_records([with_system], tokenizer, max_length=512, chat=ChatOptions(system_prompt="shared"))
    assert "shared" not in tokenizer.decode(found.groups[0].prompt)


def test_chat_options_without_effect_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="enable_thinking has no effect, the chat template does not know it"):
        _text(ChatOptions(chat_template_kwargs={"enable_thinking": False}))
    with pytest.raises(ConfigError, match="give a file with a Jinja template"):
        _text(ChatOptions(chat_template=str(tmp_path / "none.jinja")))
    with pytest.raises(ConfigError, match="must be a block of names and values, found list"):
        ChatOptions(chat_template_kwargs=["enable_thinking"])  # type: ignore[arg-type]
    plain = load_preferences([{"prompt": "a", "chosen": "b", "rejected": "c"}]).train
    with pytest.raises(ConfigError, match="system_prompt has no effect: no row is a conversation"):
        tokenize_records(plain, tiny_tokenizer(), max_length=99, chat=ChatOptions(system_prompt="x"))


@pytest.mark.slow
def test_the_card_keeps_them_and_scoring_takes_them_up(tmp_path: Path, files: tuple[Path, Path]) -> None:
    from likelier.cli import main as cli
    from tests.cli.test_cli import read_lines

    policy = tiny_policy()
    policy.tokenizer.chat_template = THINKING
    policy.model.float().save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    run = tmp_path / "run.yaml"
    options = {
        "model": str(tmp_path / "model"),
        "data": str(files[0]),
        "output": str(tmp_path / "run"),
        "max_steps": 1,
        "warmup": 0,
    }
    run.write_text(json.dumps({**options, "system_prompt": "x", "chat_template_kwargs": {"enable_thinking": True}}))
    assert cli.main(["train", str(run)]) == 0
    card = json.loads((tmp_path / "run" / "run.json").read_text())
    assert card["chat"] == {"system_prompt": "x", "chat_template_kwargs": {"enable_thinking": True}}
    words = ["score", "--data", str(files[0]), "--output", str(tmp_path / "scores.jsonl"), "--overwrite", "--model"]
    assert cli.main([*words, str(tmp_path / "run")]) == 0
    first = read_lines(tmp_path / "scores.jsonl")[0]["chosen"]["ref_logp"]
    assert cli.main([*words, str(tmp_path / "model"), "--reference", str(tmp_path / "model")]) == 0
    assert abs(read_lines(tmp_path / "scores.jsonl")[0]["chosen"]["ref_logp"] - first) > 1e-3
