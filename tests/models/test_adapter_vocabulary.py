"""An adapter in another vocabulary than its base's: the base gets its size where the rows come, and is refused else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from likelier.cli import main as cli
from likelier.models.policy import load_policy
from likelier.scoring.reference import base_reference, start_reference
from likelier.scoring.reference.identity import identities
from likelier.utils.errors import ModelError, WrongReferenceError
from tests.helpers.adapters_of_peft import (
    KINDS,
    NEW,
    VOCABULARY,
    ids_with_new,
    loaded,
    logits,
    some_ids,
    train_on,
    write_adapter,
    write_base,
)
from tests.helpers.support import sentence

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
_GROWN = KINDS | {
    "token rows": {"trainable_token_indices": [4, VOCABULARY, VOCABULARY + 1]},
    "new rows alone": {"trainable_token_indices": [VOCABULARY, VOCABULARY + 1], "save_embedding_layers": False},
    "token rows and DoRA": {"trainable_token_indices": {"embed_tokens": [4, VOCABULARY]}, "use_dora": True},
}


@pytest.mark.parametrize("kind", _GROWN)
def test_a_grown_vocabulary_comes_with_its_rows(bases: dict[bool, Path], tmp_path: Path, kind: str) -> None:
    trained = write_adapter(bases[True], tmp_path / "adapter", grown=True, **_GROWN[kind])
    policy, base = loaded(tmp_path / "adapter"), loaded(bases[True]).model
    model: Any = policy.model
    assert torch.equal(logits(model, ids_with_new()), trained)
    assert policy.tokenizer.convert_tokens_to_ids(NEW[1]) == VOCABULARY + 1
    start = start_reference(model, precision="float32", keep_adapter=True)
    off = base_reference(model, precision="float32")
    assert off.weights == identities(base, adapter=False, precision="float32")["weights"]
    train_on(model, ids_with_new())
    moved = logits(model, ids_with_new())
    with start.use() as asked:
        assert torch.equal(logits(asked, ids_with_new()), trained)
    with off.use() as asked:
        assert torch.equal(logits(asked, some_ids()), logits(base, some_ids()))
    with pytest.raises(WrongReferenceError, match=f"no token {VOCABULARY}: its vocabulary has"), off.use() as asked:
        logits(asked, ids_with_new())
    assert torch.equal(logits(model, ids_with_new()), moved)
    model.save_pretrained(tmp_path / "again")
    assert all(
        bool(weight.isfinite().all()) for weight in load_file(tmp_path / "again/adapter_model.safetensors").values()
    )
    policy.tokenizer.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(loaded(tmp_path / "again").model, ids_with_new()), moved)


@pytest.mark.parametrize("kind", ["plain", "saved embedding and head", "DoRA", "all biases"])
def test_a_vocabulary_may_be_smaller_than_a_padded_one(tmp_path: Path, kind: str) -> None:
    base = write_base(tmp_path / "base", tie=False, vocabulary=384)
    trained = write_adapter(base, tmp_path / "adapter", rows=340, **KINDS[kind])
    model = loaded(tmp_path / "adapter").model
    assert torch.equal(logits(model, some_ids()), trained) and trained.shape[-1] == 340
    with base_reference(model, precision="float32").use() as asked:
        assert torch.equal(logits(asked, some_ids()), logits(loaded(base).model, some_ids()))


def test_rows_that_were_written_over_in_a_padded_base_are_kept_by_a_run(tmp_path: Path) -> None:
    """Tokens put into rows that the base had free: peft would not save them again by itself."""
    base = write_base(tmp_path / "base", vocabulary=384)
    write_adapter(base, tmp_path / "adapter", save_embedding_layers=True)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    rows = [name for name in weights if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    for name in rows:
        weights[name][340:] += 1
    save_file(weights, file, metadata={"format": "pt"})
    model = loaded(tmp_path / "adapter").model
    assert len(rows) == 2 and "frozen copy" in start_reference(model, precision="x", keep_adapter=True).words
    data = tmp_path / "pairs.jsonl"
    _write_pairs(data, "hello")
    run = [
        "train",
        "--method",
        "dpo",
        "--model",
        str(tmp_path / "adapter"),
        "--data",
        str(data),
        "--max-steps",
        "1",
        "--warmup",
        "0",
    ]
    assert cli.main([*run, "--warmup", "0", "--batch-size", "2", "--output", str(tmp_path / "run")]) == 0
    again = loaded(tmp_path / "run").model
    assert torch.equal(again.get_base_model().get_input_embeddings().weight[340:], weights[rows[0]][340:])


def _write_pairs(path: Path, start: str, count: int = 4) -> None:
    rng = random.Random(0)
    rows = [
        {"prompt": f"{start} {sentence(rng)}", "chosen": f"yes {sentence(rng)}", "rejected": f"no {sentence(rng)}"}
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.parametrize("kind", ["saved embedding and head", "token rows"])
def test_a_run_of_such_an_adapter_is_trained_scored_and_inspected(
    bases: dict[bool, Path], tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_adapter(bases[True], tmp_path / "adapter", grown=True, **_GROWN[kind])
    _write_pairs(tmp_path / "new.jsonl", NEW[0])
    _write_pairs(tmp_path / "old.jsonl", "hello")
    train = ["train", "--method", "dpo", "--model", str(tmp_path / "adapter"), "--max-steps", "1", "--warmup", "0"]
    train += ["--batch-size", "2", "--learning-rate", "1e-3"]

    def run(name: str, data: str, *more: str) -> int:
        return cli.main([*train, "--data", str(tmp_path / data), "--output", str(tmp_path / name), *more])

    def read(name: str, data: str) -> int:
        score = ["score", "--data", str(tmp_path / data), "--output", str(tmp_path / f"{name}-{data}")]
        return cli.main([*score, "--model", str(tmp_path / name)])

    assert run("start", "new.jsonl", "--eval-fraction", "0.25", "--eval-new-tokens", "4") == 0
    assert "frozen copy of the adapter" in capsys.readouterr().err
    assert read("start", "new.jsonl") == 0
    assert cli.main(["inspect", str(tmp_path / "start"), "--row", "1"]) == 0
    assert run("base", "old.jsonl", "--reference", "base") == 0
    assert read("base", "old.jsonl") == 0
    capsys.readouterr()
    assert read("base", "new.jsonl") == 2
    assert run("refused", "new.jsonl", "--reference", "base") == 2
    assert capsys.readouterr().err.count(f"the base model has no token {VOCABULARY}") == 2


@pytest.mark.parametrize("kind", ["embedding", "head"])
def test_rows_that_do_not_come_are_named(bases: dict[bool, Path], tmp_path: Path, kind: str) -> None:
    """peft saves the rows by itself, but of the layers alone that it targets, and not where it is told not to."""
    lacking = {"embedding": "for lm_head", "head": "for model.embed_tokens"}
    write_adapter(bases[False], tmp_path / "adapter", grown=True, **KINDS[kind])
    with pytest.raises(ModelError, match=lacking[kind]) as caught:
        load_policy(tmp_path / "adapter")
    assert "save_embedding_layers=True" in str(caught.value)


def test_an_adapter_of_another_model_is_refused_with_the_whole_reason(bases: dict[bool, Path], tmp_path: Path) -> None:
    write_adapter(bases[True], tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: weight[:, :3].contiguous() for name, weight in load_file(file).items()}, file)
    with pytest.raises(ModelError, match=r"does not fit its base model .*: Error.*size mismatch for .*q_proj"):
        load_policy(tmp_path / "adapter")
