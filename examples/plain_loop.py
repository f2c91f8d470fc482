"""The whole idea in one plain loop: sequence log-probs, log-ratios, loss, step, repeat.

    python examples/plain_loop.py MODEL PAIRS.jsonl [BETA] [LEARNING_RATE] [STEPS]

It knows no padding, no micro-batches, no store and no trainer: every answer is one row, and the reference is a second
model. A test holds `PreferenceTrainer` equal to it, parameter by parameter. Only the pure losses come from likelier.
"""

import copy
import json
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from likelier.objectives.losses import dpo_loss


@dataclass
class TokenPair:
    """Token ids of a prompt and of the chosen and the rejected answer."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def tokenize_pair(tokenizer, row: dict) -> TokenPair:
    """Prompt and prompt + answer through the chat template; the answer is what comes after the generation prompt."""

    def ids(messages: list[dict], **more: bool) -> list[int]:
        return tokenizer.apply_chat_template(messages, return_dict=True, **more)["input_ids"]

    prompt = ids(row["prompt"], add_generation_prompt=True)
    chosen, rejected = (ids(row["prompt"] + row[side])[len(prompt) :] for side in ("chosen", "rejected"))
    return TokenPair(prompt, chosen, rejected)


def sequence_logp(model, prompt: list[int], answer: list[int]) -> Tensor:
    """log p(answer | prompt): the log-probabilities of the answer's tokens, summed. Prompt tokens do not count."""
    ids = torch.tensor([prompt + answer])
    logits = model(input_ids=ids).logits[0, :-1]  # the logits at a place predict the next token
    logps = torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None]).squeeze(1)
    return logps[len(prompt) - 1 :].sum()


def pair_loss(model, reference, pair: TokenPair, beta: float) -> Tensor:
    """DPO for one pair: how much likelier than the reference is the chosen answer, against the rejected one?"""
    ratios = []
    for answer in (pair.chosen, pair.rejected):
        with torch.no_grad():
            ref_logp = sequence_logp(reference, pair.prompt, answer)
        ratios.append(sequence_logp(model, pair.prompt, answer) - ref_logp)
    return dpo_loss(ratios[0], ratios[1], beta=beta)


def train(model, steps: list[list[TokenPair]], *, beta: float, learning_rate: float, max_grad_norm: float = 1.0):
    """One optimizer step for each list of pairs, at a constant learning rate. Returns the losses."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    losses = []
    for pairs in steps:
        total = 0.0
        for pair in pairs:
            loss = pair_loss(model, reference, pair, beta) / len(pairs)  # the mean over the pairs of the step
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def main(model_name: str, file: str, beta: float = 0.1, learning_rate: float = 1e-6, count: int = 10) -> None:
    """Train on the file's pairs in order, eight a step, and print each step's loss (the first is ln 2 = 0.6931)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=torch.float32).train()
    with open(file, encoding="utf-8") as stream:
        pairs = [tokenize_pair(tokenizer, json.loads(line)) for line in stream]
    steps = [pairs[start : start + 8] for start in range(0, len(pairs), 8)][:count]
    for number, loss in enumerate(train(model, steps, beta=beta, learning_rate=learning_rate), 1):
        print(f"step {number}: loss {loss:.4f}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], *map(float, sys.argv[3:5]), *map(int, sys.argv[5:6]))
