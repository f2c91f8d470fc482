"""Best of n by implicit reward: several answers to one question, ordered by how much training made each likelier.

    python examples/score_answers.py RUN "A question?" [N]

RUN is a run folder of `likelier train`, of a method with a reference. The answers are drawn from its policy. The reward
of an answer is beta * (log p(answer) under the policy - log p(answer) under the reference that the run recorded).
"""

import sys

import torch

from likelier import load_policy, load_preferences
from likelier.data.records import Message
from likelier.data.tokenize import tokenize_records
from likelier.models.generation import Decoding, prompt_ids, write_answers
from likelier.scoring import attach_scorer, collate
from likelier.scoring.restore import card_of, final_model, reference_for


def main(run: str, question: str, count: int = 4) -> None:
    run = final_model(run)  # of a run in stages the last one
    card, policy = card_of(run), load_policy(run)
    if not card.reward_scale:
        sys.exit(f"{run} records no reward scale: it was not trained by a method with a reference")
    asked = prompt_ids(policy, (Message("user", question),))
    drawn = write_answers(policy.model, policy.tokenizer, [asked] * count, Decoding(64, temperature=0.7))
    answers = sorted({answer.text.strip() for answer in drawn} - {""})
    if not answers:
        sys.exit("the policy wrote empty answers only")
    rows = [
        {"prompt": [{"role": "user", "content": question}], "completion": answer, "label": True}  # no thumb is meant
        for answer in answers
    ]
    groups = tokenize_records(load_preferences(rows).train, policy.tokenizer, max_length=2048).groups
    attach_scorer(policy.model, autocast=policy.autocast, groups=groups)
    reference = reference_for(run, None, card, policy, "auto", groups)
    batch = collate(groups)
    with torch.no_grad():
        logps = policy.model(batch=batch).logps
        with reference.use() as model:
            ref_logps = model(batch=batch).logps
    rewards = (card.reward_scale * (logps - ref_logps)).tolist()
    for reward, answer in sorted(zip(rewards, answers, strict=True), reverse=True):
        print(f"{reward:+.3f}  {' '.join(answer.split())}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:3], *map(int, sys.argv[3:4]))
