"""Tokenizers with more tokens than their model has rows for."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from likelier import load_policy
from likelier.data.options import ChatOptions
from likelier.models.generation import Decoding, write_answers
from likelier.models.tokenizer import tokenizer_of
from likelier.scoring import attach_scorer
from likelier.training.rewards import load_judge
from likelier.utils.errors import ModelError
from tests.helpers.architectures import group
from tests.helpers.small_runs import pair_rows, train, write_rows
from tests.helpers.support import CHATML, grow_tokenizer, tiny_model, tiny_tokenizer

KNOWN = len(tiny_tokenizer())
_ROWS = rf"the model's embedding has {KNOWN} rows \(ids 0 to {KNOWN - 1}\).*resize_token_embeddings"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_model(dtype=torch.float32, vocab_size=KNOWN).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("template", "tokens", "named"),
    [
        (
            CHATML.replace("<|im_start|>", "<|turn|>"),
            {"additional_special_tokens": ["<|turn|>"]},
            rf"'<\|turn\|>' \(id {KNOWN}\)",
        ),
        (  # a mark that stands nowhere in the template, but is put together by it
            CHATML.replace("'<|im_start|>' + message['role']", "'<|' + message['role'] + '|>'"),
            {"additional_special_tokens": ["<|nobody|>", "<|user|>", "<|assistant|>"]},
            rf"'<\|user\|>' \(id {KNOWN + 1}\), '<\|assistant\|>' \(id {KNOWN + 2}\)",
        ),
        (None, {"eos_token": "<|stop|>"}, rf"'<\|stop\|>' \(id {KNOWN}\)"),
    ],
)
def test_tokens_of_every_text_without_rows_are_refused(
    model: Path, template: str | None, tokens: dict[str, Any], named: str
) -> None:
    grow_tokenizer(model, template, **tokens)
    for load in (load_policy, lambda name: tokenizer_of(str(name))):
        with pytest.raises(ModelError, match=f"the tokenizer writes {named}, and {_ROWS}"):
            load(model)


def test_a_template_of_the_users_own_is_held_to_the_same(model: Path, tmp_path: Path) -> None:
    grow_tokenizer(model, additional_special_tokens=["<|turn|>"])
    load_policy(model)  # nothing writes it
    template = tmp_path / "chat.jinja"
    template.write_text(CHATML.replace("<|im_start|>", "<|turn|>"))
    with pytest.raises(ModelError, match=rf"'<\|turn\|>' \(id {KNOWN}\)"):
        load_policy(model, chat=ChatOptions(chat_template=str(template)))


@pytest.mark.slow
def test_a_padding_token_without_a_row_is_replaced(model: Path, tmp_path: Path, capsys: Any) -> None:
    grow_tokenizer(model, pad_token="[PAD]")
    data = write_rows(tmp_path / "pairs.jsonl", pair_rows())
    output = train(model, data, tmp_path / "run")
    assert "the padding token '[PAD]' has no row in the embedding; '<|im_end|>' pads instead" in capsys.readouterr().err
    policy = load_policy(output)  # what was saved has a padding token that its embedding knows
    written = write_answers(policy.model, policy.tokenizer, [[5, 6, 7], [8]], Decoding(max_new_tokens=2))
    assert len(written) == 2
    tokenizer = hf.AutoTokenizer.from_pretrained(model)  # generation pads with what exists, whoever loaded it
    assert write_answers(policy.model, tokenizer, [[5, 6, 7], [8]], Decoding(max_new_tokens=2)) == written


def test_a_text_that_spells_a_token_without_a_row_is_refused_where_it_stands(model: Path) -> None:
    grow_tokenizer(model, additional_special_tokens=["<|picture|>"])
    policy = load_policy(model)
    with pytest.raises(ModelError, match=rf"made up:1 holds the token id {KNOWN}, and {_ROWS}"):
        attach_scorer(policy.model, groups=[group([5, 6], [7, KNOWN], [8])])
    with pytest.raises(ModelError, match=rf"the prompt holds '<\|picture\|>' \(id {KNOWN}\), and {_ROWS}"):
        write_answers(policy.model, policy.tokenizer, [policy.tokenizer("a <|picture|>")["input_ids"]])


def test_a_judge_is_asked_about_tokens_that_it_knows_only(tmp_path: Path) -> None:
    sizes = {"vocab_size": KNOWN, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_labels": 1, "pad_token_id": 0}
    hf.LlamaForSequenceClassification(hf.LlamaConfig(**sizes, **heads)).save_pretrained(tmp_path / "judge")
    tiny_tokenizer().save_pretrained(tmp_path / "judge")
    judge = load_judge(str(grow_tokenizer(tmp_path / "judge", additional_special_tokens=["<|picture|>"])))
    assert len(judge(["a cat"], ["sat"])) == 1
    with pytest.raises(ModelError, match=rf"answer 1 holds '<\|picture\|>' \(id {KNOWN}\), and {_ROWS}"):
        judge(["a cat"], ["<|picture|>"])


def test_an_embedding_with_spare_rows_is_usual(tmp_path: Path) -> None:
    config = hf.LlamaConfig(
        vocab_size=448, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
    )
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    policy = load_policy(grow_tokenizer(tmp_path / "model", additional_special_tokens=["<|picture|>"]))
    attach_scorer(policy.model, groups=[group([5, 6], [7, KNOWN], [8])])
    assert torch.isfinite(policy.model(input_ids=torch.tensor([[KNOWN]])).logits).all()
