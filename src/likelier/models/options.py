"""Options about the policy: its adapter, and what its numbers are kept in."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from likelier.data.options import option
from likelier.utils.errors import ConfigError

Dtype = Literal["auto", "float32", "bfloat16", "pure-bfloat16"]

_LARGEST_RANK = 2**16  # far above the width of any matrix that is adapted


@dataclass(frozen=True)
class LoraOptions:
    """A low-rank adapter; without `lora_r` all weights are trained."""

    lora_r: int | None = option(None, "rank of a LoRA adapter; without it all weights are trained")
    lora_alpha: float | None = option(None, "LoRA scaling (default: twice the rank)")
    lora_dropout: float | None = option(None, "LoRA dropout (default: 0)")
    lora_targets: str | None = option(None, "module names, comma-separated, or all-linear (default)")
    load_in_4bit: bool = option(False, "quantize the base to 4 bits (QLoRA; needs --lora-r, CUDA and bitsandbytes)")

    def __post_init__(self) -> None:
        if self.lora_r is None:
            for name in ("lora_alpha", "lora_dropout", "lora_targets", "load_in_4bit"):
                if getattr(self, name) is not None and getattr(self, name) is not False:
                    raise ConfigError(
                        f"{name}={getattr(self, name)!r} has no effect without lora_r; give lora_r as well"
                    )
        elif not 1 <= self.lora_r <= _LARGEST_RANK:
            raise ConfigError(
                f"lora_r={self.lora_r} is out of range; it must be a whole number from 1 to {_LARGEST_RANK:,}"
            )
        if self.lora_dropout is not None and not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout={self.lora_dropout} is out of range; it must lie in [0, 1)")
        if self.lora_alpha is not None and not self.lora_alpha > 0:
            raise ConfigError(f"lora_alpha={self.lora_alpha} is out of range; it must be above 0")

    @property
    def filled(self) -> dict[str, Any]:
        """Every option by its name, defaults filled in and targets in order; all None without an adapter."""
        if self.lora_r is None:
            return dict.fromkeys(item.name for item in fields(self))
        return {
            "lora_r": self.lora_r,
            "lora_alpha": 2 * self.lora_r if self.lora_alpha is None else self.lora_alpha,
            "lora_dropout": self.lora_dropout or 0.0,
            "lora_targets": ",".join(sorted((self.lora_targets or "all-linear").split(","))),
            "load_in_4bit": self.load_in_4bit,
        }
