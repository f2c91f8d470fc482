"""A resumed run is the same run: whatever decides a number must be what it was, under whatever name it lies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from likelier.cli import main as cli
from likelier.runs.checkpoints import differences
from likelier.training.origin import origin_of, warn_of_other_versions
from likelier.utils.errors import LikelierWarning
from likelier.utils.versions import versions
from tests.helpers.small_runs import pair_rows, read_card, save_tiny, write_card, write_rows
from tests.helpers.support import lora_policy, tiny_policy


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another one and data."""
    root = tmp_path_factory.mktemp("given")
    save_tiny(root / "model")
    save_tiny(root / "other", seed=1)
    write_rows(root / "pairs.jsonl", pair_rows())
    return root


def train(root: Path, *more: str) -> int:
    words = ["--model", str(root / "model"), "--data", str(root / "pairs.jsonl"), "--output", str(root / "run")]
    return cli.main(["train", *words, "--batch-size", "4", "--max-steps", "2", "--save-steps", "1", *more])


def other_weights(root: Path) -> None:
    save_tiny(root / "model", seed=1)


def one_weight(root: Path) -> None:
    policy = tiny_policy(0, torch.float32)
    with torch.no_grad():
        policy.model.model.layers[1].mlp.up_proj.weight[3, 3] += 1e-3
    policy.model.save_pretrained(root / "model")


def change(root: Path, file: str, mend: Callable[[Any], Any]) -> None:
    path = root / "model" / file
    path.write_text(json.dumps(mend(json.loads(path.read_text()))))


def config(root: Path) -> None:
    change(root, "config.json", lambda config: config | {"rms_norm_eps": 1e-2})


def template(root: Path) -> None:
    path = root / "model" / "chat_template.jinja"
    path.write_text(path.read_text() + "{# another one #}")


def rendered_otherwise(root: Path) -> None:
    path = root / "model" / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_end|>", "<|im_end|> "))


def merges(root: Path) -> None:
    def without_last(content: Any) -> Any:
        content["model"]["merges"].pop()
        return content

    change(root, "tokenizer.json", without_last)


def end_of_sequence(root: Path) -> None:
    change(root, "tokenizer_config.json", lambda config: config | {"eos_token": "<|im_start|>"})


