"""A classifier's scores: the last real token's, whatever else is in the batch and whatever the padding is."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from likelier.data.records import Message
from likelier.models.classifier import Classifier, load_classifier
from likelier.utils.errors import ConfigError, ModelError
from tests.helpers.support import tiny_model, tiny_tokenizer

TEXTS = [("the cat", "sat on the mat"), ("the dog ran fast", "yes"), ("a", "it was very good and right but slow")]
PLACES = ["answer 1", "answer 2", "answer 3"]


def saved(folder: Path, *, chat: bool = False, **settings: Any) -> Path:
    config = tiny_model(**settings).config
    config.num_labels = 1
    torch.manual_seed(1)
    hf.LlamaForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer(chat=chat).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad", [0, 2, None])
def test_padding_changes_nothing_also_where_it_is_the_end_token(tmp_path: Path, pad: int | None) -> None:
    judge = load_classifier(str(saved(tmp_path / "judge", pad_token_id=pad)), "reward")
    rows = [judge.row_of(*one, "answer") for one in TEXTS]
    assert all(row["input_ids"][-1] == 2 for row in rows)
    together = judge.scores(rows, PLACES)
    apart = torch.cat([judge.scores([row], ["answer"]) for row in rows])
    torch.testing.assert_close(together, apart)
    for row, score in zip(rows, together, strict=True):
        with torch.no_grad():
            hidden = judge.model.model(input_ids=torch.tensor([row["input_ids"]])).last_hidden_state
        torch.testing.assert_close(judge.model.score(hidden[0, -1]), score[None])


def test_a_small_budget_changes_no_score(tmp_path: Path) -> None:
    judge = load_classifier(str(saved(tmp_path / "judge")), "reward")
    rows = [judge.row_of(*one, "answer") for one in TEXTS]
    torch.testing.assert_close(judge.scores(rows, PLACES, 12), judge.scores(rows, PLACES, 1000))


def test_an_answer_that_was_cut_gets_no_end(tmp_path: Path) -> None:
    judge = load_classifier(str(saved(tmp_path / "judge")), "reward")
    whole, cut = (judge.row_of("the cat", "sat", "answer", ended=ended)["input_ids"] for ended in (True, False))
    assert whole == [*cut, 2]


def test_an_encoder_reads_prompt_and_answer_side_by_side(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = hf.BertForSequenceClassification(hf.BertConfig(vocab_size=384, num_labels=1, **sizes)).eval()
    torch.nn.init.normal_(model.bert.embeddings.token_type_embeddings.weight)
    tokenizer = tiny_tokenizer(chat=False)
    rows = [{"input_ids": [5, 6, 7, 8], "token_type_ids": [0, 0, 1, 1]}, {"input_ids": [9], "token_type_ids": [0]}]
    found = Classifier(model, tokenizer, "reward").scores(rows, PLACES[:2])
    with torch.no_grad():
        alone = [model(**{name: torch.tensor([ids]) for name, ids in row.items()}).logits[0] for row in rows]
    torch.testing.assert_close(found, torch.cat(alone))


def test_a_conversation_needs_a_template_for_its_turns(tmp_path: Path) -> None:
    judge = load_classifier(str(saved(tmp_path / "judge")), "reward")
    talk = tuple(Message(role, "a") for role in ("user", "assistant", "user"))
    assert judge.row_of(talk[:1], "b", "answer") == judge.row_of("a", "b", "answer")
    with pytest.raises(ModelError, match=r"prefs\.jsonl:3: the prompt is a conversation of 3 turns"):
        judge.row_of(talk, "b", "prefs.jsonl:3")


def test_a_row_beyond_the_context_is_named(tmp_path: Path) -> None:
    judge = load_classifier(str(saved(tmp_path / "judge", max_position_embeddings=8)), "reward='x'")
    with pytest.raises(ConfigError, match=r"reward='x': prefs.jsonl:3, answer 2: it takes 8 tokens, and .* has 9"):
        judge.scores([{"input_ids": [5] * 9}], ["prefs.jsonl:3, answer 2"])
