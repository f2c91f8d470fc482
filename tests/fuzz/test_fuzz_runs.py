"""Whatever the files of a run folder hold, every command that reads one ends with 0, 2 or 3 and leaves it as it was."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.fuzzing import as_json, cases, files_below, harmed, harmed_json, must_end_well, workplace
from tests.helpers.small_runs import pair_rows, save_tiny, train, write_rows

pytestmark = pytest.mark.slow

READERS = (
    ["diagnose", "RUN"],
    ["diagnose", "RUN", "--json"],
    ["report", "RUN", "--output", "OUT.html"],
    ["compare", "RUN", "OTHER", "--output", "OUT.html"],
    ["compare", "RUN", "OTHER", "--json"],
    ["watch", "RUN", "--once"],
)
WITH_MODEL = (
    ["inspect", "RUN", "--row", "1", "--json"],
    ["inspect", "RUN", "--prompt", "a", "--chosen", "b", "--rejected", "c", "--html", "OUT.html"],
    ["score", "--model", "RUN", "--data", "DATA", "--output", "OUT.jsonl"],
    ["chat", "RUN", "--prompt", "the cat", "--max-new-tokens", "3"],
    ["merge", "RUN", "OUT"],
    ["audit", "DATA", "--model", "RUN"],
    [
        "train",
        "--model",
        "RUN",
        "--data",
        "DATA",
        "--output",
        "OUT",
        "--max-steps",
        "1",
        "--warmup",
        "0",
        "--batch-size",
        "2",
    ],
    ["score", "--model", "MODEL", "--reference", "RUN", "--data", "DATA", "--output", "OUT.jsonl"],
)
RESUME = ["train", "--model", "MODEL", "--data", "DATA", "--output", "RUN", "--resume", "--batch-size", "4"]
RESUME += ["--max-steps", "2", "--save-steps", "1", "--learning-rate", "1e-2", "--eval-fraction", "0.25"]
LOOKED_AT = ("run.json", "metrics.jsonl", "audit.json", "evaluations/step-0.json", "evaluations/step-2.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A model, data, an adapter's run, a whole model's run with checkpoints, a KTO run."""
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKELIER_CACHE", str(root / "cache"))
        yield made(root)


def made(root: Path) -> dict[str, Path]:
    model, data = save_tiny(root / "tiny"), write_rows(root / "pairs.jsonl", pair_rows())
    held = ("--eval-fraction", "0.25", "--learning-rate", "1e-2")
    return {
        "MODEL": model,
        "DATA": data,
        "whole": train(model, data, root / "whole", *held, "--save-steps", "1"),
        "adapter": train(model, data, root / "adapter", *held, "--lora-r", "4"),
        "kto": train(model, data, root / "kto", *held, "--method", "kto"),
    }


def put(folder: Path, run: Path, name: str, content: bytes | None) -> Path:
    """A copy of the run in which one file holds this, or is gone; its other files are links."""
    copy = folder / "run"
    shutil.copytree(run, copy, copy_function=os.link)
    (copy / name).unlink(missing_ok=True)
    if content is not None:
        (copy / name).write_bytes(content)
    return copy


def ends_well(world: dict[str, Path], folder: Path, copy: Path, words: list[str]) -> None:
    places: dict[str, Any] = {**world, "RUN": copy, "OTHER": world["kto"]}
    before = files_below(folder)
    found = must_end_well(*(places.get(word, folder / word if word.startswith("OUT") else word) for word in words))
    after = files_below(folder)
    if found.code == 2:
        assert after == before, (words, sorted(after.keys() ^ before.keys()), found.err[-2000:])


def harmed_file(data: st.DataObject, path: Path) -> bytes | None:
    """The file with bytes harmed, or, where it is JSON, with a value replaced; seldom gone."""
    content = path.read_bytes()
    if path.suffix == ".json" and data.draw(st.integers(0, 3)):
        return as_json(data.draw(harmed_json(json.loads(content)))).encode()
    if path.suffix == ".jsonl" and data.draw(st.integers(0, 3)):
        lines = [json.loads(line) for line in content.splitlines()]
        return b"".join(as_json(line).encode() + b"\n" for line in _listed(data.draw(harmed_json(lines))))
    return data.draw(st.one_of(harmed(content), st.just(None)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def draw_and_run(world: dict[str, Path], data: st.DataObject, runs: list[str], files: Any, commands: Any) -> None:
    run = world[data.draw(st.sampled_from(runs))]
    known = [name for name in files if (run / name).is_file()]
    name = data.draw(st.sampled_from(known))
    with workplace() as folder:
        copy = put(folder, run, name, harmed_file(data, run / name))
        ends_well(world, folder, copy, data.draw(st.sampled_from(commands)))


@cases(30, 1500)
@given(data=st.data())
def test_readers_of_harmed_run_folders(world: dict[str, Path], data: st.DataObject) -> None:
    draw_and_run(world, data, ["whole", "adapter", "kto"], LOOKED_AT, READERS)


MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
MODEL_FILES += ("model.safetensors", "adapter_config.json", "adapter_model.safetensors")


@cases(10, 400)
@given(data=st.data())
def test_commands_with_harmed_cards(world: dict[str, Path], data: st.DataObject) -> None:
    draw_and_run(world, data, ["whole", "adapter"], ("run.json",), WITH_MODEL)


@cases(12, 500)
@given(data=st.data())
def test_commands_with_harmed_models(world: dict[str, Path], data: st.DataObject) -> None:
    draw_and_run(world, data, ["whole", "adapter"], MODEL_FILES, WITH_MODEL)


@cases(4, 250)
@given(data=st.data())
def test_resuming_harmed_runs(world: dict[str, Path], data: st.DataObject) -> None:
    run, step = world["whole"], data.draw(st.sampled_from([1, 2]))
    with workplace() as folder:
        copy = folder / "run"
        shutil.copytree(run, copy)
        if step == 1:
            shutil.rmtree(copy / "checkpoints" / "step-2")
        files = sorted(path for path in (copy / "checkpoints" / f"step-{step}").iterdir() if path.is_file())
        path = data.draw(st.sampled_from([*files, copy / "run.json", copy / "metrics.jsonl"]))
        content = harmed_file(data, path)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        places = {**world, "RUN": copy}
        must_end_well(*(places.get(word, word) for word in RESUME))
