"""What fuzzing found, each as a test of its own: what was given, and what is said of it now."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from likelier.data.columns import columns_of
from likelier.data.load import load_preferences
from likelier.insight.diagnose import diagnose
from likelier.insight.report.page import report_page
from likelier.models.policy import load_policy
from likelier.runs.reader import read_run
from likelier.training.config import parse, read_yaml
from likelier.utils.errors import ConfigError, DataError, ModelError, RunFolderError
from likelier.utils.strict_json import BrokenJson, parse_json
from tests.helpers.fuzzing import command, files_below
from tests.helpers.small_runs import SmallRuns, forget_files, pair_rows, read_card, train, write_card, write_rows

GOOD: dict[str, Any] = {"model": "demo", "data": "x.jsonl", "output": "runs/x"}
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}


def message_of(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        load_preferences(path)
    return str(caught.value)


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, r"too long to be read \(5000 digits\)"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the name 'c' stands twice"),
        (b"\xff\xfe", r"not UTF-8 text \(byte 1\)"),
        ("{", "Expecting property name"),
    ],
)
def test_text_that_is_no_json_has_one_kind_of_error(text: Any, said: str) -> None:
    with pytest.raises(BrokenJson, match=said):
        parse_json(text)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, "9" * 5000])
def test_json_that_python_cannot_hold_is_bad_data(tmp_path: Path, name: str, text: str) -> None:
    assert str(tmp_path / name) in message_of(tmp_path / name, text)


def test_a_value_that_is_nested_too_deeply_to_be_shown_is_bad_data(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(DataError, match="nested too deeply"):
        load_preferences([{"prompt": deep, "x": deep}])


def test_a_gz_that_is_no_utf8_and_cut_off_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(b'{"prompt": "\xff"}\n' * 5000)
    assert "rows.jsonl.gz" in message_of(tmp_path / "rows.jsonl.gz", packed[:-8])


# --- tables, trees, paths --------------------------------------------------------------------------------------------


def test_two_columns_of_one_name_are_refused_in_every_table(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    assert "two columns are called 'b'" in message_of(tmp_path / "rows.csv", "a,b,b\n1,2,3\n")
    table = pyarrow.Table.from_arrays([["x"], ["y"]], names=["b", "b"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="two columns are called 'b'"):
        load_preferences(tmp_path / "rows.parquet")


NODES = [
    {"id": "1", "parent": None, "role": "user", "text": "a", "rank": None},
    {"id": "2", "parent": "1", "role": "assistant", "text": "b", "rank": 0},
    {"id": "3", "parent": "1", "role": "assistant", "text": "c", "rank": 1},
]


@pytest.mark.parametrize(
    ("number", "column", "value"), [(0, "id", []), (1, "id", None), (1, "parent", {}), (2, "id", "")]
)
def test_messages_of_a_tree_need_ids(tmp_path: Path, number: int, column: str, value: Any) -> None:
    """A message without an id used to be everybody's parent, and the search for its root never ended."""
    rows = [row | ({column: value} if place == number else {}) for place, row in enumerate(NODES)]
    with pytest.raises(DataError, match=rf"rows.jsonl:{number + 1}: {column} is .*; every message needs an id"):
        load_preferences(write_rows(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize("replies", [3, "text", [3], [{"text": "a", "replies": [None]}]])
def test_the_replies_of_a_tree_are_a_list_of_messages(tmp_path: Path, replies: Any) -> None:
    rows = [{"tree": {"role": "user", "text": "a", "replies": replies}}]
    with pytest.raises(DataError, match=r"rows.jsonl:1: (a message|the replies)"):
        load_preferences(write_rows(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize("name", ["a" * 5000, "x/" * 3000, "a\0b"])
def test_a_name_that_no_file_can_have_is_bad_data(name: str) -> None:
    with pytest.raises(DataError):
        load_preferences(name)


def test_a_number_beyond_floats_is_no_number() -> None:
    with pytest.raises(ConfigError, match="is not a number"):
        parse({**GOOD, "learning_rate": 10**400})
    with pytest.raises(ConfigError, match="is not a number"):
        parse({**GOOD, "trainer": {"max_grad_norm": 10**400}})
    with pytest.raises(ConfigError, match="is not a number"):
        columns_of({"threshold": 10**400})
    assert load_preferences([PAIR | {"weight": 10**400}]).train


@pytest.mark.parametrize(
    ("tool", "values", "said"),
    [
        ("axolotl", {"base_model": "m", "rl": "dpo", "datasets": [], "learning_rate": 10**400}, "is not a number"),
        ("trl", {"dataset_name": "d", "beta": 0.1, "use_peft": True, "lora_r": -1, "use_rslora": True}, "rank of the"),
    ],
)
def test_numbers_that_cannot_be_in_files_of_other_tools(
    tmp_path: Path, tool: str, values: dict[str, Any], said: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    found = command("import-config", path, "--from", tool, *(["--trainer", "dpo"] if tool == "trl" else []))
    assert found.code == 2 and said in found.err, found


# --- YAML ------------------------------------------------------------------------------------------------------------


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


MISFITS = ["a: !!int", "a: !!float", "a: !!bool x", "a: !!timestamp x", "a: 2001-99-99"]


@pytest.mark.slow
@pytest.mark.parametrize("text", [*MISFITS, "[" * 1500, "a: &a [*a]", BOMB, "? [a]\n: b"])
def test_yaml_that_python_cannot_hold_is_a_mistake_in_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run.yaml"):
        read_yaml(str(path))


def test_aliases_that_unfold_to_little_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("a: &a {b: 1}\nc: [*a, *a]\n", encoding="utf-8")
    assert read_yaml(str(path))["c"] == [{"b": 1}, {"b": 1}]


@pytest.mark.parametrize("name", ["model", "data", "output", "reference", "reference_store", "chat_template"])
def test_a_null_character_in_a_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=.*null character"):
        parse({**GOOD, name: "a\0b"})


# --- nothing is left behind ------------------------------------------------------------------------------------------


def test_a_refused_run_leaves_no_folder(runs: SmallRuns, tmp_path: Path) -> None:
    out = tmp_path / "new" / "deeper" / "out"
    words = ["train", "--model", runs.model, "--data", runs.pairs, "--output", out]
    assert command(*words, "--max-length", "3").code == 2
    assert command(*words, "--reference", "base").code == 2
    assert {name.split("/")[0] for name in files_below(tmp_path)} <= {"cache"}


def test_refused_stages_and_sweeps_leave_no_folder(runs: SmallRuns, tmp_path: Path) -> None:
    shared = f"model: {runs.model}\ndata: {tmp_path / 'absent.jsonl'}\noutput: {tmp_path / 'out'}\n"
    path = tmp_path / "run.yaml"
    path.write_text(shared + "stages: [{method: dpo}]\n", encoding="utf-8")
    assert command("train", path).code == 2
    words = ["sweep", "--model", runs.model, "--data", runs.pairs, "--output", tmp_path / "out"]
    assert command(*words, "--eval-data", tmp_path / "absent.jsonl").code == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_there_keeps_what_it_held(runs: SmallRuns, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    assert command("train", "--model", runs.model, "--data", runs.pairs, "--output", out, "--max-length", "3").code == 2
    assert files_below(out) == {"notes.txt": b"mine"}


def test_a_refused_resume_leaves_the_account_of_the_first_run(runs: SmallRuns, tmp_path: Path) -> None:
    run = train(runs.model, runs.pairs, tmp_path / "run", "--save-steps", "1")
    before = (run / "audit.json").read_bytes()
    other = write_rows(tmp_path / "other.jsonl", pair_rows(20)[3:])
    words = ["train", "--model", runs.model, "--data", other, "--output", run, "--batch-size", "4", "--max-steps", "2"]
    found = command(*words, "--save-steps", "1", "--resume")
    assert found.code == 2 and "the training data changed" in found.err
    assert (run / "audit.json").read_bytes() == before


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_a_checkpoint_whose_bytes_were_changed_is_damaged(runs: SmallRuns, tmp_path: Path, name: str) -> None:
    run = train(runs.model, runs.pairs, tmp_path / "run", "--save-steps", "1")
    shutil.rmtree(run / "checkpoints" / "step-2")
    (path,) = (run / "checkpoints" / "step-1").glob(name)
    path.write_bytes(b"\xa2" * path.stat().st_size)
    words = ["train", "--model", runs.model, "--data", runs.pairs, "--output", run, "--batch-size", "4"]
    found = command(*words, "--max-steps", "2", "--save-steps", "1", "--resume")
    assert found.code == 2 and "step-1 is damaged: " in found.err, found


# --- run folders -----------------------------------------------------------------------------------------------------


def copied(run: Path, folder: Path) -> Path:
    return shutil.copytree(run, folder / "copy")


def changed(path: Path, change: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("entry", "value", "place"),
    [
        ("options", {"batch_size": "eight"}, "options.batch_size is 'eight', where a whole number"),
        ("learning_rate", {"source": "x"}, "learning_rate.value is None, where a number"),
        ("versions", [], r"versions is \[\], where names and values"),
        ("stages", [{"name": "a"}], r"stages\[0\].folder is None, where text"),
        ("fingerprint", {"adapter": []}, r"fingerprint.adapter is \[\]"),
        ("evaluation_end", {"eval_loss": 1e300}, "evaluation_end.eval_loss is 1e"),
        ("run", {"data": [{"name": "x"}]}, "run.data is .* where a path or a list of data sets"),
    ],
)
def test_a_card_of_another_shape_is_damaged(
    runs: SmallRuns, tmp_path: Path, entry: str, value: Any, place: str
) -> None:
    run = copied(runs.adapter, tmp_path)
    write_card(run, read_card(run) | {entry: value})
    with pytest.raises(RunFolderError, match=rf"run.json is damaged: {place}"):
        read_run(run)


def test_what_is_null_on_a_card_is_not_there(runs: SmallRuns, tmp_path: Path) -> None:
    run = copied(runs.adapter, tmp_path)
    write_card(run, dict.fromkeys(read_card(run)) | {"method": "dpo"})
    assert report_page(read_run(run))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda found: found["items"]["chosen"]["logps"].pop(), r"items\.\w+"),
        (lambda found: found["items"].pop("rejected"), "items is .* where both chosen and rejected"),
        (lambda found: found["items"]["rejected"].pop("ref_logps"), "ref_logps of both sides"),
        (lambda found: found["samples"][0].pop("sampled"), r"samples\[0\].sampled"),
        (lambda found: found["pairs"][0]["chosen"]["tokens"].append(3), r"pairs\[0\].chosen.tokens\[\d+\] is 3"),
    ],
)
def test_an_evaluation_of_another_shape_is_damaged(runs: SmallRuns, tmp_path: Path, change: Any, place: str) -> None:
    run = forget_files(copied(runs.adapter, tmp_path))
    changed(run / "evaluations" / "step-2.json", change)
    with pytest.raises(RunFolderError, match=rf"step-2.json is damaged: .*{place}"):
        diagnose(read_run(run))


LINES = ['{"loss": 1}', '{"step": 1, "loss": null}', '{"step": -1, "loss": 1}', "[]", "[" * 9999]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_another_shape_is_damaged(runs: SmallRuns, tmp_path: Path, line: str) -> None:
    run = copied(runs.adapter, tmp_path)
    (run / "metrics.jsonl").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"metrics.jsonl:1 is damaged"):
        read_run(run)


def test_a_card_without_what_a_command_needs_is_named(runs: SmallRuns, tmp_path: Path) -> None:
    run = copied(runs.whole, tmp_path)
    card = read_card(run)
    write_card(run, card | {"run": {"data": card["run"]["data"]}})
    scored = command("score", "--model", run, "--data", runs.pairs, "--output", tmp_path / "out.jsonl")
    assert scored.code == 2 and "give --reference" in scored.err
    write_card(run, card | {"options": {}})
    looked = command("inspect", run, "--row", "1")
    assert looked.code == 2 and "run.json does not tell options.seed" in looked.err


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", lambda found: found.update(max_position_embeddings="x"), "cannot be loaded"),
        ("config.json", lambda found: found.update(rope_parameters={"rope_type": {}}), "cannot be loaded"),
        ("tokenizer_config.json", lambda found: found.update(model_max_length=[]), "cannot be loaded"),
        ("tokenizer.json", lambda found: found["model"].update(vocab={"a": []}), "cannot be loaded"),
    ],
)
def test_a_model_whose_files_hold_something_else_is_refused(
    runs: SmallRuns, tmp_path: Path, name: str, change: Any, said: str
) -> None:
    model = copied(runs.model, tmp_path)
    changed(model / name, change)
    with pytest.raises(ModelError, match=said):
        load_policy(model)


def test_weights_that_are_missing_are_not_drawn_at_random(runs: SmallRuns, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = copied(runs.model, tmp_path)
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack the weights model\.layers\.1\.mlp\.up_proj\.weight"):
        load_policy(model)


def test_settings_of_an_adapter_that_peft_cannot_read_are_refused(runs: SmallRuns, tmp_path: Path) -> None:
    run, config = copied(runs.adapter, tmp_path), "adapter_config.json"
    changed(run / config, lambda found: found.update(rank_pattern=3))
    with pytest.raises(ModelError, match="does not fit its base model"):
        load_policy(run)
    changed(run / config, lambda found: found.update(rank_pattern={}, velora_config=3))  # read as what it names
    with pytest.raises(ModelError, match="a LoRA adapter with velora_config, which is not known here"):
        load_policy(run)
    changed(run / config, lambda found: found.update(velora_config=None, alora_invocation_tokens=["x"]))
    with pytest.raises(ModelError, match="aLoRA"):
        load_policy(run)