WEIGHTS, TOKENIZER, CHAT = "the model that the run begins with", "the tokenizer", "the chat template"
LORA = ["--lora-r", "4"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "spoil", "told"),
    [
        (["--method", "simpo", *LORA], other_weights, WEIGHTS),
        (["--method", "simpo"], one_weight, WEIGHTS),
        (["--method", "sft", *LORA], one_weight, WEIGHTS),
        (["--method", "sft"], config, WEIGHTS),
        (["--reference-scores", "live", *LORA], other_weights, WEIGHTS),
        (LORA, other_weights, WEIGHTS),
        (["--method", "simpo"], template, CHAT),
        (LORA, rendered_otherwise, CHAT),
        (["--method", "sft"], merges, TOKENIZER),
        (["--method", "simpo", *LORA], end_of_sequence, TOKENIZER),
    ],
    ids=lambda value: value.__name__ if callable(value) else " ".join(value) if isinstance(value, list) else None,
)
def test_what_the_run_began_with_must_be_the_same(
    given: Path, tmp_path: Path, options: list[str], spoil: Callable[[Path], None], told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = shutil.copytree(given, tmp_path / "root")
    assert train(root, *options) == 0
    before = {path: path.read_bytes() for path in (root / "run").rglob("*") if path.is_file()}
    spoil(root)
    assert train(root, *options, "--resume") == 2
    said = capsys.readouterr().err
    assert f"cannot go on: {told}" in said and "changed since the run began" in said
    assert "training data changed" not in said  # which it did not
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--method", "simpo", *LORA], ["--method", "sft"], LORA], ids=" ".join)
def test_the_same_content_under_another_name_goes_on(given: Path, tmp_path: Path, options: list[str]) -> None:
    root = shutil.copytree(given, tmp_path / "root")
    assert train(root, *options) == 0
    (root / "model").rename(root / "moved")
    assert train(root, *options, "--resume", "--model", str(root / "moved")) == 0


@pytest.mark.slow
def test_a_named_reference_must_be_the_same(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(given, tmp_path / "root")
    against = ["--reference", str(root / "other")]
    assert train(root, *against) == 0
    save_tiny(root / "other", seed=2)
    assert train(root, *against, "--resume") == 2
    assert "reference: was" in capsys.readouterr().err


@pytest.mark.slow
def test_a_system_prompt_belongs_to_the_run(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = shutil.copytree(given, tmp_path / "root")
    assert train(root, "--method", "simpo", "--system-prompt", "be good") == 0
    assert train(root, "--method", "simpo", "--system-prompt", "be bad", "--resume") == 2
    assert "system_prompt: was 'be good', is 'be bad'" in capsys.readouterr().err


def test_a_tokenizer_that_was_used_is_the_same_tokenizer() -> None:
    policy = tiny_policy()
    before = origin_of(policy)
    policy.tokenizer(["yes", "yes it was very good"], padding=True, truncation=True, max_length=3)
    assert origin_of(policy) == before


def test_an_adapter_counts_where_it_has_an_effect() -> None:
    policy = lora_policy()
    base = origin_of(policy)["policy"]
    assert base == origin_of(lora_policy(lora_alpha=64))["policy"]  # settings stand in the fingerprint themselves
    up = next(weight for name, weight in policy.model.named_parameters() if ".lora_B." in name)
    with torch.no_grad():
        up[0, 0] = 1.0
    assert origin_of(policy)["policy"] != base


@pytest.mark.slow
def test_each_hash_of_the_weights_is_computed_once(
    monkeypatch: pytest.MonkeyPatch, given: Path, tmp_path: Path
) -> None:
    from likelier.scoring.reference import identity

    asked: list[bool] = []
    compute = identity._weights_hash

    def counted(model: Any, adapter: bool) -> str:
        asked.append(adapter)
        return compute(model, adapter)

    monkeypatch.setattr(identity, "_weights_hash", counted)
    root = shutil.copytree(given, tmp_path / "root")
    assert train(root) == 0
    assert asked == [False]


def test_runs_that_recorded_less_are_compared_by_what_they_recorded() -> None:
    now = {"policy": "a", "tokenizer": "b", "seed": 1}
    assert differences({"seed": 1}, now) is None
    assert "seed: was 2, is 1" in str(differences({"seed": 2}, now))
    assert "seed: was None" in str(differences({"policy": "a"}, now))


@pytest.mark.slow
def test_another_version_is_a_warning(given: Path, tmp_path: Path) -> None:
    root = shutil.copytree(given, tmp_path / "root")
    assert train(root) == 0
    card = read_card(root / "run")
    write_card(root / "run", card | {"versions": card["versions"] | {"torch": "1.0"}})
    with pytest.warns(LikelierWarning, match=r"began with torch 1\.0 \(now .*may differ in their last digits"):
        warn_of_other_versions(read_card(root / "run")["versions"])
    assert train(root, "--resume") == 0


def test_the_same_versions_are_not_mentioned(recwarn: pytest.WarningsRecorder) -> None:
    warn_of_other_versions(versions())
    warn_of_other_versions({})
    assert not recwarn.list


@pytest.mark.slow
def test_other_options_are_refused_before_anything_is_loaded(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(given, tmp_path / "root")
    root = tmp_path / "root"
    assert train(root) == 0

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr("likelier.training.run.load_preferences", loaded)
    monkeypatch.setattr("likelier.training.run.load_policy", loaded)
    for more, told in (
        (["--lora-r", "4"], "lora_r: was None, is 4"),
        (["--dtype", "pure-bfloat16"], "precision: was 'float32', is 'bfloat16'"),
        (["--system-prompt", "be brief"], "system_prompt: was None, is 'be brief'"),
        (["--train-on", "last"], "train_on: was None, is 'last'"),
        (["--chat-template", "other.jinja"], "chat_template: was None, is 'other.jinja'"),
        (["--batch-size", "3"], "batch_size: was 4, is 3"),
        (["--beta", "0.2"], "hyperparameters: was"),
        (["--method", "ipo"], "method: was 'dpo', is 'ipo'"),
        (["--learning-rate", "0.5"], "learning_rate: was"),
    ):
        capsys.readouterr()
        assert train(root, "--resume", *more) == 2
        assert told in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_and_conversations_are_compared_by_what_the_options_mean(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(given, tmp_path / "root")
    root = tmp_path / "root"
    asked = [{"role": "user", "content": "say"}]
    write_rows(root / "pairs.jsonl", [row | {"prompt": asked} for row in pair_rows()])
    template = str(shutil.copy(root / "model" / "chat_template.jinja", root / "own.jinja"))
    moved = str(shutil.copy(template, root / "moved.jinja"))
    adapter = ["--lora-r", "4", "--lora-targets", "q_proj,v_proj"]
    talk = ["--chat-template", template, "--system-prompt", "be brief"]
    assert train(root, *adapter, *talk) == 0
    same = ["--lora-r", "4", "--lora-targets", "v_proj,q_proj", "--lora-alpha", "8", "--lora-dropout", "0"]
    assert train(root, "--resume", *same, "--chat-template", moved, "--system-prompt", "be brief") == 0
    monkeypatch.setattr("likelier.training.run.load_preferences", lambda *_, **__: pytest.fail("data were loaded"))
    for more, told in (
        ([*adapter, *talk, "--lora-alpha", "16"], "lora_alpha: was 8.0, is 16.0"),
        ([*adapter, *talk, "--lora-dropout", "0.5"], "lora_dropout: was 0.0, is 0.5"),
        ([*adapter, "--chat-template", template], "system_prompt: was 'be brief', is None"),
        (talk, "lora_r: was 4, is None"),
    ):
        capsys.readouterr()
        assert train(root, "--resume", *more) == 2
        assert told in capsys.readouterr().err
