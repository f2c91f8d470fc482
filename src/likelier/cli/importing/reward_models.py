"""Reward models of the other tools: the same loss in all of them, on a head that is put on, or kept, otherwise."""

from __future__ import annotations

from likelier.cli.importing.common import Draft

_MARGIN = "a column margin is subtracted there wherever the data have one; here with --use-margins column"
_HEAD = (
    "the score is a value head with a bias and dropout there, which is kept beside the model; here it is that of an "
    "ordinary sequence classifier, without a bias"
)


def is_of_trl(draft: Draft) -> bool:
    """Whether a file of TRL is for its RewardTrainer: it alone has this option, and that kind of adapter."""
    return "center_rewards_coefficient" in draft.values or draft.values.get("lora_task_type") == "SEQ_CLS"


def of_trl(draft: Draft) -> None:
    """The method of a file for TRL's RewardTrainer, and of those who train with it."""
    draft.put("method", "reward")
    centre = draft.number("center_rewards_coefficient")
    if centre:
        draft.put("center_weight", centre)
    draft.note("differs", (), _MARGIN)
    _known_of_adapters(draft)


def of_llama_factory(draft: Draft) -> None:
    """`stage: rm`."""
    draft.put("method", "reward")
    draft.note("differs", ["stage"], _HEAD)


def _known_of_adapters(draft: Draft) -> None:
    """What an adapter of a classifier has anyway."""
    if draft.values.get("lora_task_type") == "SEQ_CLS":
        draft.translated.add("lora_task_type")
    modules = draft.values.get("lora_modules_to_save")
    if modules and set(modules if isinstance(modules, list) else [modules]) <= {"score"}:
        draft.note("decided", ["lora_modules_to_save"], "the head of a reward model is trained and saved in any case")
