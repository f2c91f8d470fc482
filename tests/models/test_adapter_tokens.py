"""Adapters whose own tokenizer holds tokens without a row: only those that are written matter."""

from pathlib import Path
from typing import Any

import pytest

from likelier.data.options import ChatOptions
from likelier.models.policy import load_policy
from likelier.scoring import attach_scorer
from likelier.utils.errors import ModelError
from tests.helpers.adapters_of_peft import NEW, VOCABULARY, write_adapter, write_base
from tests.helpers.architectures import group
from tests.helpers.support import CHATML, grow_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]
_ROWS = rf"the model's embedding has {VOCABULARY} rows"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Trained in a grown vocabulary whose rows were not saved."""
    write_adapter(write_base(tmp_path / "base"), tmp_path / "adapter", grown=True, save_embedding_layers=False)
    return tmp_path / "adapter"


def test_tokens_that_nothing_writes_are_no_harm_until_a_text_spells_one(adapter: Path) -> None:
    policy = load_policy(adapter)
    assert policy.tokenizer.convert_tokens_to_ids(NEW[0]) == VOCABULARY
    attach_scorer(policy.model, groups=[group([5, 6], [7], [8])])
    with pytest.raises(ModelError, match=rf"made up:1 holds the token id {VOCABULARY}, and {_ROWS}"):
        attach_scorer(policy.model, groups=[group([5, 6], [7, VOCABULARY], [8])])


@pytest.mark.parametrize(
    ("template", "tokens"), [(CHATML.replace("<|im_start|>", NEW[0]), {}), (None, {"eos_token": NEW[0]})]
)
def test_tokens_of_every_text_are_named_with_the_mend(
    adapter: Path, template: str | None, tokens: dict[str, Any]
) -> None:
    grow_tokenizer(adapter, template, **tokens)
    with pytest.raises(ModelError, match=rf"writes '<\|x\|>' \(id {VOCABULARY}\), and {_ROWS}") as caught:
        load_policy(adapter)
    assert "save_embedding_layers=True" in str(caught.value)


def test_a_template_of_the_users_own_may_write_others(adapter: Path, tmp_path: Path) -> None:
    grow_tokenizer(adapter, CHATML.replace("<|im_start|>", NEW[0]))
    (tmp_path / "chat.jinja").write_text(CHATML)
    policy = load_policy(adapter, chat=ChatOptions(chat_template=str(tmp_path / "chat.jinja")))
    assert policy.tokenizer.chat_template == CHATML


def test_a_padding_token_without_a_row_is_replaced(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grow_tokenizer(adapter, pad_token=NEW[1])
    assert load_policy(adapter).tokenizer.pad_token == "<|im_end|>"
    assert "the padding token '<|y|>' has no row in the embedding" in capsys.readouterr().err
