"""A server that speaks as vLLM 0.32 does and writes with a tiny policy: what it was sent, and the faults it is given.

What it says was held against a real server's (tests/online/vllm_recorded.json, `make test-vllm`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from likelier.models.policy import Policy
from likelier.online.sampling import LocalSampler, Sampling
from likelier.scoring import attach_scorer
from tests.helpers.services import reply, serving
from tests.helpers.support import lora_policy


@dataclass
class VllmDouble:
    """`policy` is the base with an adapter that is written over by those that are loaded."""

    policy: Policy = field(default_factory=lora_policy)
    context: int | None = 1024
    takes_adapters: bool = True
    is_stale: bool = False  # the first adapter stays, whatever is loaded
    is_raw: bool = False  # log-probabilities at temperature 1 (--logprobs-mode raw_logprobs, vLLM's default)
    slow: float = 0.0  # seconds before an answer
    dies_after: int | None = None  # requests for answers
    finish: str | None = None  # a reason that is none of the policy's
    adapters: dict[str, dict[str, Any]] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        attach_scorer(self.policy.model)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Its address."""
        with serving(self._answer) as url:
            yield url.removesuffix("/score")

    def _answer(self, handler: BaseHTTPRequestHandler, content: Any) -> None:
        path = handler.path
        if path == "/v1/models":
            reply(handler, {"object": "list", "data": [self._card("policy", None), *map(self._adapter, self.loaded)]})
        elif path.endswith("lora_adapter") and not self.takes_adapters:
            reply(handler, {"detail": "Not Found"}, 404)
        elif path == "/v1/load_lora_adapter":
            self._load(handler, content["lora_name"], Path(content["lora_path"]))
        elif path == "/v1/unload_lora_adapter":
            self.loaded.remove(content["lora_name"])
            reply(handler, b"Success: removed")
        else:
            self._complete(handler, content)

    def _card(self, name: str, parent: str | None) -> dict[str, Any]:
        return {"id": name, "root": "/models/tiny", "parent": parent, "max_model_len": self.context}

    def _adapter(self, name: str) -> dict[str, Any]:
        return {**self._card(name, "policy"), "max_model_len": None}

    def _load(self, handler: BaseHTTPRequestHandler, name: str, folder: Path) -> None:
        if not (folder / "adapter_config.json").exists():
            reply(handler, _error(f"The lora adapter '{name}' with path '{folder}' cannot be found.", 404), 404)
            return
        weights = load_file(folder / "adapter_model.safetensors")
        first = next(iter(self.adapters.values()), weights)
        self.adapters[name] = first if self.is_stale else weights
        self.loaded.append(name)
        reply(handler, f"Success: LoRA adapter '{name}' added successfully.".encode())

    def _complete(self, handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        self.requests.append(asked)
        time.sleep(self.slow)
        if self.dies_after is not None and len(self.requests) > self.dies_after:
            handler.close_connection = True
            handler.connection.close()
            return
        name = asked["model"]
        if name != "policy" and name not in self.loaded:
            reply(handler, _error(f"The model `{name}` does not exist.", 404), 404)
            return
        with self.lock:
            choices = self._choices(asked)
        reply(handler, {"object": "text_completion", "model": name, "choices": choices})

    def _choices(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        if asked["model"] != "policy":
            set_peft_model_state_dict(self.policy.model, self.adapters[asked["model"]])
        sampling = Sampling(
            asked["max_tokens"],
            asked["temperature"],
            asked["seed"] % 2**32,
            asked["top_p"],
            asked["top_k"],
            asked["min_p"],
            tuple(asked["stop"]),
        )
        sampler = LocalSampler(self.policy, sampling)
        sampler.writer.ends = frozenset(asked["stop_token_ids"])
        prompt = np.array(asked["prompt"], dtype=np.int32)
        answers = sampler.sample([prompt], asked["n"], [str(asked["seed"])])[0]
        if self.is_raw:
            scale = asked["temperature"]
            answers = [type(one)(one.ids, one.logps * scale, one.stop) for one in answers]
        return [
            {
                "index": number,
                "text": self.policy.tokenizer.decode(one.ids.tolist()),
                "logprobs": {"token_logprobs": one.logps.tolist()},
                "finish_reason": self.finish or ("length" if one.stop == "length" else "stop"),
                "stop_reason": None,
                "token_ids": one.ids.tolist(),
            }
            for number, one in reversed(list(enumerate(answers)))
        ]


def _error(message: str, status: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "NotFoundError", "param": None, "code": status}}
