"""A small language with a model of its own: lines of made-up words, a gold reward that counts, and a tiny Llama that
has read enough of them to write the end of a line whose beginning is given.

A prompt is the first 2 to 8 characters of a line, moved to the right of 8 columns; an answer is what follows, at most
16 characters, whole where it has a full stop. The columns before a prompt hold spaces, so that no mask is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache

from likelier.objectives.scored import SequenceScores

ALPHABET = " .aeioubdgklmnrst"
SPACE, END, VOWELS = 0, 1, slice(2, 7)
ASKED, LENGTH, DIALECTS = 8, 16, 4
HELD_OUT = 32


@dataclass(frozen=True)
class Answers:
    """`prompts` (n, 8) and `tokens` (n, 16); what stands behind a full stop counts for nothing."""

    prompts: Tensor
    tokens: Tensor

    @property
    def ended(self) -> Tensor:
        """(n,) bool: which are whole."""
        return (self.tokens == END).any(1)

    @property
    def lengths(self) -> Tensor:
        """(n,) tokens, the full stop among them."""
        return torch.where(self.ended, (self.tokens == END).int().argmax(1) + 1, LENGTH)

    @property
    def counts(self) -> Tensor:
        """(n, 16) bool: which tokens belong to an answer."""
        return torch.arange(LENGTH) < self.lengths[:, None]

    @property
    def ids(self) -> Tensor:
        """(n, 24)."""
        return torch.cat([self.prompts, self.tokens], 1)

    def at(self, numbers: Tensor) -> Answers:
        """Some of them, in that order."""
        return Answers(self.prompts[numbers], self.tokens[numbers])

    def and_then(self, more: Answers) -> Answers:
        """These and others."""
        return Answers(torch.cat([self.prompts, more.prompts]), torch.cat([self.tokens, more.tokens]))


def lines(count: int, generator: torch.Generator) -> Answers:
    """Lines of the language itself. Each is in one of four dialects, which say what letter follows on which."""
    chances = _dialects()[torch.randint(DIALECTS, (count,), generator=generator)]
    sizes, rows = torch.randint(2, ASKED + 1, (count, 1), generator=generator), torch.arange(count)
    text = torch.zeros(count, ASKED + LENGTH, dtype=torch.long)
    last = text[:, 0]
    for place in range(ASKED + LENGTH):
        now = chances[rows, last].clone()
        now[:, END] *= (place >= sizes[:, 0]) | (last == END)  # no prompt is a whole line
        last = text[:, place] = torch.multinomial(now, 1, generator=generator)[:, 0]
    columns = torch.arange(ASKED) - (ASKED - sizes)
    prompts = text.gather(1, columns.clamp(min=0)).where(columns >= 0, SPACE)
    return Answers(prompts, text.gather(1, sizes + torch.arange(LENGTH)))


@cache
def _dialects() -> Tensor:
    """(4, 17, 17) chances; vowels and consonants take turns, words and lines end behind vowels, and ends stay ends."""
    logits = torch.randn(DIALECTS, 17, 17, generator=torch.Generator().manual_seed(0)) * 1.2
    logits[:, 2:7, 2:7] -= 3
    logits[:, 7:, 7:] -= 3
    logits[:, 7:, :2] -= 4
    logits[:, 2:7, :2] += 1
    logits[:, :, END] -= 0.7
    logits[:, 0, :2] = -torch.inf
    logits[:, END] = torch.where(torch.arange(17) == END, 0.0, -torch.inf)
    return logits.softmax(-1)


def features(answers: Answers) -> Tensor:
    """(n, 8): vowels, letters that the prompt has too, different letters, words, length, whether it is whole, letters
    that stood two places before, and those of the alphabet's second half.
    """
    tokens, counts, prompts = answers.tokens, answers.counts, answers.prompts
    letter = counts & (tokens > END)
    seen = (tokens[:, :, None] == torch.arange(len(ALPHABET))) & letter[:, :, None]
    again = letter[:, 2:] & (tokens[:, 2:] == tokens[:, :-2])
    asked = (tokens[:, :, None] == prompts[:, None]).any(2) & letter
    columns = [(letter & (tokens < VOWELS.stop)).sum(1), asked.sum(1), seen.any(1).sum(1)]
    columns += [(counts & (tokens == SPACE)).sum(1), answers.lengths, answers.ended, again.sum(1)]
    return torch.stack([*columns, (letter & (tokens >= 12)).sum(1)], 1).float()


def token_logps(model: nn.Module, answers: Answers) -> Tensor:
    """(n, 16, 17) log-probabilities of whatever could stand at each place of the answers."""
    logits = model(input_ids=answers.ids[:, :-1]).logits[:, ASKED - 1 :]
    return torch.log_softmax(logits, -1)


def scored(model: nn.Module, answers: Answers) -> SequenceScores:
    """The answers' own tokens."""
    found = token_logps(model, answers).gather(2, answers.tokens[:, :, None])[:, :, 0]
    return SequenceScores.of(found[answers.counts], answers.lengths)


@torch.no_grad()
def divergences(model: nn.Module, reference: nn.Module, answers: Answers) -> Tensor:
    """(n,) nats: over each answer's own states the whole divergence of what could come next. Its mean over answers that
    the model wrote is the divergence from the reference, with less noise than their log-ratios have.
    """
    own, other = token_logps(model, answers), token_logps(reference, answers)
    return ((own.exp() * (own - other)).sum(2) * answers.counts).sum(1)


@torch.no_grad()
def written(model: nn.Module, prompts: Tensor, generator: torch.Generator) -> Answers:
    """One answer to each prompt (n, 8), drawn from the model."""
    past, tokens, now = DynamicCache(), [], prompts
    for _ in range(LENGTH):
        logits = model(input_ids=now, past_key_values=past, use_cache=True).logits[:, -1]
        now = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        tokens.append(now)
    return Answers(prompts, torch.cat(tokens, 1))


class Judge(nn.Module):
    """A model's trunk with a head that has one number a state: a reward model, or a critic."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.head.weight)

    def scores(self, answers: Answers) -> Tensor:
        """(n,): at each answer's last token."""
        return self._all(answers.ids)[torch.arange(len(answers.tokens)), ASKED - 1 + answers.lengths]

    def values(self, answers: Answers) -> SequenceScores:
        """Of the states before the answers' tokens."""
        return SequenceScores.of(self._all(answers.ids[:, :-1])[:, ASKED - 1 :][answers.counts], answers.lengths)

    def _all(self, ids: Tensor) -> Tensor:
        return self.head(self.trunk(input_ids=ids).last_hidden_state)[:, :, 0]


WIDTH = 48


@cache
def reference(steps: int = 1000) -> LlamaForCausalLM:
    """The model that everything begins with: 48,000 parameters, which have read `steps` times 64 lines."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(ALPHABET), num_attention_heads=4, **sizes))
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for _ in range(steps):
        found = scored(model, lines(64, generator))
        optimizer.zero_grad()
        (-found.logps.sum() / found.lengths.sum()).backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)
