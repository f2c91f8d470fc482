"""One preference pair from text to gradient, in eight parts that docs/from-math-to-code.md explains.

`python examples/follow_one_pair.py [MODEL]`, where MODEL is a hub id or a folder, or else the built-in small model.
"""

import sys

import torch

from likelier import load_policy, load_preferences
from likelier.data.tokenize import tokenize_records
from likelier.objectives.losses import dpo_loss
from likelier.scoring import collate, score_plain

BETA, LEARNING_RATE, STEPS = 0.1, 1e-6, 6
ROW = {
    "prompt": [{"role": "user", "content": "Goldfish forget everything after three seconds, don't they?"}],
    "chosen": [{"role": "assistant", "content": "No, that's a myth."}],
    "rejected": [{"role": "assistant", "content": "Yes, that's right."}],
}


def follow(name: str = "demo") -> None:
    policy = load_policy(name, dtype="float32")
    group = tokenize_records(load_preferences([ROW]).train, policy.tokenizer, max_length=512).groups[0]
    batch = collate([group])
    print(f"1. data: a prompt of {len(group.prompt)} tokens; the answers' tokens:")
    for answer in group.answers:
        print("  ", [policy.tokenizer.decode([token]) for token in answer.tolist()])
    scores = score_plain(policy.model, batch)
    print("2. their log-probabilities in nats, and the sums:")
    for tokens, total in zip(scores.token_logps.split(scores.lengths.tolist()), scores.logps, strict=True):
        print("  ", " ".join(f"{value:.3f}" for value in tokens.tolist()), f" sum {total:.4f}")
    reference = scores.logps.detach()  # scored once, kept as two numbers
    print(f"3. reference: the policy before training: {reference[0]:.4f} and {reference[1]:.4f}")
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(STEPS):
        scores = score_plain(policy.model, batch)
        chosen, rejected = scores.logps - reference
        logit = BETA * (chosen - rejected)
        loss = dpo_loss(chosen, rejected, beta=BETA)
        up, down = torch.autograd.grad(loss, scores.logps, retain_graph=True)[0]
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)  # the norm before it is clipped
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            print(f"4. log-ratios: chosen {chosen:+.4f}, rejected {rejected:+.4f}")
            print(f"5. logit: {BETA} x ({chosen:+.4f} - {rejected:+.4f}) = {logit:+.4f}")
            print(f"6. loss: -log sigmoid({logit:+.4f}) = {loss:.4f}")
            print(f"   gradient: {up:+.4f} by the chosen, {down:+.4f} by the rejected; over all weights {norm:.4f}")
            print(f"7. step: the norm is clipped to 1, AdamW, learning rate {LEARNING_RATE:g}\n8. loop:")
        ratios = f"log-ratios {chosen:+.4f} {rejected:+.4f}"
        print(f"   {step}: {ratios}, logit {logit:+.4f}, loss {loss:.4f}, weight {down / BETA:.4f}")


if __name__ == "__main__":
    follow(*sys.argv[1:2])
