"""LoRA adapters and arithmetic, which all three tools describe in nearly the same words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

from likelier.cli.importing.common import Draft, as_names

NAMES_ITS_BASE = "the model to start from is the adapter; it names its base"


def rank_and_scale(draft: Draft, *, rank: int, alpha: float, alpha_key: str, rank_stabilized: str) -> None:
    """LoRA's rank and strength; the scale alpha / sqrt(r) is written as an alpha of ours, which is divided by r."""
    if not 1 <= rank < 2**31:
        raise draft.error(f"the rank of the adapter is {rank}; it must be at least 1")
    draft.put("lora_r", rank)
    if draft.take(rank_stabilized):
        ours = round(alpha * sqrt(rank), 6)
        text = f"the scale alpha / sqrt(r) is {ours:g} / r, so lora_alpha {alpha:g} became {ours:g}"
        draft.note("differs", [rank_stabilized, alpha_key], text)
        alpha = ours
    draft.put("lora_alpha", alpha)


def unused(draft: Draft, keys: Iterable[str], *, unless: str) -> None:
    """Options of an adapter where there is none."""
    without_effect = _in_use(draft, keys)
    if without_effect:
        text = f"without {unless} it has no effect there either; all weights are trained"
        draft.note("left out", without_effect, text)


def going_on(draft: Draft, keys: Iterable[str]) -> None:
    """Options of a new adapter where training goes on from one."""
    without_effect = _in_use(draft, keys)
    if without_effect:
        draft.note("decided", without_effect, "training goes on from an adapter, which brings its own settings")


def _in_use(draft: Draft, keys: Iterable[str]) -> list[str]:
    found = [key for key in keys if draft.values.get(key) not in (None, False)]
    draft.off([key for key in keys if key not in found])
    return found


def targets(draft: Draft, key: str, everything: Sequence[str] = ("all-linear",)) -> None:
    """The modules that get an adapter."""
    named = draft.take(key)
    draft.put("lora_targets", "all-linear")
    if not named:
        draft.put_default("lora_targets", "q_proj,v_proj")
        text = "no module is named there, and PEFT then adapts q_proj and v_proj (Llama, Qwen, Mistral, Gemma; others"
        draft.note("differs", (), f"lora_targets: {text} have names of their own). The default here is all-linear")
    elif isinstance(named, str) and set(named) & set("*|\\(^$["):
        draft.note("differs", [key], "patterns are not known here; all linear modules get an adapter")
    elif named not in everything:
        draft.put("lora_targets", as_names(draft, key, named).replace(" ", ""))


def dropout(draft: Draft, *, switched_off: bool, default: float) -> None:
    """LoRA's dropout: TRL's disable_dropout switches it off as well."""
    if not switched_off:
        draft.put_or_default("lora_dropout", draft.number("lora_dropout"), default)
    elif draft.number("lora_dropout"):
        text = "dropout is switched off in the whole model there, LoRA's too, so it is 0 here"
        draft.note("left out", ["lora_dropout"], text)


def precision(draft: Draft, *, bfloat16: bool | None, half: Sequence[str], narrow: Sequence[str]) -> None:
    """Arithmetic and weights: `half` are the options that ask for float16, `narrow` those for weights in 16 bits."""
    if half:
        draft.put("dtype", "bfloat16")
        draft.note("differs", half, "float16 is not known here; bfloat16 was taken")
    elif bfloat16 is not None:
        draft.put("dtype", "bfloat16" if bfloat16 else "float32")
    if narrow and "lora_r" not in draft.options:
        text = "trained weights stay in float32 here, where small updates are not lost, and only arithmetic is bfloat16"
        draft.note("differs", narrow, f"{text}; dtype: pure-bfloat16 keeps weights in 16 bits too")
