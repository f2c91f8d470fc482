"""Merging: what is written is the run's model, and nothing is left where it is not."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from likelier.cli import main as cli
from likelier.data.load import load_preferences
from likelier.data.tokenize import tokenize_records
from likelier.models.policy import load_policy
from likelier.runs.card import Given, RunCard
from likelier.runs.folder import final_folder
from likelier.training import merge
from likelier.utils import folders as unfinished
from likelier.utils.errors import ModelError, RunFolderError
from tests.helpers.small_runs import SmallRuns, read_card, save_tiny, staged, write_card
from tests.helpers.support import naive_logp


def merged(run: Path, output: Path, *more: str) -> int:
    return cli.main(["merge", str(run), str(output), *more])


def logps(folder: Path, data: Path) -> list[float]:
    """Each answer's log-probability per token, computed in the most direct way."""
    policy = load_policy(folder, dtype="float32")
    groups = tokenize_records(load_preferences(data).train, policy.tokenizer, max_length=512).groups
    return [naive_logp(policy.model, group, k) / len(group.answers[k]) for group in groups for k in (0, 1)]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(run: Path, output: Path, *more: str) -> str:
        before = sorted(output.parent.iterdir())
        assert merged(run, output, *more) == 2
        assert sorted(output.parent.iterdir()) == before, "something was left behind"
        return capsys.readouterr().err.split("error: ", 1)[1]

    return call


