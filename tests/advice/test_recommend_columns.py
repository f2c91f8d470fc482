"""Columns that `likelier recommend` is told stand in the run file that it writes."""

import json
from pathlib import Path

import pytest
import torch

from likelier.cli.main import main
from tests.helpers.small_runs import write_rows
from tests.helpers.support import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("row", "flags"),
    [
        ({"q": "say", "good": "yes", "bad": "no"}, ["prompt=q", "chosen=good", "rejected=bad"]),
        (
            {"prompt": "say", "a": "yes", "b": "no", "who": 1},
            ["first=a", "second=b", "winner=who", "winner_coding=1/2/0"],
        ),
        ({"prompt": "say", "extra": "now", "chosen": "yes", "rejected": "no"}, ["prompt=prompt,extra"]),
    ],
)
def test_columns_stand_in_the_run_file(
    row: dict[str, object], flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [
        {name: f"{value} {number}" if isinstance(value, str) else value for name, value in row.items()}
        for number in range(6)
    ]
    data, out = write_rows(tmp_path / "data.jsonl", texts), tmp_path / "run.yaml"
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    asked = [
        "recommend",
        str(data),
        "--model",
        str(tmp_path / "model"),
        "--memory",
        "64GB",
        "--device",
        "cpu",
        "--columns",
        *flags,
    ]
    assert main([*asked, "--output", str(out), "--format", "json"]) == 0
    named = json.loads(capsys.readouterr().out)["run"]["columns"]
    assert {f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in named.items()} == set(
        flags
    )
    assert "columns: {" in out.read_text()
