"""A run on a vLLM server: every version of the policy is served, and what the server says is held to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from likelier.models.policy import Policy
from likelier.online.sampling import Sampling, ServedPolicy, VllmSampler, VllmServer
from likelier.online.sampling.proof import prove
from likelier.scoring import attach_scorer
from likelier.utils.errors import ConfigError, LikelierError, ModelError, TrainingError
from likelier.utils.service import ServiceError
from tests.helpers.online_trainers import online_options, same, steps, weights
from tests.helpers.online_trainers import online_trainer as trainer
from tests.helpers.services import allow_this_machine, reply, serving
from tests.helpers.support import lora_policy, tiny_policy
from tests.helpers.vllm_double import VllmDouble

PROMPTS = [np.array([5, 6, 7], dtype=np.int32), np.array([8, 9], dtype=np.int32)]
KEYS = ["one", "two"]


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_this_machine(monkeypatch)


def served(url: str, folder: Path, policy: Policy | None = None, **sampling: Any) -> VllmSampler:
    policy = policy or lora_policy()
    attach_scorer(policy.model)
    return VllmSampler(ServedPolicy(policy, VllmServer(url), folder / "sampler"), Sampling(6, **sampling))


def moved(policy: Policy) -> None:
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(weight)


def online(url: str, **more: Any) -> dict[str, Any]:
    return {"sampler": "vllm", "sampler_url": url, **more}


@pytest.mark.slow
def test_three_steps_are_drawn_from_three_versions(tmp_path: Path) -> None:
    double, policy = VllmDouble(), lora_policy()
    with double.running() as url:
        trainer(tmp_path / "run", policy, max_steps=3, online=online(url), reward="length:20 characters").train()
    assert len({request["model"] for request in double.requests}) == 3
    assert not double.loaded  # the last one is taken away too
    assert all(line["sampler/max_diff"] < 1e-9 for line in steps(tmp_path / "run"))
    assert not (tmp_path / "run" / "sampler").exists()


@pytest.mark.slow
def test_a_server_that_keeps_an_old_adapter_is_found_out(tmp_path: Path) -> None:
    double = VllmDouble(is_stale=True)
    fast = {"learning_rate": 0.5, "max_steps": 4, "reward": "length:20 characters"}
    with double.running() as url, pytest.raises(TrainingError, match=r"sampler and scorer differ .* processed_logp"):
        trainer(tmp_path / "run", online=online(url), policy=lora_policy(), **fast).train()
    assert len(double.adapters) > 1


@pytest.mark.slow
@pytest.mark.parametrize("double", [lambda: VllmDouble(lora_policy(seed=3)), lambda: VllmDouble(is_raw=True)])
def test_another_model_or_temperature_ends_the_run_before_a_step(double: Any, tmp_path: Path) -> None:
    with double().running() as url:
        own = online(url, temperature=0.5)
        with pytest.raises(TrainingError, match=r"differ by .* serves /models/tiny: start it with the model"):
            trainer(tmp_path / "run", lora_policy(), online=own).train()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_server_that_dies_ends_the_run_with_its_name_and_another_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_steps": 4, "save_steps": 1, "reward": "length:20 characters"}
    with VllmDouble(dies_after=9).running() as url, pytest.raises(ServiceError, match=f"{url}/v1/completions: "):
        trainer(tmp_path / "run", lora_policy(), online=online(url), **settings).train()
    policy = lora_policy()
    with VllmDouble().running() as url:  # at another address
        trainer(tmp_path / "run", policy, online=online(url), resume=True, **settings).train()
    whole = lora_policy()
    with VllmDouble().running() as url:
        trainer(tmp_path / "whole", whole, online=online(url), **settings).train()
    assert same(weights(policy), weights(whole), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("double", "error"),
    [
        (VllmDouble(takes_adapters=False, policy=lora_policy()), "takes no adapters; start it with --enable-lora"),
        (VllmDouble(finish="abort", policy=lora_policy()), r"ended by the server \(abort\)"),
        (VllmDouble(context=8, policy=lora_policy()), "max_new_tokens=8 leaves no room for a prompt"),
    ],
)
def test_what_a_server_refuses_is_told(double: VllmDouble, error: str, tmp_path: Path) -> None:
    with double.running() as url, pytest.raises(LikelierError, match=error):
        trainer(tmp_path / "run", lora_policy(), online=online(url)).train()


@pytest.mark.slow
def test_a_server_that_is_not_there_or_too_slow_is_named(tmp_path: Path) -> None:
    with serving(lambda handler, content: None) as url:
        gone = url.removesuffix("/score")
    with pytest.raises(ServiceError, match=rf"{gone}/v1/models: ConnectionRefusedError"):
        trainer(tmp_path / "run", lora_policy(), online=online(gone))
    with VllmDouble(slow=2.0).running() as url, pytest.raises(ServiceError, match=r"no answer within 0.2 seconds"):
        trainer(tmp_path / "run", lora_policy(), online=online(url, sampler_timeout=0.2)).train()


@pytest.mark.slow
def test_another_kind_of_server_is_refused(tmp_path: Path) -> None:
    with serving(lambda handler, content: reply(handler, {"hello": 1})) as url, pytest.raises(ServiceError) as error:
        VllmServer(url)
    assert "a vLLM server names its model there; it answered {'hello': 1}" in str(error.value)


@pytest.mark.slow
def test_a_whole_model_cannot_be_followed(tmp_path: Path) -> None:
    with VllmDouble().running() as url, pytest.raises(ConfigError, match="give lora_r=16, or sampler=local"):
        trainer(tmp_path / "run", tiny_policy(), online=online(url))


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"sampler": "vllm"}, "sampler=vllm needs a server"),
        ({"sampler_url": "http://127.0.0.1:1"}, "sampler_url has no effect with sampler=local"),
        ({"sampler_timeout": 3.0}, "sampler_timeout has no effect with sampler=local"),
        ({"sampler": "vllm", "sampler_url": "nowhere"}, "is no address of a server"),
        ({"sampler": "vllm", "sampler_url": "http://127.0.0.1:1", "sampler_timeout": 0.0}, "must be above 0"),
    ],
)
def test_options_that_do_not_go_together(given: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        online_options(**given)


@pytest.mark.slow
def test_a_version_is_loaded_once_and_the_old_one_is_taken_away(tmp_path: Path) -> None:
    double = VllmDouble()
    with double.running() as url:
        sampler = served(f"{url}/v1/", tmp_path)
        sampler.sample(PROMPTS, 2, KEYS)
        first = list(double.loaded)
        sampler.at(Sampling(3, seed=5)).sample(PROMPTS, 2, KEYS)
        assert double.loaded == first and len(first) == 1
        moved(sampler.served.policy)
        sampler.sample(PROMPTS, 2, KEYS)
        assert double.loaded != first and len(double.loaded) == 1
        assert [file.name for file in (tmp_path / "sampler").iterdir()] == double.loaded
        sampler.close()
        assert not double.loaded and not (tmp_path / "sampler").exists()


@pytest.mark.slow
def test_the_answers_are_the_policys(tmp_path: Path) -> None:
    """In order, with the ends that the policy has and everything said that a server would fill in."""
    double, policy = VllmDouble(), lora_policy()
    moved(policy)
    told: list[tuple[int, int]] = []
    with double.running() as url:
        sampler = served(url, tmp_path, policy, seed=3)
        found = sampler.sample(PROMPTS, 3, KEYS, lambda whole, tokens: told.append((whole, tokens)))
        again = sampler.sample(list(reversed(PROMPTS)), 3, list(reversed(KEYS)))
        prove(sampler, PROMPTS[0])
    assert [len(own) for own in found] == [3, 3] and sum(whole for whole, _ in told) == 6
    assert [one.ids.tolist() for own in found for one in own] == [
        one.ids.tolist() for own in reversed(again) for one in own
    ]
    asked = double.requests[0]
    assert asked["ignore_eos"] and asked["stop_token_ids"] == [2]
    assert (asked["top_p"], asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (1.0, 0, 0.0, 1.0)
    assert len({request["seed"] for request in double.requests[:2]}) == 2


@pytest.mark.slow
def test_another_model_is_found_out_before_answers_are_written(tmp_path: Path) -> None:
    double = VllmDouble(lora_policy(seed=4))
    with double.running() as url, pytest.raises(ModelError, match=r"tiny and what .* serves differ by"):
        prove(served(url, tmp_path), PROMPTS[0])


@pytest.mark.slow
def test_a_cut_distribution_has_no_log_probabilities_of_the_policy(tmp_path: Path) -> None:
    with VllmDouble().running() as url:
        found = served(url, tmp_path, top_p=0.9).sample(PROMPTS, 2, KEYS)
    assert all(np.isnan(one.logps).all() and len(one.logps) == len(one.ids) for own in found for one in own)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("choice", "error"),
    [
        ({"token_ids": [3], "finish_reason": "stop"}, "without token_ids or logprobs"),
        ({"logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "stop"}, "without token_ids or logprobs"),
        ({"token_ids": [3, 4], "logprobs": {"token_logprobs": [-1.0]}}, "2 tokens with 1 log-probabilities"),
        ({"token_ids": [3] * 9, "logprobs": {"token_logprobs": [-1.0] * 9}}, "6 at most were asked for"),
        (None, "1 answers were asked for"),
    ],
)
def test_a_malformed_answer_is_refused(choice: dict[str, Any] | None, error: str) -> None:
    def answer(handler: Any, content: Any) -> None:
        if content is None:
            reply(handler, {"data": [{"id": "policy"}]})
        else:
            reply(handler, {"choices": [] if choice is None else [choice]})

    with serving(answer) as url, pytest.raises(ServiceError, match=error):
        VllmServer(url).complete("policy", PROMPTS[0], 1, 0, Sampling(6), [2])
