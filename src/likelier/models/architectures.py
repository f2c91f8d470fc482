"""Which of transformers' classes a checkpoint is loaded with, and which part of a model of several parts is language.

A vision-language (or audio) checkpoint is loaded whole, so that it is saved whole; only its language part is scored and
trained here, and the other parts are frozen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from likelier.models.layers import backbone_of, causal_model
from likelier.utils.errors import ModelError

_OTHER_TASKS = {
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "a sequence classifier",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "a token classifier",
    "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES": "a model that marks answers in a text",
    "MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES": "a multiple-choice model",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "a masked language model",
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": "an image classifier",
}
_HEAD = "score.weight"  # of a decoder that classifies, as transformers calls it
_WANTED = "likelier takes causal language models, also those with parts for pictures or sounds"


def auto_class(config: Any, name: str) -> Any:
    """The class of transformers' `Auto` kind that loads a checkpoint whole, by what its config says of itself.

    Raises `ModelError` for an encoder-decoder, a classifier and other models that write nothing from left to right.
    """
    import transformers

    plain, parted = _known_as(config, "CAUSAL_LM"), _known_as(config, "MULTIMODAL_LM")
    named = next(iter(config.architectures or ()), None)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name} is an encoder-decoder ({named or config.model_type}); {_WANTED}")
    if named not in (plain | parted):
        _refuse_other_tasks(config, named, name)
    if parted and (not plain or named in parted):
        return transformers.AutoModelForMultimodalLM
    if not plain:
        raise ModelError(f"{name} is a model of the kind {config.model_type}, which writes no text; {_WANTED}")
    return transformers.AutoModelForCausalLM


def classifier_class(config: Any, name: str) -> Any:
    """The class that loads a decoder with one number in the place of words. Raises `ModelError` for other models."""
    import transformers

    if not _known_as(config, "CAUSAL_LM") or not _known_as(config, "SEQUENCE_CLASSIFICATION"):
        raise ModelError(
            f"{name} is a model of the kind {config.model_type}, which transformers has no sequence classifier of that "
            "reads from left to right; take another model for rewards"
        )
    return transformers.AutoModelForSequenceClassification


def with_head(model: Any, found: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What a loaded classifier lacks besides its head, which is drawn where the files have none: normal, with a
    standard deviation of 1 / sqrt(width + 1), so that first scores are around 0 (arXiv 2403.17031).
    """
    missing = set(map(str, found.get("missing_keys") or ()))
    if _HEAD in missing:
        weight = model.score.weight
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        with torch.no_grad():
            weight.copy_(drawn / (weight.shape[1] + 1) ** 0.5)
        model._likelier_drawn_head = True
    return {"missing_keys": missing - {_HEAD}}


def require_trained_head(model: Any, name: str) -> None:
    """Raises `ModelError` for a loaded classifier whose head was drawn, and not brought by an adapter."""
    if getattr(causal_model(model), "_likelier_drawn_head", False) and not hasattr(model, "peft_config"):
        raise ModelError(
            f"{name} has no trained head for rewards ({_HEAD} is not in its files); name a run of --method reward, or "
            "another sequence classifier with one output"
        )


def _known_as(config: Any, what: str) -> set[str]:
    """transformers' classes of one kind for this type of model."""
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, f"MODEL_FOR_{what}_MAPPING_NAMES").get(config.model_type)
    return set(found) if isinstance(found, (list, tuple)) else {found} - {None}


def _refuse_other_tasks(config: Any, named: str | None, name: str) -> None:
    from transformers.models.auto import modeling_auto

    for mapping, words in _OTHER_TASKS.items():
        if named is not None and named in getattr(modeling_auto, mapping).values():
            mend = f" (as a reward: --reward model:{name})" if "SEQUENCE" in mapping else ""
            raise ModelError(f"{name} is {words} (architectures in its config.json: {named}){mend}; {_WANTED}")


def other_parts(model: nn.Module) -> list[str]:
    """Names, within the causal model, of what neither is nor holds the language part or the head: vision towers,
    projectors. Empty for an ordinary causal language model.
    """
    causal = causal_model(model)
    backbone = backbone_of(causal)
    if backbone is None or causal.config.get_text_config() is causal.config:
        return []
    language = {id(module) for part in (backbone, causal.get_output_embeddings()) if part for module in part.modules()}
    found: list[str] = []

    def look(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            own = f"{path}{name}"
            if any(id(inner) in language for inner in child.modules()):
                if id(child) not in language:
                    look(child, f"{own}.")
            elif any(True for _ in child.parameters()):
                found.append(own)

    look(causal, "")
    return found


def freeze_other_parts(model: nn.Module) -> list[str]:
    """Keep all but the language part as it is: without a gradient, weight decay would still move it. Returns what was
    frozen, as people call it (`vision_tower`, `multi_modal_projector`).
    """
    names = other_parts(model)
    for name in names:
        causal_model(model).get_submodule(name).requires_grad_(False)
    return [name.rpartition(".")[2] for name in names]


def outside_language(model: nn.Module) -> str | None:
    """A pattern of every module that an adapter must leave alone; None where there is none."""
    names = other_parts(model)
    return f"({'|'.join(map(re.escape, names))})(\\..*)?" if names else None


_PROCESSORS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def copy_processors(model: nn.Module, where: Path) -> None:
    """What turns pictures and sounds into a model's input is no part of its weights: the files that a checkpoint of
    several parts was loaded with are written beside what is saved of it. A link that leads out of its folder stays out.
    """
    if not other_parts(model):
        return
    from transformers.utils import cached_file

    source = str(causal_model(model).name_or_path)
    here = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False}
    for name in _PROCESSORS:
        found = cached_file(source, name, _raise_exceptions_for_connection_errors=False, **here)
        if found is not None and not _leads_out(Path(found), Path(source)) and not (where / name).exists():
            (where / name).write_bytes(Path(found).read_bytes())


def _leads_out(file: Path, folder: Path) -> bool:
    """Whether a file of a folder here is a link to elsewhere; the hub's own cache consists of links."""
    return folder.is_dir() and not file.resolve().is_relative_to(folder.resolve())
