"""Data that are hard but legal, from the file to the report; and inputs that fail on the way."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from likelier.data.load import load_preferences
from likelier.data.tokenize import tokenize_records
from likelier.utils.console import printable
from likelier.utils.errors import DataError
from tests.helpers.fuzzing import Outcome, command
from tests.helpers.small_runs import save_tiny, write_rows
from tests.helpers.support import WORDS, tiny_tokenizer

Row = dict[str, Any]
STEP = ["--max-steps", "1", "--warmup", "0", "--learning-rate", "1e-3", "--eval-new-tokens", "4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("hard") / "model")


@pytest.fixture
def train(model: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """A run of one step on rows, which are written first."""

    def run(rows: list[Row], *more: object, model: Path = model, evaluated: bool = True) -> Outcome:
        data = write_rows(tmp_path / "rows.jsonl", rows)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        words = ["train", "--model", model, "--data", data, "--output", tmp_path / "run", "--batch-size", "4"]
        held = ["--eval-fraction", "0.3", *STEP[4:]] if evaluated else []
        return command(*words, *STEP[:4], *held, *more)

    return run


def pairs(count: int, **changes: Any) -> list[Row]:
    rows = ({"prompt": f"say {WORDS[i % 20]} {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(count))
    return [row | changes for row in rows]


def labels(count: int, label: bool | None = None) -> list[Row]:
    rows = pairs(count)
    return [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0 if label is None else label}
        for i, row in enumerate(rows)
    ]


def account(run: Path) -> dict[str, Any]:
    return json.loads((run / "audit.json").read_text(encoding="utf-8"))


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def looked_at(run: Path) -> None:
    """Everything that reads a run takes it."""
    for words in (["diagnose", run], ["report", run], ["watch", run, "--once"]):
        found = command(*words)
        assert found.code == 0, (words, found)


# --- very long answers -----------------------------------------------------------------------------------------------

LONG = " ".join(["cat"] * 10_000)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose context holds 10,000 tokens."""
    from tests.helpers.support import tiny_policy

    folder = tmp_path_factory.mktemp("wide")
    small: dict[str, Any] = {
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "hidden_size": 8,
    }
    policy = tiny_policy(0, max_position_embeddings=16_384, **small)
    policy.model.float().save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    return folder


def with_a_long_one() -> list[Row]:
    return [*pairs(8), {"prompt": "say it", "chosen": LONG, "rejected": "no"}]


@pytest.mark.slow
def test_an_answer_of_10000_tokens_is_left_out_with_its_line(train: Callable[..., Outcome], tmp_path: Path) -> None:
    found = train(with_a_long_one(), evaluated=False)
    assert found.code == 0, found
    assert "1 of 9 training rows are left out" in found.err and "over-max-length: " in found.err
    (finding,) = account(tmp_path / "run")["findings"]
    assert finding["name"] == "over-max-length" and finding["count"] == 1
    assert finding["examples"] == [f"{tmp_path / 'rows.jsonl'}:9"]


@pytest.mark.slow
def test_an_answer_of_10000_tokens_is_cut_where_that_is_asked_for(
    train: Callable[..., Outcome], tmp_path: Path
) -> None:
    rows = with_a_long_one()
    found = train(rows, "--truncation", "cut-answer-right", evaluated=False)
    assert found.code == 0, found
    card = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    counts = card["data"]["train"]
    assert (counts["groups"], counts["cut_answers"], counts["answers_without_eos"]) == (9, 1, 1)


@pytest.mark.slow
def test_an_answer_of_10000_tokens_trains_alone_where_the_limit_allows_it(
    train: Callable[..., Outcome], tmp_path: Path, wide: Path
) -> None:
    more = ["--max-length", "12000", "--batch-size", "9", "--scorer", "plain"]  # auto would compare two scorers on it
    found = train(with_a_long_one(), *more, model=wide, evaluated=False)
    assert found.code == 0, found
    (row,) = (one for one in metrics(tmp_path / "run") if "loss" in one)
    assert row["num_tokens"] > 10_000
    looked_at(tmp_path / "run")


