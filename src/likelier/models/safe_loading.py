"""What may be loaded of a model: weights as safetensors (or GGUF), and no code that it brings along.

Weights in PyTorch's own format are pickled: reading them can run anything. transformers reads them with care
(`weights_only`); here they are not read at all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from likelier.utils.console import say
from likelier.utils.errors import LikelierError, ModelError, whole_reason
from likelier.utils.files import local
from likelier.utils.shell import quoted

_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors")
_HUB_ID = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OF_OTHERS = "brings Python code of its own, which likelier never runs"
_MEND = "take a model that transformers knows by itself, or convert it to one where you trust its code"

_AT_HAND = {"eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm"}  # in torch and transformers
_PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}

# transformers would ask a stranger's Space on the hub to convert a model that has no safetensors, and fetch compiled
# code for some models where the package kernels is installed.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
os.environ.setdefault("USE_HUB_KERNELS", "NO")


def check_model_folder(folder: Path, name: str) -> None:
    """Raises `ModelError` for a folder whose weights are no safetensors, or whose index names files that are none."""
    if not any(folder.glob("*.safetensors")):
        pickled = next((file.name for kind in _PICKLED for file in sorted(folder.glob(kind))), None)
        if pickled is None:
            raise ModelError(f"{name} holds no weights (*.safetensors); give a folder written by save_pretrained")
        raise _pickled_weights(name, pickled, folder, "transformers", "AutoModelForCausalLM")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _read(index).get("weight_map")
        for shard in shards.values() if isinstance(shards, Mapping) else [shards]:
            if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
                raise ModelError(f"{index} names {shard!r} as a file of weights; it must be a *.safetensors beside it")


def check_adapter_folder(folder: Path) -> None:
    """Raises `ModelError` for an adapter whose weights are no safetensors."""
    if (folder / "adapter_model.safetensors").is_file():
        return
    pickled = next((file.name for file in sorted(folder.glob("adapter_model.*"))), None)
    if pickled is None:
        raise ModelError(f"{folder} holds no adapter weights (adapter_model.safetensors)")
    raise _pickled_weights(folder, pickled, folder, "peft", "AutoPeftModelForCausalLM")


def check_config(where: str, name: str) -> None:
    """Raises `ModelError` for an adapter, on which transformers would quietly load another model, and for a model whose
    config.json asks for attention code of the hub, or for other weights than safetensors.

    `where` is a folder or a hub id; what transformers raises for one that cannot be read passes.
    """
    from transformers import PreTrainedConfig
    from transformers.utils import find_adapter_config_file

    if find_adapter_config_file(where) is not None:
        raise ModelError(
            f"{name} is an adapter and cannot be loaded as a whole model; give the folder of an adapter on this disk "
            "(hf download gets one from the hub), or merge it into its base first"
        )
    settings, _ = PreTrainedConfig.get_config_dict(where)
    weights = settings.get("transformers_weights")
    if weights is not None and not str(weights).endswith((".safetensors", ".safetensors.index.json")):
        raise ModelError(f"{name}: config.json names {weights!r} as its weights; only safetensors are loaded")
    for value in _implementations(settings):
        if not _is_at_hand(value):
            raise ModelError(
                f"{name}: config.json asks for the code {value!r} of the hub, which likelier does not fetch; take that "
                "line out of config.json"
            )


def _implementations(settings: Any) -> Iterator[str]:
    """Every attention or expert implementation that a configuration names, of its parts too."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if "attn_implementation" in str(key) or "experts_implementation" in str(key):
                yield from _leaves(value)
            else:
                yield from _implementations(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _implementations(value)


def _leaves(value: Any) -> Iterator[str]:
    """The names within a value that may be one, or one for each part."""
    if isinstance(value, (Mapping, list)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value


def _is_at_hand(implementation: str) -> bool:
    """Whether torch, transformers or an installed package has it: for others transformers asks the hub, by a name such
    as `someone/kernel`, or by one of its own (`flash_attention_2` without flash_attn, `sonicmoe`).
    """
    package = _PACKAGES.get(implementation)
    return implementation in _AT_HAND or (package is not None and find_spec(package) is not None)


def read_config(where: str, name: str, more: Mapping[str, Any] | None = None) -> Any:
    """A model's configuration, once `check_config` has passed it: every command reads configurations here.

    `more` is what transformers must be told besides (a GGUF file's name). Raises `ModelError`, and within `reading`
    whatever transformers raises.
    """
    from transformers import AutoConfig

    _fetch_no_kernels()
    if not more:
        check_config(where, name)
    return AutoConfig.from_pretrained(where, trust_remote_code=False, **(more or {}))


def read_generation(where: str, config: Any) -> Any:
    """A model's generation config, or what transformers makes of its config where it has none. To be called within
    `reading`: a damaged file is an error, which transformers passes over.
    """
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(where)
    except OSError:
        if (Path(where) / "generation_config.json").is_file():
            raise
        return GenerationConfig.from_model_config(config)


def read_tokenizer(where: str, more: Mapping[str, Any] | None = None) -> Any:
    """A tokenizer without code of its own: every command reads tokenizers here. To be called within `reading`."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(where, trust_remote_code=False, **(more or {}))


def _fetch_no_kernels() -> None:
    """What a model's code asks for while it is built or runs (for its quantization, or its experts) is refused too.

    The variable of the environment is without effect where transformers was imported before.
    """
    from transformers.integrations import hub_kernels

    hub_kernels._kernels_enabled = False

    def refuse(kernel: str, *args: Any, **others: Any) -> Any:
        raise ImportError(f"the model asks for the code {kernel} of the hub, which likelier does not fetch")

    hub_kernels.get_kernel_hub = refuse


def loading_failed(name: str, what: str, error: BaseException) -> str:
    """Why a model cannot be loaded, in one line."""
    if "custom code" in str(error) or "trust_remote_code" in str(error):
        return f"{name} {_OF_OTHERS} (auto_map in its config.json or tokenizer_config.json); {_MEND}"
    first = whole_reason(error)
    if isinstance(error, KeyError):
        first = f"an entry {first} is missing in its files"
    if local(name).exists():
        return f"{name} cannot be loaded as {what}: {first}. If it is damaged, save it or get it again"
    return f"{name} cannot be loaded as {what}: no folder {name} here, and as a hub id: {first}"


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Around what transformers, tokenizers and peft make of a model's files: of damaged ones they raise errors of every
    kind. Raises `ModelError`.
    """
    try:
        yield
    except LikelierError:
        raise
    except Exception as error:
        raise ModelError(loading_failed(name, what, error)) from error


def require_every_weight(found: Mapping[str, Any]) -> None:
    """Raises `ValueError` for weights that the files lack, which transformers would make up, and only say so."""
    lacking = sorted(map(str, found.get("missing_keys") or ()))
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ValueError(f"its files lack the weights {lacking[0]}{more}, which would be drawn at random")


def try_out(tokenizer: Any, config: Any) -> None:
    """A tokenizer and a configuration can be read and yet hold values that fail later: they are asked here, within
    `reading`, what is asked of them later on. Raises whatever they raise, and `ValueError`.
    """
    tokenizer("a")
    tokenizer.decode([0])
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is not None and (type(context) is not int or context < 1):
        raise ValueError(f"max_position_embeddings is {context!r} in config.json; it must be a whole number above 0")


def say_what_a_file_names(name: str, file: str) -> None:
    """Before the network is used for a name that stands in a file and was not typed: say so."""
    if name != "demo" and _HUB_ID.fullmatch(name) and not Path(name).exists():
        say(f"{file} names {name}, which is no folder here: it is taken from the hub's cache, or from the hub")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it must hold names and values")
    return content


def _pickled_weights(name: object, file: str, folder: Path, library: str, kind: str) -> ModelError:
    place = ascii(str(folder))
    code = f"import {library}; {library}.{kind}.from_pretrained({place}).save_pretrained({place})"
    return ModelError(
        f"{name} holds its weights in {file}, and reading such a file can run any code; only safetensors are loaded. "
        f"If you trust it, convert it:\n  python -c {quoted(code)}"
    )
