"""The sampler against a real vLLM server with the demo model: `make test-vllm`, or LIKELIER_VLLM=/path/to/vllm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likelier.models.adapter_copies import without_adapter
from likelier.models.loading import demo_model_folder
from likelier.models.policy import Policy, load_policy
from likelier.online.answers.sample import Asking, sample_file
from likelier.online.sampling import Sampled, Sampling, ServedPolicy, VllmSampler, VllmServer
from likelier.online.sampling.proof import prove, token_logps
from likelier.scoring import attach_scorer
from likelier.utils.errors import ModelError, TrainingError
from likelier.utils.service import ServiceError, get_json
from tests.helpers.services import allow_this_machine
from tests.helpers.small_runs import write_rows

VLLM = os.environ.get("LIKELIER_VLLM")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not VLLM, reason="no vLLM is named (LIKELIER_VLLM)")]
QUESTIONS = ["Name a colour.", "What do bees make?", "Which animal barks?", "Where do fish live?"]
OPTIONS: dict[str, Any] = {
    "method": "grpo",
    "model": "demo",
    "data": "prompts.jsonl",
    "reward": "length:10",
    "max-new-tokens": 16,
    "answers-per-prompt": 4,
    "batch-size": 2,
    "lora-r": 8,
    "learning-rate": 3e-3,
    "scheduler": "constant",
    "sampler": "vllm",
}


@dataclass
class Running:
    """A server that was started here."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def serve(folder: Path, port: int, *more: str) -> Iterator[Running]:
    """One with the demo model, once it answers."""
    environment = os.environ | {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    words = ["--served-model-name", "policy", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024"]
    words += ["--dtype", "float32", "--enforce-eager", "--enable-lora", "--max-lora-rank", "64", *more]
    with open(folder / f"server-{port}.log", "wb") as log:
        command = [str(VLLM), "serve", str(demo_model_folder()), *words]
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _await(url, process, folder / f"server-{port}.log")
            yield Running(url, process)
        finally:
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """A server and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            get_json(f"{url}/v1/models", timeout=5, tries=1)
            return
        except ServiceError:
            time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


@pytest.fixture(autouse=True)
def _this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    allow_this_machine(monkeypatch)
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": [{"role": "user", "content": one}]} for one in QUESTIONS])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    # The module's server is awaited before the first test allows connections.
    with pytest.MonkeyPatch.context() as patch:
        allow_this_machine(patch)
        folder = tmp_path_factory.mktemp("server")
        with serve(folder, 8171, "--logprobs-mode", "processed_logprobs") as running:
            yield running


def trained(url: str, output: str, **more: Any) -> subprocess.Popen[str]:
    """A run of its own process, which has begun."""
    options = OPTIONS | {"max-steps": 3, "sampler-url": url, "output": output} | more
    words = [word for name, value in options.items() for word in (f"--{name}", str(value)) if value is not None]
    words = [word for word in words if word != "True"]
    return subprocess.Popen(
        [sys.executable, "-m", "likelier", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps(output: str) -> list[dict[str, Any]]:
    file = Path(output) / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().split("\n") if line] if file.exists() else []
    return [line for line in lines if "loss" in line]


def sampler_of(policy: Policy, url: str, **sampling: Any) -> VllmSampler:
    attach_scorer(policy.model)
    return VllmSampler(ServedPolicy(policy, VllmServer(url), Path("sampler")), Sampling(16, **sampling))


def prompts(policy: Policy) -> list[np.ndarray]:
    render = policy.tokenizer.apply_chat_template
    texts = [
        render([{"role": "user", "content": one}], tokenize=False, add_generation_prompt=True) for one in QUESTIONS
    ]
    return [np.array(policy.tokenizer(text)["input_ids"], dtype=np.int32) for text in texts]


def test_sample_and_reward(server: Running) -> None:
    told = sample_file(
        "demo",
        Asking("prompts.jsonl"),
        "answers.jsonl",
        answers=4,
        sampling=Sampling(16, 0.7, stop=("!",)),
        rewards=["length:10"],
        server=VllmServer(server.url),
    )
    rows = [json.loads(line) for line in Path("answers.jsonl").read_text().split("\n") if line]
    assert len(rows) == 16 and "reward length" in told
    policy = load_policy("demo")
    attach_scorer(policy.model)
    asked = dict(zip(QUESTIONS, prompts(policy), strict=True))
    for row in rows:
        answer = Sampled(np.array(row["completion_ids"], dtype=np.int32), np.array(row["logps"]), row["stop_reason"])
        own = token_logps(policy, asked[row["prompt"][0]["content"]], [answer], 0.7)
        assert np.abs(own - answer.logps).mean() < 0.005
        assert (row["stop_reason"] == "stop") == ("!" in row["completion"][0]["content"])
    assert len({tuple(row["completion_ids"]) for row in rows}) > 8


def test_three_steps_and_the_server_follows(server: Running) -> None:
    run = trained(server.url, "run")
    told, _ = run.communicate(timeout=900)
    assert run.returncode == 0, told
    assert "sampler: its log-probabilities are the scorer's within" in told
    found = steps("run")
    assert len(found) == 3 and all(line["sampler/max_diff"] < 0.02 for line in found)
    assert [one["id"] for one in get_json(f"{server.url}/v1/models", timeout=5)["data"]] == ["policy"]
    policy = load_policy("run")
    sampler = sampler_of(policy, server.url)
    asked = prompts(policy)
    answers = sampler.sample(asked, 4, QUESTIONS)
    now = [np.abs(token_logps(policy, *both, 1.0) - _said(both[1])).mean() for both in zip(asked, answers, strict=True)]
    with without_adapter(policy.model):
        pairs = zip(asked, answers, strict=True)
        before = [np.abs(token_logps(policy, *both, 1.0) - _said(both[1])).mean() for both in pairs]
    sampler.close()
    print(f"the new version is {np.mean(now):.1e} nats a token from the scorer, version 0 {np.mean(before):.2f}")
    assert np.mean(now) < 0.005 and np.mean(before) > 0.2


def _said(answers: Any) -> np.ndarray:
    return np.concatenate([one.logps for one in answers])


def test_a_stale_adapter_makes_the_check_fail(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    from likelier.online.config import parse_online
    from likelier.online.run import train_online

    own, first = ServedPolicy.name, []

    def the_first(served: ServedPolicy) -> str:
        first.append(own(served) if not first else first[0])
        return first[0]

    monkeypatch.setattr(ServedPolicy, "name", the_first)
    config = parse_online(
        OPTIONS | {"max-steps": 4, "sampler-url": server.url, "output": "stale", "reward": ["length:10"]}
    )
    with pytest.raises(TrainingError, match="sampler and scorer differ by"):
        train_online(config)
    assert steps("stale")


def test_a_killed_server_ends_the_run_with_its_name_and_resume_goes_on(tmp_path: Path) -> None:
    more = {"max-steps": 6, "save-steps": 1}
    with serve(tmp_path, 8172, "--logprobs-mode", "processed_logprobs") as running:
        run = trained(running.url, "killed", **more)
        for _ in range(600):
            if len(steps("killed")) >= 2 or run.poll() is not None:
                break
            time.sleep(1)
        kill(running.process)
        told, _ = run.communicate(timeout=300)
    assert run.returncode not in (0, None) and running.url in told, told
    assert "Traceback" not in told, told
    done = len(steps("killed"))
    with serve(tmp_path, 8173, "--logprobs-mode", "processed_logprobs") as running:
        again = trained(running.url, "killed", **more, resume="True")
        told, _ = again.communicate(timeout=900)
    assert again.returncode == 0, told
    assert 2 <= done < 6 and [line["step"] for line in steps("killed")][-1] == 6


def test_the_default_mode_of_log_probabilities_is_found_out(tmp_path: Path) -> None:
    with serve(tmp_path, 8174) as running:
        sampler = sampler_of(load_policy("demo"), running.url, temperature=0.3)
        with pytest.raises(ModelError, match="processed_logprobs"):
            prove(sampler, prompts(sampler.served.policy)[0])
