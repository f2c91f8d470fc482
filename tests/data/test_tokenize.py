"""From text to token groups: the boundary, EOS and BOS, truncation, and agreement with TRL."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from likelier.data.groups import Group
from likelier.data.prepare import prepare_data, prepare_groups
from likelier.data.records import Labelled, Message, Pair, Record, Source, TokenIds
from likelier.data.tokenize import Tokenized, default_max_length, tokenize_records
from likelier.utils.errors import DataError, LikelierWarning, ModelError
from tests.helpers.support import CHATML, chat_pairs, labelled_rows, tiny_tokenizer

CHAT, PLAIN = tiny_tokenizer(), tiny_tokenizer(chat=False)
EOS, EOS_ID = "<|im_end|>", 2
HERE = Source("pairs.jsonl", 7)


def pair(prompt: Any, chosen: Any, rejected: Any) -> Pair:
    return Pair(prompt, chosen, rejected, HERE)


def chat(prompt: str, chosen: str, rejected: str, system: str | None = None) -> Pair:
    start = (Message("system", system),) if system is not None else ()
    sides = ((Message("assistant", text),) for text in (chosen, rejected))
    return Pair((*start, Message("user", prompt)), *sides, HERE)


def tokenized(*records: Record, tokenizer: Any = PLAIN, max_length: int = 4096, **more: Any) -> Tokenized:
    return tokenize_records(records, tokenizer, max_length=max_length, **more)


def group_of(record: Record, tokenizer: Any = PLAIN, **more: Any) -> Group:
    found = tokenized(record, tokenizer=tokenizer, **more)
    assert len(found.groups) == 1, found.unusable.summary()
    return found.groups[0]


def lists(group: Group) -> list[list[int]]:
    return [group.prompt.tolist(), *(answer.tolist() for answer in group.answers)]


def texts(group: Group, tokenizer: Any = PLAIN) -> list[str]:
    return [tokenizer.decode(ids, skip_special_tokens=False) for ids in lists(group)]


def special_tokenizer(template: str, bos: str | None = None, eos: str = EOS) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with a post-processor that adds special tokens by itself."""
    backend = Tokenizer.from_str(PLAIN.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(single=template, special_tokens=[("<|im_start|>", 1), (EOS, EOS_ID)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos, pad_token="<|pad|>")


# --- the boundary --------------------------------------------------------------------------------------------------


def test_plain_text_is_cut_exactly_between_prompt_and_answer() -> None:
    found = tokenized(pair("the cat", " sat", " ran fast"))
    assert texts(found.groups[0]) == ["the cat", f" sat{EOS}", f" ran fast{EOS}"]
    assert found.boundary_merges == 0


def test_a_chat_answer_is_everything_rendered_after_the_generation_prompt() -> None:
    group = group_of(chat("the cat", "sat", "ran", system="be good"), CHAT)
    start = "<|im_start|>system\nbe good<|im_end|>\n<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    assert texts(group, CHAT) == [start, f"sat{EOS}\n", f"ran{EOS}\n"]
    newline = CHAT("\n")["input_ids"]
    for answer in group.answers:
        assert answer.tolist()[-2:] == [EOS_ID, *newline]


def test_a_token_that_merges_across_the_boundary_belongs_to_the_answer() -> None:
    assert len(PLAIN("the c")["input_ids"]) == 3 and len(PLAIN("the cat")["input_ids"]) == 2
    found = tokenized(pair("the c", "at sat", "old"))
    assert texts(found.groups[0]) == ["the", f" cat sat{EOS}", f" cold{EOS}"]
    assert found.boundary_merges == 1
    assert found.counts()["boundary_merges"] == 1


def test_merges_are_counted_once_a_row() -> None:
    found = tokenized(pair("the c", "at", "at sat"), pair("the", " cat", " dog"), pair("it c", "at ran", "at"))
    assert len(found.groups) == 3 and found.boundary_merges == 2


def test_a_prompt_that_merges_away_whole_cannot_be_used() -> None:
    found = tokenized(pair("y", "es", "es it was"), pair("the", " cat", " dog"))
    assert found.unusable.counts() == {"no-prompt-tokens": 1} and len(found.groups) == 1


def test_rows_that_came_tokenized_are_taken_as_they_are() -> None:
    record = Pair(TokenIds((5, 6)), TokenIds((7,)), TokenIds((8, 9)), HERE, (-1.0, -2.0))
    group = group_of(record)
    assert lists(group) == [[5, 6], [7], [8, 9]]
    assert group.given_ref_logps == (-1.0, -2.0) and group.ref_logps is None


@pytest.mark.parametrize("token", [-1, len(PLAIN), 2**40])
def test_token_ids_of_another_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(
        DataError,
        match=rf"pairs.jsonl:7: the token id {token} is not in this model's vocabulary of {len(PLAIN)} tokens",
    ):
        tokenized(pair("the", " cat", " dog"), pair(TokenIds((5,)), TokenIds((7,)), TokenIds((8, token))))


def test_groups_say_what_they_are() -> None:
    of_pair = group_of(pair("the", " cat", " dog sat"))
    of_label = group_of(Labelled("the", " cat", False, HERE))
    assert of_pair.is_pair and of_pair.desirable is None and of_pair.source == HERE
    assert not of_label.is_pair and of_label.desirable is False and len(of_label.answers) == 1
    assert of_pair.longest == len(of_pair.prompt) + len(of_pair.answers[1])
    assert all(ids.dtype == np.int32 for ids in (of_pair.prompt, *of_pair.answers))


def test_many_rows_tokenize_as_each_alone() -> None:
    records = [*chat_pairs(520), pair("the", " cat", " dog")]
    together = tokenized(*records, tokenizer=CHAT).groups
    assert len(together) == len(records)
    for record, group in zip(records[::40], together[::40], strict=True):
        assert lists(group) == lists(group_of(record, CHAT))
        assert group.source == record.source


word = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
mixed = st.lists(word | st.sampled_from([" ", "\n", "the c", "at", EOS, "<|im_start|>"]), min_size=1, max_size=4)
text = mixed.map("".join)


@settings(max_examples=75)
@given(prompt=text, chosen=text, rejected=text)
def test_prompt_and_answer_always_join_to_the_whole_text(prompt: str, chosen: str, rejected: str) -> None:
    found = tokenized(pair(prompt, chosen, rejected))
    for group in found.groups:
        for answer, given_text in zip(group.answers, (chosen, rejected), strict=True):
            whole = prompt + given_text
            joined = group.prompt.tolist() + answer.tolist()
            is_ended = whole.rstrip().endswith(EOS) if given_text.strip() else whole.endswith(EOS)
            assert joined == PLAIN(whole if is_ended else whole + EOS)["input_ids"]
            assert PLAIN.decode(joined).rstrip().endswith(EOS)


# --- special tokens ------------------------------------------------------------------------------------------------


def test_an_answer_that_ends_with_several_eos_is_taken_as_it_is() -> None:
    assert group_of(pair("the cat", " sat", f" ran{EOS}{EOS}")).answers[1].tolist().count(EOS_ID) == 2


@pytest.mark.parametrize("given_eos", ["", EOS])
def test_eos_is_appended_only_where_a_plain_answer_lacks_it(given_eos: str) -> None:
    group = group_of(pair("the cat", f" sat{given_eos}", " ran"))
    for answer in group.answers:
        assert answer.tolist().count(EOS_ID) == 1 and answer[-1] == EOS_ID


def test_eos_is_never_doubled_by_a_tokenizer_that_appends_it_by_itself() -> None:
    tokenizer = special_tokenizer(f"$A {EOS}")
    found = tokenized(pair("the cat", " sat", f" ran{EOS}"), tokenizer=tokenizer)
    assert texts(found.groups[0], tokenizer) == ["the cat", f" sat{EOS}", f" ran{EOS}"]
    assert found.boundary_merges == 0


def test_a_tokenizer_without_eos_gets_none() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(PLAIN.backend_tokenizer.to_str()))
    found = tokenized(pair("the cat", " sat", " ran"), tokenizer=tokenizer)
    assert texts(found.groups[0], tokenizer) == ["the cat", " sat", " ran"]
    assert found.answers_without_eos == 2


@pytest.mark.parametrize("prompt", ["the cat", "<|im_start|>the cat"], ids=["added", "in-the-text-too"])
def test_plain_text_has_one_bos_at_most(prompt: str) -> None:
    tokenizer = special_tokenizer("<|im_start|> $A", bos="<|im_start|>")
    group = group_of(pair(prompt, " sat", " ran"), tokenizer)
    assert texts(group, tokenizer) == ["<|im_start|>the cat", f" sat{EOS}", f" ran{EOS}"]


def test_the_template_alone_decides_on_bos_in_conversations() -> None:
    tokenizer = special_tokenizer("<|im_start|> $A", bos="<|im_start|>")
    tokenizer.chat_template = "{{ bos_token }}" + str(CHAT.chat_template).replace("<|im_start|>", "")
    group = group_of(chat("the cat", "sat", "ran"), tokenizer)
    for ids in lists(group)[1:]:
        assert (group.prompt.tolist() + ids).count(1) == 1


def test_answers_without_eos_are_counted() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = str(tokenizer.chat_template).replace("<|im_end|>", "")
    assert tokenized(chat("a", "sat", "ran"), tokenizer=tokenizer).answers_without_eos == 2
    assert tokenized(chat("a", "sat", "ran"), tokenizer=CHAT).answers_without_eos == 0


def test_conversations_without_a_chat_template_are_refused_with_the_mend() -> None:
    with pytest.raises(ModelError) as caught:
        tokenized(pair("plain", "a", "b"), chat("a", "sat", "ran"), tokenizer=PLAIN)
    message = str(caught.value)
    assert message.startswith("pairs.jsonl:7: the row is a conversation")
    assert "has no chat template" in message and "instruction-tuned" in message


def test_a_row_that_the_template_refuses_is_unusable_and_its_roles_are_named() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    found = tokenized(chat("a", "b", "c", system="s"), chat("a", "b", "c"), tokenizer=tokenizer)
    assert found.unusable.counts() == {"template-refuses": 1} and len(found.groups) == 1
    row = str(found.unusable[0])
    assert row.startswith(
        "pairs.jsonl:7: template-refuses (the chat template refuses the roles 'system user': no system"
    )
    assert "--fold-system" in row


def test_answers_that_are_the_same_tokens_are_counted() -> None:
    backend = Tokenizer.from_str(PLAIN.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Lowercase()
    lower = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS)
    found = tokenized(pair("the", " cat", " CAT"), pair("the", " cat", f" cat{EOS}"), tokenizer=lower)
    assert found.unusable.counts() == {"identical-answers": 2}
    assert str(found.unusable[0]) == "pairs.jsonl:7: identical-answers"


# --- truncation ----------------------------------------------------------------------------------------------------

LONG = pair("the cat sat on the mat", " and ran", " and ran very fast on the hill")


def lengths(group: Group) -> tuple[int, ...]:
    return tuple(len(ids) for ids in lists(group))


def test_lengths_of_the_long_row() -> None:
    assert lengths(group_of(LONG)) == (6, 3, 8)


def test_rows_at_the_limit_are_kept_whole() -> None:
    for policy in ("drop", "cut-prompt-left", "cut-answer-right", "error"):
        found = tokenized(LONG, max_length=14, truncation=policy)
        assert lengths(found.groups[0]) == (6, 3, 8)
        assert (found.cut_prompts, found.cut_answers, found.max_length) == (0, 0, 14)


def test_drop_leaves_the_row_out_and_says_where_and_how_long() -> None:
    found = tokenized(LONG, pair("the", " cat", " dog"), max_length=13)
    assert len(found.groups) == 1
    assert str(found.unusable[0]) == "pairs.jsonl:7: over-max-length (14 tokens)"
    assert found.counts()["unusable"] == 1


def test_cut_prompt_left_keeps_both_answers_whole() -> None:
    found = tokenized(LONG, max_length=11, truncation="cut-prompt-left")
    whole, cut = group_of(LONG), found.groups[0]
    assert lists(cut) == [whole.prompt[3:].tolist(), *lists(whole)[1:]]
    assert (found.cut_prompts, found.cut_answers, found.answers_without_eos) == (1, 0, 0)


def test_cut_prompt_left_drops_a_row_whose_answer_fills_the_limit() -> None:
    assert tokenized(LONG, max_length=8, truncation="cut-prompt-left").unusable.counts() == {"over-max-length": 1}


def test_cut_answer_right_takes_the_eos_away_and_counts_it() -> None:
    found = tokenized(LONG, max_length=10, truncation="cut-answer-right")
    whole, cut = group_of(LONG), found.groups[0]
    assert lists(cut) == [whole.prompt.tolist(), whole.answers[0].tolist(), whole.answers[1][:4].tolist()]
    assert EOS_ID not in cut.answers[1]
    assert (found.cut_prompts, found.cut_answers, found.answers_without_eos) == (0, 1, 1)


def test_cut_answer_right_drops_a_row_whose_prompt_fills_the_limit() -> None:
    assert tokenized(LONG, max_length=6, truncation="cut-answer-right").unusable.counts() == {"over-max-length": 1}


def test_cut_answers_that_become_the_same_are_counted() -> None:
    found = tokenized(LONG, max_length=8, truncation="cut-answer-right")
    assert found.unusable.counts() == {"identical-answers": 1}


def test_error_names_the_row_its_length_and_the_flags() -> None:
    with pytest.raises(DataError) as caught:
        tokenized(LONG, max_length=13, truncation="error")
    message = str(caught.value)
    assert message.startswith("pairs.jsonl:7: 14 tokens, the limit is 13; raise --max-length")
    assert "cut-prompt-left" in message


@settings(max_examples=100)
@given(
    seed=st.integers(0, 50),
    limit=st.integers(1, 40),
    policy=st.sampled_from(["drop", "cut-prompt-left", "cut-answer-right"]),
)
def test_every_policy_accounts_for_every_row_and_holds_the_limit(seed: int, limit: int, policy: Any) -> None:
    records = [*chat_pairs(4, seed), *labelled_rows(4, seed)]
    whole = {id(record): group_of(record, CHAT) for record in records}
    found = tokenized(*records, tokenizer=CHAT, max_length=limit, truncation=policy)
    assert len(found.groups) + len(found.unusable) == len(records)
    kept = iter(found.groups)
    left_out = [row.source for row in found.unusable]
    for record in records:
        full = whole[id(record)]
        if record.source in left_out:
            left_out.remove(record.source)
            assert full.longest > limit
            continue
        group = next(kept)
        assert group.longest <= limit and len(group.prompt) and all(len(answer) for answer in group.answers)
        assert full.prompt.tolist()[-len(group.prompt) :] == group.prompt.tolist()
        for answer, own in zip(group.answers, full.answers, strict=True):
            assert own[: len(answer)].tolist() == answer.tolist()
        if policy != "cut-prompt-left" or full.longest <= limit:
            assert len(group.prompt) == len(full.prompt)
        if policy != "cut-answer-right":
            assert [len(answer) for answer in group.answers] == [len(answer) for answer in full.answers]


@pytest.mark.parametrize(("context", "expected"), [(None, 2048), (512, 512), (8192, 2048)])
def test_the_default_limit_is_the_context_and_at_most_2048(context: int | None, expected: int) -> None:
    assert default_max_length(context) == expected


# --- prepare_groups ------------------------------------------------------------------------------------------------


def prepared(records: list[Any], wants: Any = "pairs", partners: bool = False, max_length: int = 512) -> Tokenized:
    return prepare_groups(
        records, CHAT, method="dpo", wants=wants, partners=partners, max_length=max_length, truncation="drop"
    )


def test_labels_under_a_method_for_pairs_name_kto() -> None:
    with pytest.raises(DataError, match=r"tiny.jsonl:1: dpo learns from pairs.*use --method kto"):
        prepared(list(labelled_rows(3)))


def test_pairs_become_labelled_groups_where_labels_are_wanted() -> None:
    groups = prepared(list(chat_pairs(3)), wants="labels", partners=True).groups
    assert [group.desirable for group in groups] == [True, False] * 3
    assert all(len(group.answers) == 2 for group in groups)


def test_nothing_left_is_refused_with_the_account() -> None:
    with pytest.raises(
        DataError, match=r"none of the 3 rows is left after tokenization \(max_length 2\)(.|\n)*3 x over"
    ):
        prepared(list(chat_pairs(3)), max_length=2)


def data_of(train: list[Any], held_out: list[Any], **more: Any) -> Any:
    settings = {"method": "dpo", "wants": "pairs", "partners": False, "max_length": 512, "truncation": "drop"}
    return prepare_data(train, held_out, PLAIN, **(settings | more))


def test_the_median_length_is_over_answers_of_training() -> None:
    found = data_of([LONG], [pair("the", " cat", " dog")])
    assert found.median_length == 5.5
    assert (len(found.train.groups), len(found.held_out.groups), found.rows) == (1, 1, 2)


def test_bad_evaluation_data_are_named_as_such() -> None:
    with pytest.raises(DataError, match="evaluation data: none of the 1 rows is left"):
        data_of([pair("the", " cat", " dog")], [LONG], max_length=10)


def test_many_rows_over_the_limit_are_warned_of_with_the_flag() -> None:
    with pytest.warns(LikelierWarning, match=r"50% of the training rows do not fit in 10 tokens.*raise --max-length"):
        data_of([pair("the", " cat", " dog"), LONG], [], max_length=10)


# --- the same as TRL 1.16 ------------------------------------------------------------------------------------------


def trl_ids(prompt: Any, chosen: Any, rejected: Any, tokenizer: Any) -> list[list[int]]:
    """What `DPOTrainer` makes of a pair: its `add_eos`, `_tokenize` and `common_prefix_length`, in its order."""
    from trl.data_utils import _tokenize, common_prefix_length

    more: dict[str, Any] = {}
    if isinstance(prompt, list):
        more = {"add_generation_prompt": True}
    else:
        chosen, rejected = (side if side.endswith(EOS) else side + EOS for side in (chosen, rejected))
    own = _tokenize(tokenizer, prompt, **more)["input_ids"]
    sides = [_tokenize(tokenizer, prompt + side)["input_ids"] for side in (chosen, rejected)]
    length = min(common_prefix_length(own, side) for side in sides)
    return [own[:length], *(side[length:] for side in sides)]


def assert_like_trl(record: Pair, expected: list[list[int]], tokenizer: Any) -> None:
    found = tokenized(record, tokenizer=tokenizer)
    if not found.groups:
        reason = found.unusable[0].reason
        assert reason == ("no-prompt-tokens" if not expected[0] else "identical-answers")
        assert not expected[0] or expected[1] == expected[2]
    else:
        assert lists(found.groups[0]) == expected


@settings(max_examples=75)
@given(prompt=text, chosen=text, rejected=text)
def test_plain_pairs_tokenize_as_in_trl(prompt: str, chosen: str, rejected: str) -> None:
    assert_like_trl(pair(prompt, chosen, rejected), trl_ids(prompt, chosen, rejected, PLAIN), PLAIN)


turns = st.lists(text, min_size=1, max_size=5).map(lambda some: some if len(some) % 2 else some[1:])


@settings(max_examples=75)
@given(system=st.none() | text, turns=turns, chosen=text, rejected=text)
def test_conversations_tokenize_as_in_trl(system: str | None, turns: list[str], chosen: str, rejected: str) -> None:
    roles = ["user", "assistant"] * 3
    prompt = [*([Message("system", system)] if system is not None else []), *map(Message, roles, turns)]
    sides = [[Message("assistant", side)] for side in (chosen, rejected)]
    plain = [[{"role": m.role, "content": m.content} for m in part] for part in (prompt, *sides)]
    record = Pair(tuple(prompt), tuple(sides[0]), tuple(sides[1]), HERE)
    assert_like_trl(record, trl_ids(plain[0], plain[1], plain[2], CHAT), CHAT)


def test_random_tiny_pairs_tokenize_as_in_trl() -> None:
    rng = random.Random(0)
    for record in chat_pairs(20, seed=rng.randrange(100)):
        plain = [
            [{"role": m.role, "content": m.content} for m in part]  # type: ignore[union-attr]
            for part in (record.prompt, record.chosen, record.rejected)
        ]
        assert_like_trl(record, trl_ids(plain[0], plain[1], plain[2], CHAT), CHAT)
