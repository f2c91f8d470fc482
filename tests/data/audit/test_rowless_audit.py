"""Rows that spell a token without a row in the model's embedding, as the audit finds them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from likelier.data.audit.checks import audit_records
from likelier.data.records import Labelled, Message, Pair, Record, Source
from likelier.models.policy import load_policy
from likelier.models.tokenizer import tokenizer_of
from tests.helpers.support import tiny_model, tiny_tokenizer

KNOWN = len(tiny_tokenizer())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_model(dtype=torch.float32, vocab_size=KNOWN).save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|picture|>", "<|sound|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def _talk(text: str, answer: str, number: int) -> Pair:
    told = (Message("assistant", answer),)
    return Pair((Message("user", text),), told, (Message("assistant", "no"),), Source("x.jsonl", number))


_KINDS: dict[str, list[Record]] = {
    "prompt": [_talk("see <|picture|>", "yes", 1), _talk("see", "yes", 2)],
    "answer": [_talk("see", "<|picture|>", 1), _talk("see it", "yes", 2)],
    "label": [Labelled("see", "a <|picture|>", True, Source("x", 1)), Labelled("a", "b", False, Source("x", 2))],
}


@pytest.mark.parametrize("kind", _KINDS)
def test_such_rows_are_counted_and_the_token_is_named(model: Path, kind: str) -> None:
    policy = load_policy(model)
    for given in (tokenizer_of(str(model))[0], policy.tokenizer):
        finding = _finding(_KINDS[kind], given)
        assert finding.count == 1 and finding.severity == "error" and finding.records == (0,)
        assert f"'<|picture|>' (id {KNOWN})" in finding.summary


def _finding(records: list[Record], tokenizer: Any) -> Any:
    return audit_records(records, tokenizer=tokenizer, max_length=64).finding("token-without-row")


def test_nothing_is_found_where_all_tokens_have_rows(model: Path) -> None:
    assert _finding(_KINDS["prompt"][1:], tokenizer_of(str(model))[0]) is None
    assert _finding(_KINDS["prompt"], tiny_tokenizer()) is None
