"""The examples run as they stand, on a tiny model."""

import json
from pathlib import Path

import pytest
import torch

from examples import plain_loop
from likelier.config import parse, read_yaml
from tests.support import tiny_policy

ROOT = Path(__file__).resolve().parents[1]


def test_the_plain_loop_runs_from_a_model_folder_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    policy = tiny_policy(dtype=torch.float32)
    policy.model.save_pretrained(tmp_path / "model")
    policy.tokenizer.save_pretrained(tmp_path / "model")
    turns = {"prompt": ("user", "the cat"), "chosen": ("assistant", "sat on"), "rejected": ("assistant", "ran up")}
    row = {side: [{"role": role, "content": text}] for side, (role, text) in turns.items()}
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 12)
    plain_loop.main(str(tmp_path / "model"), str(tmp_path / "pairs.jsonl"), 0.1, 0.01, 2)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "step 1: loss 0.6931"
    assert float(second.split()[-1]) < 0.6931


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_run_files_parse(file: Path) -> None:
    config = parse(read_yaml(str(file)))
    assert (ROOT / config.run.data).is_file()
    assert config.run.method == file.stem