# --- many answers to one prompt --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_200_answers_to_one_prompt_are_a_ranking(train: Callable[..., Outcome], tmp_path: Path) -> None:
    ranked = {"prompt": "say it", "answers": [f"it is {i}" for i in range(200)], "ranks": list(range(200))}
    small = {"prompt": "say no", "answers": ["no", "yes", "it"], "ranks": [1, 2, 3]}
    data = write_rows(tmp_path / "ranked.jsonl", [ranked, small])
    assert len(load_preferences(data, columns={"pairs_from": "all", "ranks_best": "smallest"}).train) == 19_900 + 3
    found = train([ranked, small], "--columns", "pairs_from=best", "ranks_best=smallest", "--group-by", "prompt")
    assert found.code == 0, found
    looked_at(tmp_path / "run")


@pytest.mark.slow
def test_200_pairs_of_one_prompt_share_it(train: Callable[..., Outcome], tmp_path: Path) -> None:
    prompt = "say it " + " ".join(WORDS) * 20
    rows = [{"prompt": prompt, "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(200)]
    found = train(rows, "--group-by", "prompt", "--batch-size", "200", evaluated=False)
    assert found.code == 0, found
    step = next(row for row in metrics(tmp_path / "run") if "loss" in row)
    assert step["items"] == 200 and step["loss"] == pytest.approx(0.6931, abs=1e-3)


# --- very few rows, and rows that are all alike ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_single_pair_trains(train: Callable[..., Outcome], tmp_path: Path) -> None:
    assert train(pairs(1), evaluated=False).code == 0
    looked_at(tmp_path / "run")
    data = tmp_path / "rows.jsonl"
    assert command("audit", data).code in (0, 3)


def test_a_single_pair_cannot_be_split(train: Callable[..., Outcome], tmp_path: Path) -> None:
    found = train(pairs(1))
    assert found.code == 2 and "a single prompt, which cannot be split" in found.err
    assert not (tmp_path / "run").exists()


def test_a_single_label_has_no_partner(train: Callable[..., Outcome], tmp_path: Path) -> None:
    found = train(labels(1), "--method", "kto", evaluated=False)
    assert found.code == 2 and "1 rows, 1 prompts, 1 answers. Add rows with other prompts" in found.err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("label", [True, False])
def test_labels_that_are_all_alike_train_with_a_warning(
    train: Callable[..., Outcome], tmp_path: Path, label: bool
) -> None:
    found = train(labels(8, label), "--method", "kto")
    assert found.code == 0, found
    assert "KTO with labels of one kind only" in found.err
    looked_at(tmp_path / "run")
    assert command("audit", tmp_path / "rows.jsonl", "--format", "json").code in (0, 3)


@pytest.mark.slow
def test_pairs_that_are_all_the_same_train_and_are_found(train: Callable[..., Outcome], tmp_path: Path) -> None:
    rows = [{"prompt": "say it", "chosen": "yes", "rejected": "no"}] * 12
    assert train(rows, evaluated=False).code == 0
    looked_at(tmp_path / "run")
    found = command("audit", tmp_path / "rows.jsonl", "--format", "json")
    assert "exact-duplicates" in found.out


def test_pairs_whose_answers_are_the_same_are_all_left_out(train: Callable[..., Outcome], tmp_path: Path) -> None:
    found = train(pairs(6, chosen="same", rejected="same"), evaluated=False)
    assert found.code == 2 and "6 x identical-answers" in found.err
    assert not (tmp_path / "run").exists()


# --- every script, and what is no text at all ------------------------------------------------------------------------

SCRIPTS = {
    "emoji": "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇳🇱",
    "right to left": "שלום עולם مرحبا بالعالم",
    "combining": "e\u0301a\u0308\u0323 Z\u0351\u036b\u0343a\u035b\u034c",
    "joiners": "क्‍ष می‌خواهم \u2060\ufeff",
    "wide": "你好世界 ｆｕｌｌ",
}
CONTROL = {
    "null": "a\x00b",
    "bell": "a\x07b",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "turned": "a\u202eb",
    "C1": "a\x9bb",
}


def round_trip(text: str) -> str:
    tokenizer = tiny_tokenizer(chat=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("name", [*SCRIPTS, *CONTROL])
def test_every_script_comes_back_from_tokens_unchanged(name: str) -> None:
    text = (SCRIPTS | CONTROL)[name]
    assert round_trip(text) == text


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv", "parquet"])
def test_every_script_comes_back_from_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    from tests.fuzz.test_fuzz import content_of

    texts = {**SCRIPTS, **CONTROL}
    rows = [{"prompt": text, "chosen": f"{text} yes", "rejected": f"{text} no"} for text in texts.values()]
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(content_of(rows, f".{kind}"))
    assert [record.prompt for record in load_preferences(path).train] == list(texts.values())


def scripted_rows() -> list[Row]:
    rows = []
    for number, text in enumerate((*SCRIPTS.values(), *CONTROL.values())):
        for again in range(2):
            said = f"{text} {number} {again}"
            rows.append({"prompt": f"say {said}", "chosen": f"yes {said}", "rejected": f"no {said}"})
    return rows


@pytest.mark.slow
def test_every_script_trains_and_is_shown_without_control_characters(
    train: Callable[..., Outcome], tmp_path: Path
) -> None:
    found = train(scripted_rows(), "--eval-prompts", "20")
    assert found.code == 0, found
    data, run = tmp_path / "rows.jsonl", tmp_path / "run"
    shown = [found, command("audit", data, "--show"), command("diagnose", run), command("watch", run, "--once")]
    shown += [command("inspect", run, "--row", str(row)) for row in (1, 11, 15)]
    assert command("report", run).code == 0
    assert command("audit", data, "--show", "--format", "html", "--output", tmp_path / "audit.html").code in (0, 3)
    pages = [path.read_text(encoding="utf-8") for path in (run / "report.html", tmp_path / "audit.html")]
    for text in (*(one.out + one.err for one in shown), *pages):
        assert printable(text) == text.replace("\r\n", "\n"), sorted(set(text) - set(printable(text)))
    assert SCRIPTS["emoji"].split()[0] in pages[0] + pages[1]


@pytest.mark.slow
def test_half_an_emoji_is_left_out_with_its_line(train: Callable[..., Outcome], tmp_path: Path) -> None:
    found = train([*pairs(8), {"prompt": "say", "chosen": "\ud83d", "rejected": "no"}], evaluated=False)
    assert found.code == 0 and f"not-unicode: {tmp_path / 'rows.jsonl'}:9" in found.err


# --- inputs that vanish ----------------------------------------------------------------------------------------------


def test_a_file_that_vanishes_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "rows.jsonl", pairs(3))
    exists = Path.exists

    def seen_for_the_last_time(self: Path, **more: Any) -> bool:
        found = exists(self, **more)
        if self == path and found:
            path.unlink()
            return True
        return found

    monkeypatch.setattr(Path, "exists", seen_for_the_last_time)
    found = command("convert", path, tmp_path / "out.jsonl")
    assert found.code == 2 and "rows.jsonl" in found.err, found
    assert not exists(tmp_path / "out.jsonl")


def test_a_pipe_whose_writer_goes_away_within_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    os.mkfifo(path)

    def write() -> None:
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(json.dumps(pairs(1)[0]) + '\n{"prompt": "cut')

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(DataError, match=r"rows.jsonl:2: broken JSON"):
        load_preferences(path)
    writer.join()


def test_nothing_here_takes_long(tmp_path: Path) -> None:
    rows = [{"prompt": "say it", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(2000)]
    began = time.monotonic()
    data = load_preferences(write_rows(tmp_path / "rows.jsonl", rows))
    tokenized = tokenize_records(data.train, tiny_tokenizer(chat=False), max_length=100)
    assert len(tokenized.groups) == 2000 and time.monotonic() - began < 10
