"""What `accelerate launch` asks for in the environment, said in our options: its own engines would run beside ours."""

from __future__ import annotations

import os
from dataclasses import replace

from likelier.training.options import TrainingOptions
from likelier.utils.errors import ConfigError

_FSDP = "ACCELERATE_USE_FSDP"
_TAKEN_OVER = "LIKELIER_SHARDS"
_PRECISION = "ACCELERATE_MIXED_PRECISION"
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed is not supported; take FSDP2 (shard), or DDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM is not supported; take FSDP2 (shard), or DDP",
}
_OF_FSDP = {
    "FSDP_OFFLOAD_PARAMS": "fsdp_offload_params is not supported: set it to false; --lora-r takes far less memory",
    "FSDP_ACTIVATION_CHECKPOINTING": "set fsdp_activation_checkpointing to false, and take --activation-checkpointing",
}


def with_launcher(options: TrainingOptions) -> TrainingOptions:
    """The options with what accelerate's config asks for: FSDP2 is `shard`. Accelerate itself is told nothing of it.

    Raises `ConfigError` for what runs here in another way, or not at all.
    """
    for name, words in _REFUSED.items():
        if _is_set(name):
            raise ConfigError(f"accelerate's config: {words}")
    if _is_set(_TAKEN_OVER):
        return replace(options, shard=True)
    if not _is_set(_FSDP):
        return options
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(f"accelerate's config: fsdp_version is {version}; only 2 is supported")
    for name, words in _OF_FSDP.items():
        if _is_set(name):
            raise ConfigError(f"accelerate's config: {words}")
    os.environ[_TAKEN_OVER] = os.environ.pop(_FSDP)  # for the stages to come
    return replace(options, shard=True)


def take_over_precision(autocast: bool) -> None:
    """Make accelerate leave the arithmetic alone, which the policy's `dtype` decides (`autocast`: to bfloat16).

    Raises `ConfigError` where its config asks for another one.
    """
    asked = os.environ.get(_PRECISION)
    if asked is None:
        return
    own = "bf16" if autocast else "no"
    if asked not in ("no", own):
        mend = "set mixed_precision to no, or give --dtype bfloat16" if asked == "bf16" else "set it to no, or to bf16"
        raise ConfigError(f"accelerate's config: mixed_precision is {asked}, and this run computes otherwise; {mend}")
    os.environ[_PRECISION] = "no"


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")
