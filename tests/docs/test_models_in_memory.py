"""The benchmark of models in memory runs, goes on where it was, and its figures are the page's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.small_runs import save_tiny

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SCRIPT = ROOT / "benchmarks" / "models_in_memory.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_every_method_is_measured_once(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--quick", "--model", str(save_tiny(tmp_path / "tiny"))]
    words += ["--results", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    file = tmp_path / "models_in_memory.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    held = {name: one["models"] for name, one in found.items()}
    for name in ("sft", "dpo-stored", "ipo", "kto", "simpo", "grpo"):
        assert held[name] == pytest.approx(1, abs=0.01)
    assert held["dpo-live"] == held["online-dpo"] == 2 and held["ppo-four"] == pytest.approx(4, abs=0.01)
    assert held["ppo-lora"] < 1 + 4 * (held["dpo-lora"] - 1)  # three adapters, and nothing else of that size
    assert {one["samples"] for one in found.values()} == {0, 8}
    assert all(one["seconds"]["sampling"] > 0 for one in found.values() if one["samples"])
    assert (tmp_path / "models_in_memory.md").read_text(encoding="utf-8").count("\n| ") == len(found) + 1

    marked = {name: one | {"peak": 10**9} for name, one in found.items() if name != "sft"}
    file.write_text(json.dumps(marked), encoding="utf-8")
    subprocess.run([*words, "--only", "sft", "kto"], check=True, capture_output=True)
    again = json.loads(file.read_text(encoding="utf-8"))
    assert again["sft"]["peak"] != again["kto"]["peak"] == 10**9  # what was measured stays


def test_the_pages_table_is_that_of_the_results() -> None:
    page = (ROOT / "docs" / "offline-or-online.md").read_text(encoding="utf-8")
    table = (RESULTS / "models_in_memory.md").read_text(encoding="utf-8").split("\n\n", 2)[2].strip()
    assert table in page
