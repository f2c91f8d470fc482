"""Rows of millions of characters: left out without filling the memory, and found to be too long for certain."""

import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from likelier.data import too_long
from likelier.data.audit import shingles
from likelier.data.audit.checks import audit_records
from likelier.data.audit.words import word_table
from likelier.data.fidelity import holds, respaced
from likelier.data.load import load_preferences
from likelier.data.options import ChatOptions
from likelier.data.records import Message, Pair, Source
from likelier.data.rendering import reasoning_in
from likelier.data.tokenize import tokenize_records
from likelier.data.too_long import characters_a_token
from likelier.utils.errors import DataError
from tests.helpers.support import CHATML, chat_pairs, sentence, tiny_tokenizer

_SIZE = 3_000_000
_TEXTS: dict[str, Callable[[], str]] = {
    "words": lambda: " ".join(random.Random(0).choices(["cat", "dog", "was"], k=_SIZE // 4)),
    "one word": lambda: "x" * _SIZE,
    "lines": lambda: "a b\n" * (_SIZE // 4),
    "beyond Latin": lambda: "日本" * (_SIZE // 2),
}
_PLACES: dict[str, Callable[[dict[str, Any], str], None]] = {
    "answer": lambda row, text: row["chosen"][0].update(content=text),
    "prompt": lambda row, text: row["prompt"][0].update(content=text),
    "message": lambda row, text: row["prompt"].insert(1, {"role": "tool", "content": text}),
}


def _file(path: Path, place: str, text: str) -> Path:
    rng = random.Random(0)
    rows = []
    for _ in range(12):
        talks = {"prompt": ("user", ""), "chosen": ("assistant", "yes "), "rejected": ("assistant", "no ")}
        rows.append({key: [{"role": role, "content": start + sentence(rng)}] for key, (role, start) in talks.items()})
    _PLACES[place](rows[3], text)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _peak(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the most memory that it took, in bytes."""
    tracemalloc.start()
    try:
        return run(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("place", "kind"),
    [("answer", "words"), ("prompt", "one word"), ("message", "lines"), ("answer", "beyond Latin")],
)
def test_a_row_of_megabytes_is_left_out_at_a_small_multiple_of_its_size(tmp_path: Path, place: str, kind: str) -> None:
    text = _TEXTS[kind]()
    file = _file(tmp_path / "pairs.jsonl", place, text)
    audit_records(load_preferences(file).train[:3])  # what is imported or made once does not count
    width = 4 if kind == "beyond Latin" else 1  # bytes that Python takes for a character

    records, read = _peak(lambda: load_preferences(file).train)
    tokenized, cost = _peak(lambda: tokenize_records(records, tiny_tokenizer(), max_length=512))
    assert [(row.reason, str(row.source)) for row in tokenized.unusable] == [("over-max-length", f"{file}:4")]
    assert "more than" in next(iter(tokenized.unusable)).detail and len(tokenized.groups) == 11
    audit, looked = _peak(lambda: audit_records(records, tokenizer=tiny_tokenizer(), max_length=512))
    finding = audit.finding("over-max-length")
    assert finding is not None and finding.count == 1 and finding.details["too_large_to_count"] == 1
    assert max(read, cost, looked) < 10 * width * len(text)


@pytest.mark.parametrize(
    ("truncation", "kept", "cut"), [("cut-prompt-left", 11, "answer"), ("cut-answer-right", 11, "prompt")]
)
def test_what_would_not_be_cut_is_what_counts(
    tmp_path: Path, truncation: Any, kept: int, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(too_long, "LARGE", 1000)
    tokenizer = tiny_tokenizer()
    long = load_preferences(_file(tmp_path / "a.jsonl", cut, "x" * 40_000)).train
    assert len(tokenize_records(long, tokenizer, max_length=512, truncation=truncation).groups) == kept
    other = {"answer": "prompt", "prompt": "answer"}[cut]
    fits = load_preferences(_file(tmp_path / "b.jsonl", other, "x" * 40_000)).train
    assert len(tokenize_records(fits, tokenizer, max_length=512, truncation=truncation).groups) == 12


def test_the_policy_error_names_the_row(tmp_path: Path) -> None:
    records = load_preferences(_file(tmp_path / "a.jsonl", "answer", _TEXTS["one word"]())).train
    with pytest.raises(DataError, match=r"a\.jsonl:4: more than \d+ tokens, the limit is 512; raise --max-length"):
        tokenize_records(records, tiny_tokenizer(), max_length=512, truncation="error")


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_left_out_only_where_their_tokens_say_so(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tokenizing, exactly the same rows or fewer are known to be too long; then the others are counted."""
    rng = random.Random(seed)
    tokenizer = tiny_tokenizer()
    pairs = [
        Pair(
            pair.prompt,
            (Message("assistant", sentence(rng) * rng.choice([1, 1, 30, 60, 200])),),
            pair.rejected,
            Source("x.jsonl", number),
        )
        for number, pair in enumerate(chat_pairs(40, seed), 1)
    ]
    plain = tokenize_records(pairs, tokenizer, max_length=100)
    monkeypatch.setattr(too_long, "LARGE", 10)
    quick = tokenize_records(pairs, tokenizer, max_length=100)
    assert [row.source for row in quick.unusable] == [row.source for row in plain.unusable]
    assert quick.kept == plain.kept and any("more than" in row.detail for row in quick.unusable)
    assert not any("more than" in row.detail for row in plain.unusable)


def _bpe(vocabulary: dict[str, int], pre: Any, normalizer: Any = None, **more: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], **more))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre, normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="a", chat_template=CHATML)


def test_what_a_token_can_stand_for_is_known_of_tokenizers_that_drop_nothing() -> None:
    letters = {sign: number for number, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    by_bytes = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256}
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert characters_a_token(tiny_tokenizer()) == len("<|im_start|>")
    assert characters_a_token(_bpe(letters, whole)) == 1
    assert characters_a_token(_bpe(letters, whole, normalizers.NFC())) == 4
    assert characters_a_token(_bpe(by_bytes, None, normalizers.Replace(" ", "_"), byte_fallback=True)) == 6
    assert characters_a_token(_bpe(by_bytes, None)) is None  # what is not known is dropped
    assert characters_a_token(_bpe({"a": 0}, whole)) is None
    assert characters_a_token(_bpe(letters, pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), whole]))) is None
    assert characters_a_token(_bpe(letters, whole, normalizers.Strip())) is None
    words = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    assert characters_a_token(PreTrainedTokenizerFast(tokenizer_object=words)) is None


