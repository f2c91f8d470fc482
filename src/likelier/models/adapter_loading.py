"""An adapter's folder: what it may hold, the base that it names, and that base in the adapter's vocabulary."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from likelier.models.adapter_parts import ADAPTER, OwnBase, adapters_own_modules, once, parts_of
from likelier.models.loading import load_whole
from likelier.models.safe_loading import check_adapter_folder, read_tokenizer, reading, say_what_a_file_names, try_out
from likelier.utils.errors import LikelierError, ModelError, whole_reason
from likelier.utils.strict_json import BrokenJson, parse_json

_PREFIX = "base_model.model."  # of names in an adapter's file
_WRAPPERS = {"base_layer", "original_module", "token_adapter"}  # peft's own, within the names of weights of the base
_KEEPS_BASE = (True, False, "gaussian", "orthogonal", "eva")  # initialisations that leave the base as it is
ROWS_MEND = (
    "save it again with its rows (peft: modules_to_save with the embedding and the head, or save_pretrained with "
    "save_embedding_layers=True), or merge it where it was trained"
)


def load_adapter(folder: Path, autocast: bool, empty: bool, head_seed: int | None = None) -> tuple[Any, Any]:
    """An adapter on its base model, to be trained on, and the tokenizer. `head_seed` as `load_whole`. Raises
    `ModelError`.

    Where the adapter brings rows of a vocabulary of another size, the base is resized to it first.
    """
    settings = _settings(folder)
    _require_kind(folder, settings, values=head_seed is not None)
    base = str(settings["base_model_name_or_path"])
    check_adapter_folder(folder)
    say_what_a_file_names(base, f"{folder}/adapter_config.json")
    try:
        dtype = torch.bfloat16 if autocast else torch.float32
        model, tokenizer = load_whole(base, dtype, empty=empty, head_seed=head_seed)
    except ModelError as error:
        raise ModelError(f"the base model of {folder}, which its adapter_config.json names: {error}") from error
    with _fitting(folder, base):
        model = _put_on(model, folder, settings)
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = _own_tokenizer(folder, model)
    return model, tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    """Its adapter_config.json, of a kind that is known here."""
    try:
        settings = parse_json((folder / "adapter_config.json").read_bytes())
    except BrokenJson as error:
        raise ModelError(f"{folder}/adapter_config.json: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{folder}/adapter_config.json is damaged: it must hold names and values")
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{folder} holds an adapter of the kind {kind}; only LoRA adapters are known here. Merge it into its "
            "base with peft, and take the merged model"
        )
    base = settings.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ModelError(f"{folder}/adapter_config.json does not name its base model (base_model_name_or_path)")
    if settings.get("alora_invocation_tokens") is not None:
        raise ModelError(f"{folder} is an adapter that some tokens switch on (aLoRA), which is not known here")
    for name in _unknown_variants(settings):
        raise ModelError(
            f"{folder} is a LoRA adapter with {name}, which is not known here. Merge it into its "
            "base with peft, and take the merged model"
        )
    return settings


def _require_kind(folder: Path, settings: dict[str, Any], *, values: bool) -> None:
    """peft would leave out the head that one kind has, and would not train the one that the other needs."""
    has_head = settings.get("task_type") == "SEQ_CLS" or "score" in (settings.get("modules_to_save") or ())
    if has_head and not values:
        raise ModelError(
            f"{folder} is an adapter that makes a reward model of its base, and writes no text; take it as a reward "
            f"(--reward model:{folder}), or name another model"
        )
    if values and not has_head:
        raise ModelError(
            f"{folder} is an adapter without a head for rewards, and a head would not be trained with it; merge it "
            "into its base (likelier merge), and take the merged model"
        )


def _unknown_variants(settings: dict[str, Any]) -> Iterator[str]:
    """What changes how a LoRA adapter computes, or which layers its base has; as peft marks it."""
    from peft import LoraConfig

    for one in fields(LoraConfig):
        if one.metadata.get("is_lora_variant") and one.name != "use_dora" and settings.get(one.name):
            yield one.name
        if settings.get(one.name) in one.metadata.get("lora_variants", ()):
            yield f"{one.name}={settings[one.name]}"
    if str(settings.get("init_lora_weights")).startswith("pissa_niter"):
        yield f"init_lora_weights={settings['init_lora_weights']} (its base cannot be had again: it is drawn at random)"
    if settings.get("layer_replication"):
        yield "layer_replication (layers of its base that are used twice)"


@contextmanager
def _fitting(folder: Path, base: str) -> Iterator[None]:
    """peft raises errors of every kind where the settings or weights are damaged. Raises `ModelError`."""
    try:
        yield
    except LikelierError:
        raise
    except Exception as error:
        raise ModelError(f"{folder} does not fit its base model {base}: {whole_reason(error)}") from error


def _put_on(model: Any, folder: Path, settings: dict[str, Any]) -> Any:
    """The adapter on its base, with what it writes over kept as the base had it."""
    from peft import PeftModel

    shapes = _shapes(folder / "adapter_model.safetensors")
    init = settings.get("init_lora_weights", True)
    rows, wanted = _rows(model), _wanted_rows(model, shapes, settings)
    names = set(shapes) | (_embedding_names(model) if wanted != rows else set())
    own = OwnBase(_kept(model, None if init not in _KEEPS_BASE else names))
    if wanted != rows:
        own.config = deepcopy(model.config)
        _resize(model, wanted)
    draws = torch.random.fork_rng(devices=[]) if init not in _KEEPS_BASE else nullcontext()
    with draws, warnings.catch_warnings():
        if init not in _KEEPS_BASE:
            torch.manual_seed(0)  # some of them draw, and the base must be the same one each time
        warnings.filterwarnings("error", message="Found missing adapter keys")
        model = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    if own.config is not None:
        _require_rows(model, rows, folder)
    _without_dropout(model)
    _train_in_float32(model)
    own.tensors = _written_over(model, own.tensors)
    model._likelier_base = own
    return model


def _shapes(file: Path) -> dict[str, list[int]]:
    """The shapes of what an adapter's file holds, under the names of the base where they are weights of it."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        found = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118  (no mapping)
    return {_plain(name): shape for name, shape in found.items()}


