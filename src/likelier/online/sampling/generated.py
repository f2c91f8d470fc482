"""For models that cannot share a prompt between answers (state-space layers, biases by distance): transformers' own
`generate`, one prompt at a time, whose tokens are drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from likelier.models.generation import only_ours
from likelier.models.layers import causal_model, frozen
from likelier.models.policy import Policy
from likelier.online.sampling.protocol import Report, Sampled, Sampling
from likelier.online.sampling.writing import Answer, Writer, begun, require_known_tokens


class GeneratingSampler:
    """Draws from `policy` as it is at that moment. All answers to a prompt are written together, without padding, each
    with a copy of the prompt, and as long as the longest of them.
    """

    def __init__(self, policy: Policy, sampling: Sampling) -> None:
        self.policy, self.sampling = policy, sampling
        self.writer = Writer(policy, sampling)

    def at(self, sampling: Sampling) -> GeneratingSampler:
        """See `Sampler.at`."""
        return GeneratingSampler(self.policy, sampling)

    def close(self) -> None:
        """See `Sampler.close`: it holds nothing."""

    def sample(
        self, prompts: Sequence[np.ndarray], answers: int, keys: Sequence[str], report: Report | None = None
    ) -> list[list[Sampled]]:
        """See `Sampler.sample`."""
        if not prompts:
            return []
        require_known_tokens(self.policy, prompts)
        pairs = zip(prompts, keys, strict=True)
        return [self._to(prompt, begun(self.sampling, key, answers), report) for prompt, key in pairs]

    def _to(self, prompt: np.ndarray, answers: list[Answer], report: Report | None) -> list[Sampled]:
        """The answers to one prompt."""
        from transformers import GenerationConfig
        from transformers.generation.logits_process import LogitsProcessorList
        from transformers.generation.stopping_criteria import StoppingCriteriaList

        model: Any = self.policy.model
        ids = torch.from_numpy(np.asarray(prompt, dtype=np.int64)).to(model.device).expand(len(answers), -1)

        def drawn(given: Tensor, logits: Tensor) -> Tensor:
            """Logits, which come in fp32, with which the likeliest token is the one that is drawn."""
            left = [number for number, answer in enumerate(answers) if answer.ended is None]
            tokens = self.writer.write([answers[number] for number in left], logits[left])
            if report is not None:
                report(sum(answers[number].ended is not None for number in left), len(left))
            chosen = torch.zeros(len(answers), dtype=torch.long, device=logits.device)
            chosen[left] = tokens
            return torch.full_like(logits, -torch.inf).scatter(1, chosen[:, None], 0.0)

        def over(given: Tensor, scores: Any, **more: Any) -> Tensor:
            return torch.tensor([answer.ended is not None for answer in answers], device=given.device)

        autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=self.policy.autocast)
        with (
            frozen(model),
            only_ours(causal_model(model)),
            torch.compiler.set_stance("force_eager"),  # every length would be compiled anew
            autocast,
        ):
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                generation_config=GenerationConfig(
                    max_new_tokens=self.sampling.max_new_tokens, do_sample=False, use_cache=True, pad_token_id=0
                ),
                logits_processor=LogitsProcessorList([drawn]),
                stopping_criteria=StoppingCriteriaList([over]),
            )
        return [answer.sampled() for answer in answers]
