"""What ends a turn: the same set wherever a tokenizer is read, and never said to be missing where it is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig, PreTrainedTokenizerFast

from likelier.cli.main import main
from likelier.data.audit.checks import audit_records
from likelier.data.ends import Ends, know_ends
from likelier.data.prepare import prepare_data
from likelier.data.records import Message, Pair, Source, TokenIds
from likelier.data.tokenize import Tokenized, tokenize_records
from likelier.models.generation import end_tokens, prompt_ids
from likelier.models.policy import load_policy
from likelier.models.tokenizer import tokenizer_of
from likelier.scoring.restore import final_model
from likelier.utils.errors import LikelierWarning, ModelError
from tests.helpers.small_runs import pair_rows, write_rows
from tests.helpers.support import CHATML, chat_pairs, tiny_model, tiny_policy, tiny_tokenizer

TURNS = "{{% for m in messages %}}{{{{ '{0}' + m.role + '\n' + m.content + '{1}' }}}}{{% endfor %}}" + (
    "{{% if add_generation_prompt %}}{{{{ '{0}assistant\n' }}}}{{% endif %}}"
)


@dataclass(frozen=True)
class Family:
    """A kind of chat model: its marks, and who names which of them as an end."""

    name: str
    marks: tuple[str, ...]
    eos: str
    template: str
    generation: tuple[str, ...]
    config: tuple[str, ...] = ()


GEMMA = Family(
    "gemma",
    ("<eos>", "<start_of_turn>", "<end_of_turn>"),
    "<eos>",
    TURNS.format("<start_of_turn>", "<end_of_turn>\\n"),
    ("<eos>", "<end_of_turn>"),
)
LLAMA = Family(
    "llama3",
    ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", "<|start_header_id|>"),
    "<|end_of_text|>",
    TURNS.format("<|start_header_id|>", "<|eot_id|>"),
    ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
)
QWEN = Family(
    "qwen", ("<|endoftext|>",), "<|im_end|>", CHATML, ("<|im_end|>", "<|endoftext|>"), config=("<|endoftext|>",)
)
PHI = Family(
    "phi3",
    ("<|endoftext|>", "<|end|>", "<|user|>"),
    "<|endoftext|>",
    TURNS.format("<|user|>", "<|end|>\\n"),
    (),
    config=("<|endoftext|>", "<|end|>"),
)
FAMILIES = [GEMMA, LLAMA, QWEN, PHI]


def tokenizer_like(family: Family) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*family.marks]})
    tokenizer.eos_token, tokenizer.chat_template = family.eos, family.template
    return tokenizer


def model_like(family: Family, folder: Path) -> Path:
    tokenizer = tokenizer_like(family)
    tiny_model(vocab_size=400, eos_token_id=None).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    if family.generation:
        named = tokenizer.convert_tokens_to_ids(list(family.generation))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    config = json.loads((folder / "config.json").read_text())
    config["eos_token_id"] = tokenizer.convert_tokens_to_ids(list(family.config)) or None
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def ids_of(tokenizer: Any, names: Sequence[str]) -> list[int]:
    return sorted(tokenizer.convert_tokens_to_ids(list(names)))


def text_pair(prompt: str, chosen: str, rejected: str = " ran") -> Pair:
    return Pair(prompt, chosen, rejected, Source("pairs.jsonl", 7))


def tokens(tokenizer: Any, *records: Pair) -> Tokenized:
    return tokenize_records(records, tokenizer, max_length=512)


def chosen_text(tokenizer: Any, chosen: str, prompt: str = "the cat") -> str:
    return tokenizer.decode(tokens(tokenizer, text_pair(prompt, chosen)).groups[0].answers[0])


# --- one set of ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_tokenizer_alone_a_policy_and_sampling_know_the_same_ends(family: Family, tmp_path: Path) -> None:
    folder = model_like(family, tmp_path / family.name)
    alone, _ = tokenizer_of(str(folder))
    policy = load_policy(folder)
    empty = load_policy(folder, empty=True)
    expected = ids_of(alone, sorted({family.eos, *family.generation, *family.config}))
    for tokenizer in (alone, policy.tokenizer, empty.tokenizer):
        assert sorted(Ends(tokenizer).ids) == expected and Ends(tokenizer).appended == tokenizer.eos_token_id
    assert end_tokens(policy.model, policy.tokenizer) == expected
    records = chat_pairs(4)
    assert tokens(alone, *records).answers_without_eos == 0
    audit = audit_records(records, tokenizer=alone, max_length=512)
    assert audit.finding("missing-eos") is None and audit.finding("unnamed-end") is None


def test_an_id_that_only_the_family_of_the_model_suggests_is_an_end_only_where_it_is_no_word(tmp_path: Path) -> None:
    tiny_model(vocab_size=400).float().save_pretrained(tmp_path)
    tokenizer = tokenizer_like(GEMMA)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    for named, found in ((2, [2]), (9, [9]), ([9, 336], [9, 336]), (None, [])):  # 2 is <|im_end|>, 9 a word
        (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": named}))
        tokenizer, _ = tokenizer_of(str(tmp_path))
        assert set(Ends(tokenizer).ids) == {tokenizer.eos_token_id, *found}

    words = PreTrainedTokenizerFast(tokenizer_object=_wordy(), eos_token="<|pad|>")
    model = tiny_model()  # a Llama's usual end is 2, a word here
    know_ends(words, GenerationConfig.from_model_config(model.config), model.config)
    assert Ends(words).ids == (words.eos_token_id,)
    know_ends(words, GenerationConfig(eos_token_id=2), model.config)
    assert Ends(words).ids == (words.eos_token_id, 2)


def _wordy() -> Tokenizer:
    from tokenizers.models import WordLevel

    return Tokenizer(WordLevel({"<|pad|>": 0, "a": 1, "the": 2}, unk_token="a"))


@pytest.mark.parametrize("named", ["2", [2, "x"], [[2]], 2.5], ids=str)
def test_an_end_that_is_no_token_id_is_refused(named: Any) -> None:
    class Said:
        eos_token_id = named

        def get_text_config(self) -> Said:
            return self

    with pytest.raises(ModelError, match="must be a token id or a list"):
        know_ends(tiny_tokenizer(), Said(), Said())


def test_a_damaged_generation_config_is_an_error_with_and_without_weights(tmp_path: Path) -> None:
    folder = model_like(GEMMA, tmp_path)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1,')
    for load in (load_policy, tokenizer_of):
        with pytest.raises(ModelError, match="generation_config"):
            load(str(folder))


# --- ends that nothing names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [GEMMA, LLAMA, PHI], ids=lambda family: family.name)
def test_a_template_that_ends_turns_with_a_token_that_nothing_names_is_told_so(family: Family) -> None:
    tokenizer = tokenizer_like(family)  # nobody told it what the model's configuration names
    records = chat_pairs(5)
    end = {"gemma": "<end_of_turn>", "llama3": "<|eot_id|>", "phi3": "<|end|>"}[family.name]
    found = tokens(tokenizer, *records)
    assert found.unnamed_ends == {end: 10} and found.answers_without_eos == 10
    audit = audit_records(records, tokenizer=tokenizer, max_length=512)
    finding = audit.finding("unnamed-end")
    assert finding and finding.count == 5 and end in finding.summary and "generation_config.json" in finding.mend
    assert audit.finding("missing-eos") is None
    with pytest.warns(LikelierWarning, match="which no configuration names as an end: the model learns to write it"):
        prepare_data(
            records, [], tokenizer, method="dpo", wants="pairs", partners=False, max_length=512, truncation="drop"
        )


def test_an_end_in_the_middle_of_the_last_words_is_none() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "")
    talk = [
        Pair((Message("user", "a"),), *((Message("assistant", text),) for text in texts), Source("x", 1))
        for texts in (("sat<|im_end|>", "ran<|im_end|> \n\n"), ("sat<|im_end|>!", "ran<|im_end|> no"))
    ]
    assert [tokens(tokenizer, one).answers_without_eos for one in talk] == [0, 2]
    ends = Ends(tokenizer)
    assert ends.in_words([5, 2, 0]) == "ends with <|im_end|>"
    assert ends.in_words([5, 1]).startswith("ends with <|im_start|>, which no configuration names")
    assert "has no end-of-sequence token" in ends.in_words([5, 6]) and "has no" in ends.in_words([])


# --- plain text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["", "\n", " ", "\n\n \t", "\u00a0"])
@pytest.mark.parametrize("end", ["<|im_end|>", "<|end|>", "<|endoftext|>"])
def test_a_text_that_ended_already_gets_no_second_end(end: str, space: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_like(PHI)
    know_ends(tokenizer, GenerationConfig(eos_token_id=ids_of(tokenizer, ["<|im_end|>", "<|end|>"])), _NoEnds())
    found = tokens(tokenizer, text_pair("the cat", f" sat{end}{space}"))
    assert tokenizer.decode(found.groups[0].answers[0]) == f" sat{end}{space}"
    assert tokenizer.decode(found.groups[0].answers[1]) == " ran<|endoftext|>" and found.answers_without_eos == 0


class _NoEnds:
    eos_token_id = None

    def get_text_config(self) -> _NoEnds:
        return self


@pytest.mark.parametrize("text", [" sat<|im_end|>!", " sat <|im_end |>", " sat<|im_start|>\n", " sat</s> "])
def test_what_is_no_end_gets_one(text: str) -> None:
    assert chosen_text(tiny_tokenizer(), text) == f"{text}<|im_end|>"


def test_white_space_behind_a_prompts_end_does_not_end_the_answer() -> None:
    group = tokens(tiny_tokenizer(), text_pair("the cat<|im_end|>", "\n")).groups[0]
    assert (group.prompt.tolist() + group.answers[0].tolist()).count(2) == 2


def test_a_tokenizer_that_does_not_read_special_tokens_in_text_gets_the_token_itself() -> None:
    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.split_special_tokens = True
    for text in (" sat", " sat<|im_end|>", " sat<|im_end|>\n"):
        answer = tokens(tokenizer, text_pair("the cat", text)).groups[0].answers[0].tolist()
        assert answer.count(2) == 1 and answer[-1] == 2
        assert tokenizer.decode(answer) == f"{text}<|im_end|>"


def test_a_tokenizer_that_ends_texts_by_itself_ends_them_once() -> None:
    backend = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single="$A <|im_end|>", special_tokens=[("<|im_end|>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>")
    for text in (" sat", " sat<|im_end|>", " sat<|im_end|>\n", " sat<|im_end|><|im_end|>"):
        group = tokens(tokenizer, text_pair("the cat", text)).groups[0]
        assert group.answers[0].tolist().count(2) == max(1, text.count("<|im_end|>")) and 2 not in group.prompt
    policy = tiny_policy()
    policy.tokenizer = tokenizer
    for prompt in ("the cat", "the cat<|im_end|>"):  # a model goes on from what it was trained behind
        assert prompt_ids(policy, prompt) == tokens(tokenizer, text_pair(prompt, " sat")).groups[0].prompt.tolist()


def test_without_an_end_of_its_own_a_tokenizer_takes_the_models_first() -> None:
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str()))
    assert tokens(plain, text_pair("the cat", " sat")).answers_without_eos == 2
    know_ends(plain, GenerationConfig(eos_token_id=[1, 2]), _NoEnds())
    assert chosen_text(plain, " sat") == " sat<|im_start|>"
    assert chosen_text(plain, " sat<|im_end|>\n") == " sat<|im_end|>\n"


def test_rows_of_token_ids_end_with_any_end() -> None:
    tokenizer = tokenizer_like(GEMMA)
    know_ends(tokenizer, GenerationConfig(eos_token_id=ids_of(tokenizer, GEMMA.generation)), _NoEnds())
    rows = [Pair(TokenIds((5,)), TokenIds((6, end)), TokenIds((7, end)), Source("ids", end)) for end in (335, 337, 9)]
    finding = audit_records(rows, tokenizer=tokenizer, max_length=9).finding("missing-eos")
    assert finding and finding.records == (2,)


# --- what is written -----------------------------------------------------------------------------------------------

ALONE = replace(GEMMA, name="gemma-alone", generation=("<end_of_turn>",))  # the tokenizer's own is not among them


@pytest.mark.slow
@pytest.mark.parametrize("family", [ALONE, PHI], ids=lambda family: family.name)
def test_runs_adapters_and_merges_lead_to_the_same_ends_again(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = model_like(family, tmp_path / "model")
    expected = sorted(Ends(tokenizer_of(str(folder))[0]).ids)
    data = write_rows(tmp_path / "pairs.jsonl", pair_rows(4))
    shared = [
        "train",
        "--method",
        "dpo",
        "--model",
        str(folder),
        "--data",
        str(data),
        "--max-steps",
        "1",
        "--warmup",
        "0",
    ]
    for more in ([], ["--lora-r", "2"]):
        out = tmp_path / f"run{len(more)}"
        assert main([*shared, *more, "--output", str(out)]) == 0
        assert "end-of-sequence" not in capsys.readouterr().err
        assert sorted(Ends(tokenizer_of(final_model(str(out)))[0]).ids) == expected
        policy = load_policy(final_model(str(out)))
        assert end_tokens(policy.model, policy.tokenizer) == expected
    assert main(["merge", str(tmp_path / "run2"), str(tmp_path / "merged")]) == 0
    assert sorted(Ends(tokenizer_of(str(tmp_path / "merged"))[0]).ids) == expected
