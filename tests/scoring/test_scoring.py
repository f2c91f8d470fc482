"""The seam: the plain scorer against the most direct computation, gradients included."""

import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from likelier.data.groups import Group
from likelier.data.tokenize import tokenize_records
from likelier.models.options import LoraOptions
from likelier.models.policy import add_lora
from likelier.scoring import SequenceScores, attach_scorer, collate, score_plain
from likelier.scoring.attach import verify_head
from likelier.scoring.engine import micro_batches, score_groups
from likelier.utils.errors import ModelError
from tests.helpers.support import chat_pairs, naive_logp, tiny_model, tiny_tokenizer

GROUPS = tokenize_records(chat_pairs(6), tiny_tokenizer(), max_length=512).groups
SMALL = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "qwen2": Qwen2Config(**SMALL),
    "gemma2, soft-capped": Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=5.0),
    "granite, scaled": GraniteConfig(**SMALL, logits_scaling=4.0),
    "cohere, scaled": CohereConfig(**SMALL, logit_scale=0.25),
    "gpt2, learned positions": GPT2Config(
        vocab_size=384, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=1, eos_token_id=2
    ),
}


def _answers(scores: SequenceScores, groups: list[Group], numbers: list[list[int]]) -> dict[tuple, float]:
    return {
        (group.prompt.tobytes(), group.answers[k].tobytes()): float(scores.logps[number])
        for group, row in zip(groups, numbers, strict=True)
        for k, number in enumerate(row)
    }


def test_scores_equal_one_row_at_a_time() -> None:
    model = tiny_model()
    batch = collate(GROUPS)
    with torch.no_grad():
        scores = score_plain(model, batch)
    found = _answers(scores, GROUPS, batch.answers_of_groups())
    for group in GROUPS:
        for number, answer in enumerate(group.answers):
            assert found[group.prompt.tobytes(), answer.tobytes()] == pytest.approx(
                naive_logp(model, group, number), abs=1e-10
            )


@pytest.mark.parametrize("name", CONFIGS)
def test_other_architectures(name: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).double().eval()
    verify_head(model)
    batch = collate(GROUPS[:3])
    with torch.no_grad():
        scores = score_plain(model, batch)
    expected = [naive_logp(model, group, k) for group in GROUPS[:3] for k in range(2)]
    torch.testing.assert_close(scores.logps, torch.tensor(expected, dtype=torch.double), atol=1e-9, rtol=0)


def test_a_head_that_is_not_understood_is_refused() -> None:
    model = tiny_model()
    original = model.forward

    def shifted(**inputs: object) -> object:
        output = original(**inputs)
        output.logits = output.logits * 1.7
        return output

    model.forward = shifted  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="changes its logits in a way that is not known"):
        attach_scorer(model)


def test_sums_lengths_and_tokens_agree() -> None:
    batch = collate(GROUPS)
    with torch.no_grad():
        scores = score_plain(tiny_model(), batch)
    assert scores.lengths.tolist() == [len(answer) for answer in batch.answers]
    sums = torch.zeros(len(scores.lengths), dtype=torch.double).index_add_(0, scores.answer_of, scores.token_logps)
    torch.testing.assert_close(sums, scores.logps)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_chunk_size_changes_no_log_prob_and_no_gradient(chunk: int) -> None:
    model = tiny_model()
    batch = collate(GROUPS)

    def gradients(size: int | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        scores = score_plain(model, batch, size)
        (scores.logps * torch.linspace(-1, 1, len(scores.logps))).sum().backward()
        return scores.logps.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}  # type: ignore[union-attr]

    logps, grads = gradients(chunk)
    whole_logps, whole_grads = gradients(None)
    torch.testing.assert_close(logps, whole_logps, atol=1e-10, rtol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, whole_grads[name], atol=1e-10, rtol=1e-10)


def test_gradients_equal_the_naive_computation() -> None:
    model = tiny_model()
    batch = collate(GROUPS[:2])
    score_plain(model, batch).logps.sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}  # type: ignore[union-attr]
    model.zero_grad()
    for group in GROUPS[:2]:
        for answer in group.answers:
            ids = torch.tensor([[*group.prompt.tolist(), *answer.tolist()]])
            logps = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])
            logps[len(group.prompt) - 1 :].sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-10, rtol=1e-10)


def test_lora_on_the_head_is_scored_and_trained() -> None:
    model = add_lora(tiny_model(tie_word_embeddings=False), LoraOptions(lora_r=4, lora_targets="lm_head,q_proj"), 0)
    model = model.double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.eval()
    batch = collate(GROUPS[:2])
    scores = score_plain(model, batch)
    expected = [naive_logp(model, group, k) for group in GROUPS[:2] for k in range(2)]
    torch.testing.assert_close(scores.logps.detach(), torch.tensor(expected, dtype=torch.double), atol=1e-9, rtol=0)
    scores.logps.sum().backward()
    head = [p.grad for name, p in model.named_parameters() if "lm_head" in name and "lora_" in name]
    assert head and all(grad is not None and bool(grad.any()) for grad in head)


def test_equal_prompts_and_answers_are_held_once() -> None:
    group = GROUPS[0]
    batch = collate([group, group, GROUPS[1]])
    assert (len(batch.prompts), len(batch.answers)) == (2, 4)
    assert batch.items.pairs is not None and batch.items.pairs.tolist() == [[0, 1], [0, 1], [2, 3]]


def test_scores_do_not_depend_on_the_batch_around_them() -> None:
    model = tiny_model()
    attach_scorer(model)
    rng = random.Random(3)
    alone: dict[tuple, float] = {}
    for budget in (1, 200, 100_000):
        groups = GROUPS[:]
        rng.shuffle(groups)
        for part in score_groups(model, groups, token_budget=budget, device="cpu"):
            for key, value in _answers(part.scores, part.groups, part.batch.answers_of_groups()).items():
                assert alone.setdefault(key, value) == pytest.approx(value, abs=1e-10)
    assert len(micro_batches(model, GROUPS, 1)) == len(GROUPS)


def test_float32_scores_stay_close_to_float64() -> None:
    exact, rounded = tiny_model(), tiny_model(dtype=torch.float32)
    batch = collate(GROUPS)
    with torch.no_grad():
        gap = (score_plain(exact, batch).token_logps - score_plain(rounded, batch).token_logps).abs().max()
    assert float(gap) < 1e-5


def test_other_calls_reach_the_models_own_forward() -> None:
    model = tiny_model()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        attach_scorer(model)
        attach_scorer(model)  # a second time changes nothing
        torch.testing.assert_close(model(input_ids=ids).logits, before)