def _plain(name: str) -> str:
    return ".".join(part for part in name.removeprefix(_PREFIX).split(".") if part not in _WRAPPERS)


def _kept(model: nn.Module, names: set[str] | None) -> dict[str, Tensor]:
    """Copies of the base's weights of these names (None: of all), each under the first of its names."""
    first = {id(weight): name for name, weight in model.named_parameters()}
    named = model.named_parameters(remove_duplicate=False)
    wanted = {first[id(weight)]: weight for name, weight in named if names is None or name in names}
    return {name: weight.detach().clone() for name, weight in wanted.items()}


def _written_over(model: Any, kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the base's weights as they were, those that the adapter changed or will train; all trained ones of the base.

    Of a model without weights nothing is known.
    """
    found = {}
    for part in once(part for part in parts_of(model) if part.kind != "adapter"):
        before = kept.get(part.plain)
        if part.tensor.is_meta:
            continue
        if before is None:
            if part.tensor.requires_grad:  # a bias that the file lacks
                found[part.plain] = part.tensor.detach().clone()
        elif part.tensor.requires_grad or before.shape != part.tensor.shape or not torch.equal(before, part.tensor):
            found[part.plain] = before
    return found


def _without_dropout(model: Any) -> None:
    """Dropout is on only where this run asks for it."""
    for module in adapters_own_modules(model):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.peft_config[ADAPTER].lora_dropout = 0.0


def _train_in_float32(model: nn.Module) -> None:
    """As peft does with its own weights: whole modules and biases come in the base's dtype."""
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype in (torch.bfloat16, torch.float16):
            weight.data = weight.data.float()


# --- the vocabulary ---------------------------------------------------------------------------------------------------


def _rows(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[0]


def _wanted_rows(model: Any, shapes: dict[str, list[int]], settings: dict[str, Any]) -> int:
    """The rows of the embedding on which the adapter was trained: the base's, where it does not tell."""
    names = {name.removesuffix(".weight") for name in _embedding_names(model)}
    told = {shapes[f"{name}.weight"][0] for name in names if f"{name}.weight" in shapes}
    told |= {shapes[f"{name}.lora_embedding_A"][1] for name in names if f"{name}.lora_embedding_A" in shapes}
    if len(told) > 1:
        raise ValueError(f"its embedding and its head have different numbers of rows ({sorted(told)})")
    if told:
        return told.pop()
    trained = settings.get("trainable_token_indices") or ()
    ids = [token for one in (trained.values() if isinstance(trained, dict) else [trained]) for token in one]
    return max([_rows(model), *(token + 1 for token in ids)])


def _embedding_names(model: Any) -> set[str]:
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    own = {id(weight) for layer in layers if layer is not None for weight in layer.parameters(recurse=False)}
    return {name for name, weight in model.named_parameters(remove_duplicate=False) if id(weight) in own}


def _resize(model: Any, wanted: int) -> None:
    """Give the base as many rows as the adapter's embedding has. The new ones, which must come with the adapter, hold
    no number until then.
    """
    rows = _rows(model)
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(wanted, mean_resizing=False)
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name in _embedding_names(model):
        weights[name].data[rows:] = torch.nan


def _require_rows(model: Any, rows: int, folder: Path) -> None:
    """Raises `ModelError` where the adapter did not bring all the rows that its base lacks."""
    causal = model.get_base_model()
    names = {module: name for name, module in causal.named_modules()}
    for layer in (causal.get_input_embeddings(), causal.get_output_embeddings()):
        weights = (layer.weight, getattr(layer, "bias", None))
        if any(bool(weight[rows:].isnan().any()) for weight in weights if weight is not None and not weight.is_meta):
            raise ModelError(
                f"{folder} was trained with a vocabulary of {len(layer.weight)} tokens, its base model has {rows}, and "
                f"the adapter does not bring the rows of the others for {names[layer]}; {ROWS_MEND}"
            )
    for part in parts_of(model):  # what the adapter's own rows stand for is never used, and must not be saved so
        if part.kind != "adapter" and part.tensor.is_floating_point() and len(part.tensor) == len(layer.weight):
            part.tensor.data.nan_to_num_(0.0)


def _own_tokenizer(folder: Path, model: Any) -> Any:
    """The adapter's tokenizer; whether the model has rows for what it writes is `vocabulary.require_rows`' question."""
    with reading(str(folder), "a tokenizer"):
        tokenizer = read_tokenizer(str(folder))
        try_out(tokenizer, model.config)
    return tokenizer
