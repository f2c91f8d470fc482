"""What a run tells of itself while it is at work: no part of it that can take long is without a name and a count."""

from __future__ import annotations

import pytest
import torch

from likelier import DPO, PreferenceTrainer
from tests.helpers.phases import RecordedPhases, recorded_phases
from tests.helpers.support import chat_pairs, lora_policy

NEW_TOKENS, PROMPTS = 6, 4


@pytest.fixture(scope="module")
def phases(tmp_path_factory: pytest.TempPathFactory) -> RecordedPhases:
    folder = tmp_path_factory.mktemp("phases")
    with pytest.MonkeyPatch.context() as patch:
        found = recorded_phases(patch)
        PreferenceTrainer(
            lora_policy(dtype=torch.float32),
            DPO(),
            chat_pairs(24),
            eval_data=chat_pairs(10, seed=1),
            output_dir=folder / "run",
            reference_store=str(folder / "store"),  # one that knows no score yet
            batch_size=8,
            eval_steps=2,
            eval_new_tokens=NEW_TOKENS,
            eval_prompts=PROMPTS,
            judge=lambda prompts, answers: [float(len(answer)) for answer in answers],
        ).train()
    return found


@pytest.mark.slow
def test_every_part_of_a_run_that_can_take_long_is_a_phase(phases: RecordedPhases) -> None:
    named = list(dict.fromkeys(phase.words for phase in phases.seen))
    for words in (
        "preparing the rows",
        "trying the scorer on the longest rows",
        "auditing the rows",
        "hashing the weights, in tensors",
        "scoring the reference",
        "proving the reference on a sample",
        "evaluating",
        f"the judge reads {PROMPTS} answers",
        "looking at the telling rows, token by token",
        "saving the model",
    ):
        assert words in named, f"{words} is none of {named}"


@pytest.mark.slow
def test_what_is_counted_is_counted_to_its_end(phases: RecordedPhases) -> None:
    counted = [phase for phase in phases.seen if phase.total]
    assert [phase for phase in counted if phase.done != phase.total] == []
    answers = phases.of(f"writing {PROMPTS} answers, in tokens")
    assert len(answers) == 5 and {phase.total for phase in answers} == {PROMPTS * NEW_TOKENS}
    assert {phase.total for phase in phases.of("scoring what was written")} == {PROMPTS}
    assert [phase.total for phase in phases.of("proving the reference on a sample")] == [8 + 8]
