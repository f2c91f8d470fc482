"""A vLLM server as its HTTP interface shows it: which models it has, which adapters it takes, what it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from likelier.online.sampling.protocol import Sampled, Sampling, StopReason
from likelier.utils.errors import ConfigError
from likelier.utils.service import ServiceError, asked, get_json, post_json

SECONDS = 600.0  # that the server has for the answers to one prompt, where nobody says otherwise
_FAREWELL = 5.0  # for taking away what is needed no more
_ADAPTERS = "--enable-lora --max-lora-rank 64, and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment"
# Said with every request: what is left open a server takes from the model's generation config.
_WHOLE = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


@dataclass(frozen=True)
class Served:
    """A model that a server has: what it is called there, where it was loaded from, and the tokens that it reads."""

    name: str
    root: str
    context: int | None


def check_seconds(seconds: float | None) -> None:
    """Raises `ConfigError` for what is no time."""
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ConfigError(f"sampler_timeout={seconds} is out of range; it must be above 0, and finite")


class VllmServer:
    """A server at `url`, with or without `/v1`, that has `seconds` for each request. Raises `ServiceError`: it is not
    there, or is none of vLLM's.
    """

    def __init__(self, url: str, seconds: float | None = None) -> None:
        check_seconds(seconds)
        self.url, self.seconds = url.rstrip("/").removesuffix("/v1"), seconds or SECONDS
        self.base = self._base()

    @property
    def mend(self) -> str:
        """For who finds its log-probabilities off: what it was started with, and how it should be."""
        return (
            f". {self.url} serves {self.base.root}: start it with the model that is trained, its --dtype, and "
            "--logprobs-mode processed_logprobs"
        )

    def _base(self) -> Served:
        """The model that the server was started with."""
        url = f"{self.url}/v1/models"
        told = get_json(url, timeout=min(self.seconds, 30.0))
        rows = told.get("data") if isinstance(told, dict) else None
        known = [row for row in rows if isinstance(row, dict) and row.get("id")] if isinstance(rows, list) else []
        own = next((row for row in known if not row.get("parent")), None)
        if own is None:
            raise ServiceError(f"{url}: a vLLM server names its model there; it answered {str(told)[:200]}")
        return Served(str(own["id"]), str(own.get("root") or own["id"]), own.get("max_model_len"))

    def load_adapter(self, name: str, folder: Path) -> None:
        """Have an adapter, which lies where the server can read it, served under a new name."""
        try:
            asked(
                f"{self.url}/v1/load_lora_adapter",
                {"lora_name": name, "lora_path": str(folder.resolve())},
                timeout=self.seconds,
                tries=1,
            )
        except ServiceError as error:
            if error.status == 404 and '"detail"' in str(error):
                raise ServiceError(f"{self.url} takes no adapters; start it with {_ADAPTERS}", 404) from error
            mend = f"the server must be able to read {folder}, and have room for the adapter's rank"
            raise ServiceError(f"{error}; {mend}", error.status) from error

    def unload_adapter(self, name: str) -> None:
        """Serve an adapter no more."""
        asked(f"{self.url}/v1/unload_lora_adapter", {"lora_name": name}, timeout=_FAREWELL, tries=1)

    def complete(
        self, model: str, prompt: np.ndarray, answers: int, seed: int, sampling: Sampling, ends: Sequence[int]
    ) -> list[Sampled]:
        """Answers to one prompt, by the model of that name. The tokens `ends` end one, and no others do."""
        url = f"{self.url}/v1/completions"
        told = post_json(
            url,
            {
                "model": model,
                "prompt": prompt.tolist(),
                "n": answers,
                "seed": seed,
                "max_tokens": sampling.max_new_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "stop": list(sampling.stop),
                "stop_token_ids": list(ends),
                "ignore_eos": True,
                "skip_special_tokens": False,
                "logprobs": 0,
                "return_token_ids": True,
            }
            | _WHOLE,
            timeout=self.seconds,
        )
        rows = told.get("choices") if isinstance(told, dict) else None
        if not isinstance(rows, list) or len(rows) != answers:
            raise ServiceError(f"{url}: {answers} answers were asked for; it answered {json.dumps(told)[:300]}")
        in_order = sorted(rows, key=lambda row: row.get("index", 0))
        return [_sampled(row, url, sampling, frozenset(ends)) for row in in_order]


def _sampled(row: Mapping[str, Any], url: str, sampling: Sampling, ends: frozenset[int]) -> Sampled:
    """An answer from what the server says of it. Raises `ServiceError`."""
    ids, logps = row.get("token_ids"), (row.get("logprobs") or {}).get("token_logprobs")
    if not isinstance(ids, list) or not isinstance(logps, list):
        raise ServiceError(f"{url}: an answer came without token_ids or logprobs; it takes a vLLM of 2026 or later")
    if not ids or len(ids) != len(logps) or len(ids) > sampling.max_new_tokens or None in logps:
        raise ServiceError(
            f"{url}: an answer has {len(ids)} tokens with {len(logps)} log-probabilities, and "
            f"{sampling.max_new_tokens} at most were asked for"
        )
    return Sampled(np.array(ids, dtype=np.int32), np.array(logps, dtype=np.float64), _reason(row, url, ids, ends))


def _reason(row: Mapping[str, Any], url: str, ids: Sequence[int], ends: frozenset[int]) -> StopReason:
    said = row.get("finish_reason")
    if said not in ("stop", "length"):
        raise ServiceError(f"{url}: an answer was ended by the server ({said}), not by the policy")
    if ids[-1] in ends:
        return "eos"
    return "length" if said == "length" else "stop"
