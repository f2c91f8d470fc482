"""The local sampler: what it draws has the model's distribution, and its log-probabilities are the scorer's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from likelier.data.groups import Group
from likelier.data.records import Source
from likelier.models.policy import Policy
from likelier.online.sampling import GeneratingSampler, LocalSampler, Sampled, Sampling, sampler_for
from likelier.scoring import attach_scorer, collate, score_plain
from likelier.utils.errors import ConfigError, ModelError
from tests.helpers.architectures import IN_FLOAT64, NOT_SHARING, SHARING, WINDOW, random_tokens, tiny
from tests.helpers.support import lora_policy, tiny_model, tiny_policy, tiny_tokenizer

PROMPTS = [np.array(random_tokens(seed, size)) for seed, size in ((1, 7), (2, 2 * WINDOW + 3), (3, 1))]


def sampler_of(model: Any, rows: int | None = None, **options: Any) -> LocalSampler:
    attach_scorer(model)
    return LocalSampler(Policy(model, tiny_tokenizer(), "tiny", "a tiny model"), Sampling(**options), rows)


def scored(model: Any, prompt: np.ndarray, answers: Sequence[Sampled]) -> list[np.ndarray]:
    """The plain scorer's log-probabilities of the answers' tokens."""
    group = Group(prompt.astype(np.int32), tuple(answer.ids for answer in answers), Source("drawn", 1))
    found = []
    for answer in group.answers:
        alone = Group(group.prompt, (answer, answer), group.source)
        with torch.no_grad():
            found.append(model(batch=collate([alone]), how=score_plain).token_logps.numpy())
    return found


@pytest.mark.parametrize("name", SHARING)
def test_sampler_and_scorer_agree(name: str) -> None:
    model = tiny(name)
    found = sampler_of(model, max_new_tokens=2 * WINDOW, seed=1).sample(PROMPTS, 3, ["a", "b", "c"])
    for prompt, answers in zip(PROMPTS, found, strict=True):
        for answer, logps in zip(answers, scored(model, prompt, answers), strict=True):
            np.testing.assert_allclose(answer.logps, logps, atol=1e-4)


def test_cuts_stand_in_the_answers_and_not_in_their_log_probabilities() -> None:
    model = tiny("llama, tied")
    found = sampler_of(model, max_new_tokens=8, top_k=1).sample(PROMPTS, 2, ["a", "b", "c"])
    likeliest = sampler_of(model, max_new_tokens=8, temperature=0.0).sample(PROMPTS, 1, ["a", "b", "c"])
    for prompt, answers, (best,) in zip(PROMPTS, found, likeliest, strict=True):
        for answer in answers:
            assert answer.ids.tolist() == best.ids.tolist()
            np.testing.assert_allclose(answer.logps, scored(model, prompt, [answer])[0], atol=1e-4)


@pytest.mark.parametrize("name", sorted(NOT_SHARING))
def test_a_model_that_cannot_share_a_prompt_is_generated_from(name: str) -> None:
    model = tiny(name)
    with pytest.raises(ModelError, match="cannot share a prompt between answers"):
        sampler_of(model, max_new_tokens=4)
    policy = Policy(model, tiny_tokenizer(), "tiny", "a tiny model")
    heard: list[tuple[int, int]] = []
    sampler = sampler_for(policy, Sampling(max_new_tokens=2 * WINDOW, seed=1))
    found = sampler.sample(PROMPTS, 3, ["a", "b", "c"], lambda whole, tokens: heard.append((whole, tokens)))
    for prompt, answers in zip(PROMPTS, found, strict=True):
        assert len({tuple(answer.ids.tolist()) for answer in answers}) > 1
        for answer, logps in zip(answers, scored(model, prompt, answers), strict=True):
            np.testing.assert_allclose(answer.logps, logps, atol=1e-4)
    tokens = sum(len(answer.ids) for answers in found for answer in answers)
    assert (sum(whole for whole, _ in heard), sum(count for _, count in heard)) == (9, tokens)


def test_both_samplers_write_the_same() -> None:
    policy = tiny_policy()
    attach_scorer(policy.model)
    sampling = Sampling(max_new_tokens=20, seed=3, temperature=0.8, stop=("at",))
    found = [kind(policy, sampling).sample(PROMPTS, 4, ["a", "b", "c"]) for kind in (LocalSampler, GeneratingSampler)]
    for left, right in zip(*([answer for own in both for answer in own] for both in found), strict=True):
        assert (left.ids.tolist(), left.stop) == (right.ids.tolist(), right.stop)
        np.testing.assert_allclose(left.logps, right.logps, atol=1e-5)  # generate gives logits in fp32


@pytest.mark.parametrize("name", ["llama, tied", *[name for name in IN_FLOAT64 if name in ("gpt2", "mistral")]])
def test_in_double_precision_an_answer_does_not_depend_on_what_is_drawn_beside_it(name: str) -> None:
    model = tiny(name, torch.float64)
    together = sampler_of(model, max_new_tokens=12, seed=5).sample(PROMPTS, 4, ["a", "b", "c"])
    few_rows = sampler_of(model, rows=1, max_new_tokens=12, seed=5)
    for prompt, key, answers in zip(PROMPTS, "abc", together, strict=True):
        alone = few_rows.sample([prompt], 2, [key])[0]
        assert [answer.ids.tolist() for answer in alone] == [answer.ids.tolist() for answer in answers[:2]]


def test_in_single_precision_few_tokens_depend_on_what_is_drawn_beside_them() -> None:
    model = tiny("llama, tied")
    prompts = [np.array(random_tokens(seed, 5 + seed % 9)) for seed in range(40)]
    keys = [str(number) for number in range(40)]
    drawn = [sampler_of(model, rows=rows, max_new_tokens=16).sample(prompts, 2, keys) for rows in (2, 64)]
    both = [[answer for answers in found for answer in answers] for found in drawn]
    differ = sum(left.ids.tolist() != right.ids.tolist() for left, right in zip(*both, strict=True))
    assert differ <= 1  # of 80 answers; 0 as a rule: a number must fall within rounding of a border between two tokens


def test_keys_and_seed_decide_the_draws() -> None:
    model = tiny("llama, tied")
    same = [PROMPTS[0]] * 3
    one, two, other = sampler_of(model, max_new_tokens=12).sample(same, 2, ["a", "a", "b"])
    assert [answer.ids.tolist() for answer in one] == [answer.ids.tolist() for answer in two]
    drawn = [answer.ids.tolist() for answer in (*one, *other)]
    assert len({tuple(ids) for ids in drawn}) == 4  # an answer's number counts, too
    assert sampler_of(model, max_new_tokens=12, seed=7).sample(same[:1], 1, ["a"])[0][0].ids.tolist() not in drawn


def test_the_processs_own_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    sampler_of(tiny("llama, tied"), max_new_tokens=4).sample(PROMPTS, 1, ["a", "b", "c"])
    assert torch.equal(before, torch.get_rng_state())


def test_draws_have_the_models_distribution() -> None:
    """Chi-square over pairs of tokens: the first two tokens of 4,000 answers."""
    vocabulary, prompt = 12, np.array([3, 1, 4])
    model = tiny("llama, tied", vocab_size=vocabulary, eos_token_id=vocabulary - 1)
    answers = sampler_of(model, max_new_tokens=2, temperature=0.7).sample([prompt], 4000, ["a"])[0]
    with torch.no_grad():
        first = (model(torch.tensor(prompt)[None]).logits[0, -1] / 0.7).softmax(0)
        rows = torch.tensor([[*prompt, token] for token in range(vocabulary)])
        second = (model(rows).logits[:, -1] / 0.7).softmax(1)
    ends = sampler_of(model).writer.ends
    expected, seen = np.zeros(vocabulary**2), np.zeros(vocabulary**2)
    for token in range(vocabulary):
        if token in ends:
            expected[token * vocabulary] = float(first[token])
        else:
            expected[token * vocabulary : (token + 1) * vocabulary] = (first[token] * second[token]).numpy()
    for answer in answers:
        ids = answer.ids.tolist()
        seen[ids[0] * vocabulary + (ids[1] if len(ids) > 1 else 0)] += 1
    expected *= len(answers)
    common = expected >= 5
    statistic = float((((seen - expected) ** 2 / np.where(common, expected, 1))[common]).sum())
    degrees = int(common.sum()) - 1
    assert statistic < degrees + 5 * (2 * degrees) ** 0.5  # mean and deviation of chi-square: five deviations


class TestEnds:
    def test_every_token_that_the_generation_config_names_ends_an_answer(self) -> None:
        model = tiny_model(dtype=torch.float32)
        free = sampler_of(model, max_new_tokens=6).sample(PROMPTS[:1], 1, ["a"])[0][0]
        model.generation_config.eos_token_id = [2, int(free.ids[3])]
        ended = sampler_of(model, max_new_tokens=6).sample(PROMPTS[:1], 1, ["a"])[0][0]
        place = free.ids.tolist().index(int(free.ids[3]))
        assert (ended.stop, ended.ids.tolist()) == ("eos", free.ids[: place + 1].tolist())
        assert ended.is_whole and not free.is_whole and free.stop == "length"

    def test_the_padding_token_changes_nothing(self) -> None:
        policy = tiny_policy(dtype=torch.float32)
        attach_scorer(policy.model)
        drawn = []
        for padding in ("<|pad|>", "<|im_end|>"):
            policy.tokenizer.pad_token = padding
            answers = LocalSampler(policy, Sampling(max_new_tokens=9)).sample(PROMPTS, 2, ["a", "b", "c"])
            drawn.append([answer.ids.tolist() for own in answers for answer in own])
        assert drawn[0] == drawn[1]

    def test_a_string_ends_an_answer_wherever_tokens_are_cut(self) -> None:
        model = tiny_model(dtype=torch.float32)
        sampler = sampler_of(model, max_new_tokens=20, seed=3)
        free = sampler.sample(PROMPTS[:1], 1, ["a"])[0][0]
        text = sampler.policy.tokenizer.decode(free.ids)
        middle = text[len(text) // 2 : len(text) // 2 + 3]
        stopped = sampler_of(model, max_new_tokens=20, seed=3, stop=(middle,)).sample(PROMPTS[:1], 1, ["a"])[0][0]
        assert stopped.stop == "stop"
        assert middle in sampler.policy.tokenizer.decode(stopped.ids)
        assert middle not in sampler.policy.tokenizer.decode(stopped.ids[:-1])

    def test_finished_answers_leave_the_batch(self) -> None:
        model = tiny_model(dtype=torch.float32)
        fed: list[int] = []
        model.model.embed_tokens.register_forward_hook(lambda module, inputs, output: fed.append(inputs[0].numel()))
        sampler = sampler_of(model, max_new_tokens=10)
        free = sampler.sample(PROMPTS, 4, ["a", "b", "c"])
        model.generation_config.eos_token_id = list({int(answers[0].ids[2]) for answers in free})
        sampler = sampler_of(model, max_new_tokens=10)
        fed.clear()
        found = [answer for answers in sampler.sample(PROMPTS, 4, ["a", "b", "c"]) for answer in answers]
        assert {answer.stop for answer in found} == {"eos", "length"}
        assert fed == [
            sum(map(len, PROMPTS)),
            *(sum(len(answer.ids) > step for answer in found) for step in range(1, 10)),
        ]


def test_an_adapter_writes_with_the_model() -> None:
    policy = lora_policy(dtype=torch.float32)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    attach_scorer(policy.model)
    answers = LocalSampler(policy, Sampling(max_new_tokens=8)).sample(PROMPTS, 2, ["a", "b", "c"])
    for prompt, own in zip(PROMPTS, answers, strict=True):
        for answer, logps in zip(own, scored(policy.model, prompt, own), strict=True):
            np.testing.assert_allclose(answer.logps, logps, atol=1e-4)
            with policy.model.disable_adapter():
                assert np.abs(answer.logps - scored(policy.model, prompt, [answer])[0]).max() > 0.01


def test_a_training_mode_and_progress() -> None:
    model = tiny("llama, tied")
    sampler = sampler_of(model, max_new_tokens=5)
    model.train()
    heard: list[tuple[int, int]] = []
    found = sampler.sample(PROMPTS, 2, ["a", "b", "c"], lambda whole, tokens: heard.append((whole, tokens)))
    assert model.training
    assert sum(whole for whole, _ in heard) == 6
    assert sum(tokens for _, tokens in heard) == sum(len(answer.ids) for answers in found for answer in answers)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_p": 0.0}, "top_p=0.0 is out of range; it must be above 0"),
        ({"top_k": -1}, "top_k=-1"),
        ({"min_p": 1.0}, "min_p=1.0"),
        ({"stop": ("",)}, "strings that are not empty"),
        ({"temperature": -1.0}, "temperature=-1"),
        ({"temperature": 0.0, "top_p": 0.9}, "top_p=0.9 has no effect at temperature 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Sampling(**options)
