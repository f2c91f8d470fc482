"""The program for a machine with a GPU runs: tried on a CPU, with a tiny model."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_check.py"


@pytest.mark.slow
def test_all_parts_run_on_a_cpu(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--device", "cpu", "--quick", "--output", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stdout + done.stderr
    told = (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
    assert told.count(": done") == 3 and told.count("| yes |") == 5
    assert all(words in told for words in ("LoRA, bfloat16 | shared-prefix", '"planned"', "trl-tuned"))