@pytest.mark.parametrize("piece", [1, 2, 7, 64])
def test_word_pairs_are_the_same_in_pieces_of_any_size(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(piece)
    signs = "abc XYZ_\n.1中文ばไéß😀\ud800"
    for _ in range(40):
        texts = ["".join(rng.choices(signs, k=rng.choice([0, 1, 20, 90]))) for _ in range(rng.randint(1, 5))]
        whole = shingles.word_pairs(texts)
        with monkeypatch.context() as patch:
            patch.setattr(shingles, "_PIECE", piece)
            cut = shingles.word_pairs(texts)
        assert all(np.array_equal(one, other) for one, other in zip(whole, cut, strict=True))


def test_texts_are_looked_for_and_counted_without_a_list_of_their_words() -> None:
    part, text = "a\u3000b\x1f c\n" * 200_000, "a b c " * 200_000
    found, peak = _peak(lambda: respaced(text, part))
    assert found and not respaced(text, part + "d") and peak < 8 * 2 * len(text)  # two bytes a character
    begun = "<think>" + " " * 1_000_000
    assert not holds(text, part) and not holds(begun, begun + "a") and holds("<think>a", begun + "a")
    assert word_table(["cat dog"] * 6 + ["cat " * 1_000_000]).words == ["cat", "dog", "^cat"]


@pytest.mark.parametrize("text", ["<think>" * 200_000, "<think></thought>" * 100_000, "[THINK]<think>" * 100_000])
def test_reasoning_that_is_begun_again_and_again_is_looked_for_in_linear_time(text: str) -> None:
    assert reasoning_in(text) == ""
    pair = Pair((Message("user", "a"),), (Message("assistant", text),), (Message("assistant", "b"),), Source("x", 1))
    assert not tokenize_records([pair], tiny_tokenizer(), max_length=64, chat=ChatOptions()).groups