def test_a_merged_adapter_gives_the_runs_log_probabilities(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "merged"
    assert merged(runs.adapter, output) == 0
    shown = capsys.readouterr().out
    assert "merged into its base, float32" in shown and "from pairs.jsonl" in shown and str(output) in shown
    assert logps(output, runs.pairs) == pytest.approx(logps(runs.adapter, runs.pairs), abs=1e-5)
    assert logps(output, runs.pairs) != pytest.approx(logps(runs.model, runs.pairs), abs=1e-3)
    names = {entry.name for entry in output.iterdir()}
    model_files = {"config.json", "generation_config.json", "model.safetensors"}
    assert names == model_files | {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} | {
        "README.md",
        "merge.json",
    }


def test_merge_json_tells_where_it_came_from_and_no_path(runs: SmallRuns, tmp_path: Path) -> None:
    assert merged(runs.adapter, tmp_path / "merged") == 0
    text = (tmp_path / "merged" / "merge.json").read_text(encoding="utf-8")
    told, card = json.loads(text), read_card(runs.adapter)
    assert (told["run"], told["base"], told["dtype"]) == ("adapter", "tiny", "float32")
    assert told["base_weights"] == card["reference"]["weights"]
    assert told["adapter"] == card["fingerprint"]["adapter"]
    check = told["check"]
    assert 0 <= check["difference"] <= check["token_difference"] < check["adapter_effect"]
    assert check["difference"] <= check["tolerance"] == 1e-5 < check["adapter_effect"]
    assert check["answers"] == 16 and check["tokens"] > 16
    readme = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    for page in (text, readme, (tmp_path / "merged" / "config.json").read_text(encoding="utf-8")):
        assert str(runs.model.parent) not in page
    assert "with a LoRA adapter merged into it" in readme and "AutoModelForCausalLM" in readme


def test_a_dtype_can_be_chosen_and_its_cost_is_said(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a tiny adapter may well drown in the rounding
        assert merged(runs.adapter, tmp_path / "merged", "--dtype", "bfloat16") == 0
    assert "(allowed 0.05)" in capsys.readouterr().out
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    check = json.loads((tmp_path / "merged" / "merge.json").read_text(encoding="utf-8"))["check"]
    assert 1e-5 < check["difference"] <= check["tolerance"] == 0.05


def test_the_bases_own_dtype_is_the_default(tmp_path: Path, runs: SmallRuns) -> None:
    base, adapter = save_tiny(tmp_path / "base", dtype=torch.bfloat16), tmp_path / "adapter"
    shutil.copytree(runs.adapter, adapter)
    (adapter / "run.json").unlink()
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert merged(adapter, tmp_path / "merged") == 0
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    told = json.loads((tmp_path / "merged" / "merge.json").read_text(encoding="utf-8"))
    assert told["dtype"] == "bfloat16" and told["check"]["texts"] == "built-in texts"


def test_rounding_that_drowns_the_adapter_is_warned_of(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(merge, "_token_difference", lambda left, right: 0.04)
    with warnings.catch_warnings():
        assert merged(runs.adapter, tmp_path / "merged", "--dtype", "bfloat16") == 0
    assert "--dtype float32 keeps what was learned" in capsys.readouterr().err


def test_a_run_without_adapter_is_written_as_one_folder(
    runs: SmallRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "merged").mkdir()  # an empty folder may be there
    assert merged(runs.whole, tmp_path / "merged") == 0
    assert "nothing to merge" in capsys.readouterr().out
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", runs.whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    told = json.loads((tmp_path / "merged" / "merge.json").read_text(encoding="utf-8"))
    assert told["adapter"] is None and told["check"]["difference"] == 0
    assert not (tmp_path / "merged" / "metrics.jsonl").exists()


def test_a_staged_run_gives_its_last_finished_stage(runs: SmallRuns, tmp_path: Path) -> None:
    root = staged(tmp_path / "staged", ("first", runs.whole), ("second", runs.adapter))
    assert final_folder(root) == root / "2-second"
    assert merged(root, tmp_path / "merged") == 0
    assert json.loads((tmp_path / "merged" / "merge.json").read_text(encoding="utf-8"))["run"] == "2-second"
    write_card(root / "2-second", read_card(root / "2-second") | {"status": "training"})
    assert final_folder(root) == root / "1-first"
    write_card(root / "1-first", read_card(root / "1-first") | {"status": "failed"})
    with pytest.raises(RunFolderError, match=r"stages \(first, second\), and none of them is finished"):
        final_folder(root)


@pytest.mark.parametrize("path", ["no/such/run", "demo", "./here"])
def test_any_other_path_is_its_own_final_folder(path: str) -> None:
    assert final_folder(path) == Path(path)


def test_a_wrong_merge_is_caught_and_leaves_nothing(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    right = merge.merged_model

    def wrong(policy: Any) -> Any:
        model = right(policy)
        with torch.no_grad():
            next(model.parameters()).mul_(1.001)
        return model

    monkeypatch.setattr(merge, "merged_model", wrong)
    for dtype in ("float32", "bfloat16"):  # rounding hides nothing: the merge is checked before it
        message = refused(runs.adapter, tmp_path / "merged", "--dtype", dtype)
        assert "the merged model is not the one of the run" in message and "(allowed 1e-05)" in message


def test_numbers_that_are_none_are_no_agreement() -> None:
    for measure in (merge._difference, merge._token_difference):
        assert measure([[0.0, 0.0], [0.0, float("nan")]], [[0.0, 0.0], [0.0, 0.0]]) == float("inf")
    with pytest.raises(ModelError, match="not the one of the run"):
        merge._require_same(merge.Check(1, 1, "texts", float("inf"), 1e-5, 0.0, None))


def test_a_failed_write_leaves_nothing(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unfinished.os, "replace", full)
    assert "No space left on device" in refused(runs.whole, tmp_path / "merged")


def test_an_output_that_is_taken_is_refused_and_kept(
    runs: SmallRuns, tmp_path: Path, refused: Callable[..., str]
) -> None:
    taken, file = save_tiny(tmp_path / "taken"), tmp_path / "file"
    before = (taken / "model.safetensors").read_bytes()
    assert "is not empty (it holds chat_template.jinja)" in refused(runs.adapter, taken)
    assert (taken / "model.safetensors").read_bytes() == before
    file.write_text("")
    assert "is a file" in refused(runs.adapter, file)
    assert merged(runs.adapter, file / "merged") == 2
    assert "is not empty" in refused(runs.whole, runs.whole)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "no such run folder" in refused(tmp_path / "none", tmp_path / "merged")
    (tmp_path / "empty").mkdir()
    assert "without config.json" in refused(tmp_path / "empty", tmp_path / "merged")


def test_a_quantized_base_is_refused_with_advice(runs: SmallRuns, tmp_path: Path, refused: Callable[..., str]) -> None:
    run, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(runs.adapter, run)
    shutil.copytree(runs.model, base)
    write_card(run, read_card(run) | {"lora": {"lora_r": 4, "load_in_4bit": True}})
    assert "over a base in 4 bits" in refused(run, tmp_path / "merged")
    write_card(run, read_card(runs.adapter))
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    settings = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))
    (run / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    message = refused(run, tmp_path / "merged")
    assert "is quantized" in message and "without merging" in message


def test_a_base_that_was_replaced_is_refused(runs: SmallRuns, tmp_path: Path, refused: Callable[..., str]) -> None:
    run, base = tmp_path / "run", save_tiny(tmp_path / "base", seed=5)
    shutil.copytree(runs.adapter, run)
    settings = json.loads((run / "adapter_config.json").read_text(encoding="utf-8"))
    (run / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    assert "is not the one that the adapter was trained on" in refused(run, tmp_path / "merged")


def test_the_check_has_texts_for_any_tokenizer(tmp_path: Path) -> None:
    plain = load_policy(save_tiny(tmp_path / "plain", chat=False), dtype="float32")
    groups, texts = merge.check_texts(RunCard(run=Given(data=str(tmp_path / "gone.jsonl"))), plain)
    assert len(groups) == 8 and texts == "built-in texts"
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{", encoding="utf-8")
    assert merge.check_texts(RunCard(run=Given(data=[{"path": str(broken)}])), plain)[1] == "built-in texts"


@pytest.mark.parametrize("own", [True, False])
def test_the_check_reads_the_runs_own_rows_by_their_column_map(own: bool, tmp_path: Path) -> None:
    plain = load_policy(save_tiny(tmp_path / "plain", chat=False), dtype="float32")
    path = tmp_path / "mapped.json"
    path.write_text(json.dumps({"by": "me", "rows": [{"q": "ask", "yes": "good", "no": "bad"}]}), encoding="utf-8")
    columns = {"records": "rows", "prompt": "q", "chosen": "yes", "rejected": "no"}
    given = Given(data=[{"path": str(path), "columns": columns}]) if own else Given(data=str(path), columns=columns)
    groups, texts = merge.check_texts(RunCard(run=given), plain)
    assert len(groups) == 1 and texts == "from mapped.json"


def test_the_dtype_of_a_base_from_the_hub_is_read_in_its_cache(
    runs: SmallRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, cached = tmp_path / "adapter", save_tiny(tmp_path / "cached", dtype=torch.bfloat16)
    shutil.copytree(runs.adapter, adapter)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    asked: list[str] = []

    def from_cache(name: str, file: str) -> str | None:
        asked.append(name)
        return str(cached / file) if name == "owner/name" else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", from_cache)
    for name, dtype in (("owner/name", "bfloat16"), ("owner/other", None)):
        (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": name}))
        assert merge._stored_dtype(merge._base_folder(adapter)) == dtype
    assert asked == ["owner/name", "owner/other"]
