"""What `score --per-token`, reports and `inspect` show of tokens that are not trained on; policies that go on with a
begun turn.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from likelier.data.audit import audit_records
from likelier.data.groups import Group
from likelier.data.masks import together
from likelier.data.options import ChatOptions
from likelier.data.records import Labelled, Message, Pair, Source
from likelier.data.tokenize import tokenize_records
from likelier.insight.inspect.look import _with_reward, _without_reference
from likelier.insight.inspect.text import _token_table
from likelier.insight.pages.heatmap import legend_text, numbers_of, pieces_of, scale_of, token_spans, token_text
from likelier.models.generation import prompt_ids
from likelier.objectives import METHODS
from likelier.scoring import attach_scorer
from likelier.scoring.implicit_rewards import implicit_rewards
from likelier.scoring.reference import Reference, ReferenceScoring
from likelier.training.evaluation.close_ups import telling_pairs, token_by_token
from likelier.training.evaluation.heldout import evaluate_groups
from tests.helpers.support import tiny_policy, tiny_tokenizer

ASKED = (Message("user", "one"),)
CHOSEN = (Message("assistant", "yes"), Message("tool", "the cat sat"), Message("assistant", "right"))
REJECTED = (Message("assistant", "no"),)
PAIR = Pair(ASKED, CHOSEN, REJECTED, Source("made.jsonl", 1))
HOW = ReferenceScoring(Path("nowhere"), 1000, "cpu")


def group_of(record: Any) -> Group:
    return tokenize_records([record], tiny_tokenizer(), max_length=99).groups[0]


def rows(groups: list[Group]) -> list[dict[str, Any]]:
    policy, other = tiny_policy(0), tiny_policy(1)
    for one in (policy, other):
        attach_scorer(one.model)
    reference = Reference("another", "a", "a", False, lambda: nullcontext(other.model))
    return implicit_rewards(policy, reference, groups, HOW, beta=0.5, per_token=True)


def test_rewards_per_token_are_of_the_trained_tokens_and_sum_to_the_answers() -> None:
    group = group_of(PAIR)
    (row,) = rows([group])
    tokens, mask = row["chosen"]["tokens"], group.own_masks[0]
    assert mask is not None and row["chosen"]["length"] == int(mask.sum()) < len(tokens) == len(group.answers[0])
    assert [token.get("trained", True) for token in tokens] == mask.tolist()
    assert "".join(token["text"] for token in tokens) == tiny_tokenizer().decode(group.answers[0])
    trained = [token for token in tokens if token.get("trained", True)]
    assert sum(token["logratio"] for token in trained) == pytest.approx(row["chosen"]["logratio"])
    assert row["chosen"]["logratio_per_token"] == pytest.approx(row["chosen"]["logratio"] / len(trained))
    assert not any("trained" in token for token in row["rejected"]["tokens"])


def test_what_is_not_trained_on_is_dim_and_has_no_share() -> None:
    (row,) = rows([group_of(PAIR)])
    answer = _with_reward(row["chosen"], 1.0, 0.5)
    fed = [piece for piece in pieces_of(answer) if not piece.is_trained]
    assert "".join(piece.text for piece in fed) == "<|im_start|>tool\nthe cat sat<|im_end|>\n<|im_start|>assistant\n"
    assert {piece.share for piece in fed} == {0.0} and {numbers_of(piece) for piece in fed} == {"not trained on"}
    assert str(token_spans(answer, scale_of(answer))).count('class="tok tok-fed" title="not trained on"') == len(fed)
    assert sum(span.style == "dim" for span in token_text(answer, scale_of(answer)).spans) == len(fed)
    assert "more likely" in legend_text(answer).plain  # the colours are those of a reference
    console = Console(width=200, record=True, file=StringIO())
    console.print(_token_table(answer, scale_of(answer), None))
    assert console.export_text().count("not trained on") == len(fed)


def test_without_a_reference_too() -> None:
    policy = tiny_policy()
    attach_scorer(policy.model)
    found = _without_reference(policy, group_of(PAIR), HOW)
    tokens = [token for token in found["chosen"]["tokens"] if token.get("trained", True)]
    assert found["chosen"]["length"] == len(tokens)
    assert sum(token["logp"] for token in tokens) == pytest.approx(found["chosen"]["logp"])


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_telling_pairs_keep_their_masks(method: str) -> None:
    policy = tiny_policy()
    attach_scorer(policy.model)
    sides = [Labelled(ASKED, CHOSEN, True, PAIR.source), Labelled(ASKED, REJECTED, False, PAIR.source)]
    groups = [group_of(PAIR)] if method == "dpo" else [group_of(side) for side in sides]
    if method == "kto":
        odd = group_of(Labelled(ASKED, (Message("assistant", "odd"),), True, Source("x", 2))).answers[0]
        groups = [
            replace(one, answers=(one.answers[0], odd), masks=together((one.own_masks[0], None))) for one in groups
        ]
    groups = [replace(one, ref_logps=(0.0, 0.0)) for one in groups]
    objective = METHODS[method]()
    found = evaluate_groups(policy.model, objective, groups, token_budget=1000, device="cpu")
    told = telling_pairs(found, objective)
    assert told and told[0].group.own_masks[1] is None
    reference = Reference("itself", "a", "a", True, lambda: nullcontext(policy.model))
    (row,) = token_by_token(told[:1], lambda group: "one", policy, reference, HOW, 0.1)
    assert any(token.get("trained") is False for token in row["chosen"]["tokens"])


def test_a_policy_goes_on_with_a_begun_turn() -> None:
    policy = tiny_policy()
    begun = (*ASKED, Message("assistant", "the cat"))
    text = tiny_tokenizer().decode(prompt_ids(policy, begun))
    assert text == "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\nthe cat"
    pair = Pair(begun, (Message("assistant", " sat"),), (Message("assistant", " ran"),), Source("x", 1))
    group = tokenize_records([pair], policy.tokenizer, max_length=99, chat=ChatOptions()).groups[0]
    assert prompt_ids(policy, begun) == group.prompt.tolist()


def test_the_audit_counts_ends_of_every_turn() -> None:
    tokenizer = tiny_tokenizer()
    assert audit_records([PAIR], [], tokenizer=tokenizer, max_length=99).finding("missing-eos") is None
    tokenizer.chat_template = str(tokenizer.chat_template).replace(
        "message['content'] + '<|im_end|>\n'", "message['content'] + ('<|im_end|>' if loop.last else '') + '\n'"
    )
    found = audit_records([PAIR], [], tokenizer=tokenizer, max_length=99)
    assert {"missing-eos", "earlier-turns-rewritten", "no-tokens"} & {one.name for one in found.findings}
