"""Load a policy: a hub id, a folder, an adapter, a GGUF file or the demo model; LoRA; dtype for this hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from likelier.data.dates import check_date
from likelier.data.ends import know_ends
from likelier.data.options import ChatOptions
from likelier.data.vocabulary import embedding_rows, require_rows
from likelier.models.adapter_loading import ROWS_MEND, load_adapter
from likelier.models.adapter_parts import adapters_own_modules, base_named, has_adapter, settings_of
from likelier.models.architectures import freeze_other_parts, outside_language
from likelier.models.layers import causal_model, value_head
from likelier.models.loading import DEMO_MODEL, converted, demo_model_folder, load_whole, quiet
from likelier.models.options import Dtype, LoraOptions
from likelier.utils.console import warn
from likelier.utils.errors import ConfigError, WrongReferenceError, whole_reason
from likelier.utils.files import local, require_utf8
from likelier.utils.terminal import busy


@dataclass
class Policy:
    """A model with its tokenizer, and how it was come by. `again` loads the same once more, where that is known."""

    model: Any
    tokenizer: Any
    name: str
    words: str
    autocast: bool = False
    chat: ChatOptions = field(default_factory=ChatOptions)
    again: Callable[[], Policy] | None = None

    def __post_init__(self) -> None:
        causal = causal_model(self.model)
        know_ends(self.tokenizer, getattr(causal, "generation_config", None), causal.config)

    @property
    def context(self) -> int | None:
        """The longest sequence that the model knows, in tokens."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def adapter_settings(self) -> dict[str, Any] | None:
        """What shapes a LoRA adapter besides its weights; None without one."""
        return settings_of(self.model) if has_adapter(self.model) else None

    @property
    def parameters(self) -> dict[str, int]:
        """How many weights there are, and how many of them are trained."""
        weights = list(self.model.parameters())
        trained = sum(weight.numel() for weight in weights if weight.requires_grad)
        return {"all": sum(weight.numel() for weight in weights), "trainable": trained}

    @property
    def precision(self) -> str:
        """What log-probabilities are computed in: part of a stored score's identity."""
        return "bfloat16-autocast" if self.autocast else str(self.model.dtype).removeprefix("torch.")

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the matrix products."""
        return torch.bfloat16 if self.autocast else self.model.dtype


def load_policy(
    name: str | Path,
    *,
    dtype: Dtype = "auto",
    lora: LoraOptions | None = None,
    seed: int = 42,
    chat: ChatOptions | None = None,
    empty: bool = False,
    values: bool = False,
) -> Policy:
    """Load a model to be trained or scored with.

    Args:
        name: a hub id, a folder with a model, a folder with an adapter (training goes on from it), a `.gguf` file, or
            `demo` for the built-in small model.
        dtype: `auto` takes bfloat16 arithmetic on CUDA and float32 elsewhere. All weights that are trained stay in
            float32, but with `pure-bfloat16`.
        lora: a new adapter's options; the base is then frozen.
        seed: of a new adapter's weights, and of a new head's.
        chat: how conversations become text; a template given here is saved with the policy.
        empty: leave the weights out. They come from the first rank when the model is sharded, so that a machine holds
            them once (see `sharding.shard_policy`).
        values: load a sequence classifier with one output, as a reward model is; a head that the files lack is drawn.

    Raises:
        ModelError: the model cannot be found or read.
    """
    name = str(name)
    require_utf8(name, "the model")
    lora = lora or LoraOptions()
    autocast, pure = use_bfloat16(dtype), dtype == "pure-bfloat16"
    _check_dtype(autocast, pure, lora)
    folder = str(demo_model_folder()) if name == DEMO_MODEL else name
    is_adapter, head_seed = (Path(folder) / "adapter_config.json").is_file(), seed if values else None
    with busy(f"loading {name}"), quiet():
        if is_adapter:
            if pure:
                raise ConfigError(f"{name} is an adapter, and dtype=pure-bfloat16 is for all weights; take bfloat16")
            if lora.lora_r is not None:
                raise ConfigError(f"{name} is an adapter and training goes on from it: drop lora_r, or merge it first")
            model, tokenizer = load_adapter(Path(folder), autocast, empty, head_seed)
            words = f"{name} (an adapter on {base_named(model)})"
        else:
            if folder.endswith(".gguf") and lora.lora_r is not None:
                folder = str(converted(Path(folder)))  # an adapter must name a base that others can load
            weights = torch.bfloat16 if pure or (autocast and lora.lora_r is not None) else torch.float32
            model, tokenizer = load_whole(folder, weights, lora.load_in_4bit, empty, head_seed)
            words = name
            if lora.lora_r is not None:
                model = add_lora(model, lora, seed)
                words = f"{name} with a new LoRA adapter of rank {lora.lora_r}"
    disable_dropout(model)
    parts = freeze_other_parts(model)
    if parts:
        words += f", its language part; {', '.join(parts)} stay as they are"
    set_template(tokenizer, chat := chat or ChatOptions())
    mend = {"mend": ROWS_MEND} if is_adapter else {}
    require_rows(tokenizer, embedding_rows(causal_model(model)), name, chat, **mend)
    again = partial(load_policy, name, dtype=dtype, seed=seed, chat=chat, empty=empty, values=values)
    return Policy(model, tokenizer, name, words, autocast, chat, None if lora.lora_r is not None else again)


def _check_dtype(autocast: bool, pure: bool, lora: LoraOptions) -> None:
    """Refuse a dtype that a new adapter cannot have, and warn of one that is slow here."""
    if pure and lora.lora_r is not None:
        raise ConfigError("dtype=pure-bfloat16 is for training all weights; with lora_r take bfloat16")
    if (autocast or pure) and not torch.cuda.is_available():
        warn("bfloat16 arithmetic on a CPU is often many times slower than float32; --dtype auto takes float32 here")


def set_template(tokenizer: Any, chat: ChatOptions) -> None:
    """Take the template that was named. Raises `ConfigError` for one that cannot be read, or arguments it ignores."""
    if chat.chat_template is not None:
        try:
            tokenizer.chat_template = local(chat.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"chat_template={chat.chat_template!r}: give a file with a Jinja template: {error}"
            ) from error
    template = tokenizer.chat_template
    check_date(template, chat)
    for name in chat.chat_template_kwargs or {}:
        if name not in str(template or ""):
            raise ConfigError(
                f"chat_template_kwargs: {name} has no effect, the chat template does not know it; drop it"
            )


def require_same_vocabulary(policy: Policy, reference: Policy) -> None:
    """Raises `WrongReferenceError` where the same token ids would mean other text to the reference."""
    if reference.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise WrongReferenceError(
            f"the reference {reference.name} has another vocabulary than the policy {policy.name}: the same token ids "
            "would mean other text. Name a reference with the policy's tokenizer"
        )


def use_bfloat16(dtype: Dtype) -> bool:
    """Whether matrix products run in bfloat16: where asked for, and by default where CUDA has it (Ampere and later;
    earlier GPUs emulate it, slower than float32).
    """
    if dtype == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return dtype == "bfloat16"


def precision_of(dtype: Dtype) -> str:
    """The `precision` of a policy that is loaded with this dtype here."""
    if use_bfloat16(dtype):
        return "bfloat16-autocast"
    return "bfloat16" if dtype == "pure-bfloat16" else "float32"


def add_lora(model: Any, lora: LoraOptions, seed: int) -> Any:
    """Put a new LoRA adapter on the model (on its language part, where it has others); its base is frozen."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    assert lora.lora_r is not None
    torch.manual_seed(seed)
    if lora.load_in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    filled = lora.filled
    targets = filled["lora_targets"]
    config = LoraConfig(
        r=lora.lora_r,
        lora_alpha=filled["lora_alpha"],
        lora_dropout=filled["lora_dropout"],
        target_modules=targets if targets == "all-linear" else targets.split(","),
        exclude_modules=outside_language(model),
        task_type="SEQ_CLS" if value_head(model) is not None else "CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"lora_targets={targets!r}: {whole_reason(error)}") from error


def disable_dropout(model: nn.Module) -> None:
    """Switch off the model's own dropout (an adapter's stays: it is on only where asked for)."""
    beside = adapters_own_modules(model)
    for module in model.modules():
        if module in beside:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute, value in list(vars(module).items()):
            if "dropout" in attribute and isinstance(value, float):
                setattr(module, attribute, 0.0)
